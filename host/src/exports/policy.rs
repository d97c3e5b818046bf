//! What an export demands of its clients.

use std::sync::Arc;
use std::time::Duration;

use crate::access::{Access, Origin};
use crate::budget::Budget;
use crate::places::{Full, Place, Places};
use crate::rate::{Limits, Scope};

/// What an export demands of its clients. Several exports can share it.
#[derive(Clone, Default)]
pub struct Policy {
    /// Who may use it: whom all of these permit.
    pub access: Vec<Arc<Access>>,
    /// The places for its connections, besides those of the server; without a limit if `None`.
    pub places: Option<Places>,
    /// How long a connection may last; without a limit if `None`.
    pub time_limit: Option<Duration>,
    /// How long a client waits before it gets the export, and before its connection is closed after it has
    /// asked for that. A client waits for neither when the server stops.
    pub delays: Delays,
    /// Whether clients must use TLS, where the server has it.
    pub tls: bool,
    /// The limits of what clients transfer and request in a second.
    pub limits: Arc<Limits>,
    /// The same for several exports together, if there are such limits.
    pub shared_limits: Option<Arc<Limits>>,
    /// What the size of the disk is charged to from when it is first opened until the export is gone, if such
    /// sizes are limited. The disk is not opened if there is too little left.
    pub sizes: Option<Budget>,
}

/// How long clients of an export wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Before the transmission phase.
    pub open: Duration,
    /// Before the connection is closed.
    pub close: Duration,
}

impl Policy {
    /// Returns true if the export is for this client.
    pub(crate) fn permits(&self, origin: &Origin) -> bool {
        self.access.iter().all(|access| access.permits(origin))
    }

    /// Returns this policy with the demands of another one. The limits and places stay the same, and are
    /// changed, so they apply to clients that are connected already.
    pub(super) fn changed_to(&self, next: Self) -> Self {
        for scope in [Scope::Export, Scope::Connection] {
            self.limits.set(scope, next.limits.rates(scope));
        }
        let places = match (&self.places, next.places) {
            (Some(places), next) => {
                places.set_most(next.map_or(u64::MAX, |next| next.most()));
                Some(places.clone())
            }
            (None, next) => next,
        };
        Self { places, limits: self.limits.clone(), ..next }
    }

    /// Takes a place for a connection, if they are limited.
    pub(crate) fn try_enter(&self) -> Result<Option<Place>, Full> {
        self.places.as_ref().map(|places| places.try_enter().ok_or(Full)).transpose()
    }
}
