//! Whose disks an NBD client gets.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use memnbd::connection::{Entrance, Identity};
use memnbd::device::guest::GuestTime;
use memnbd::exports::Exports;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::tokens::{Role, Tokens};
use super::ways::Ways;

/// The most connections to the API with tokens of one tenant: they leave some to the others.
const MAX_SEATS: usize = 64;

/// How many requests with tokens of one tenant are handled in a second, and how many at once after a pause.
const REQUESTS: NonZeroU32 = NonZeroU32::new(200).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(400).unwrap();

/// The ways of NBD clients to tenants, and the tokens of all.
#[derive(Default)]
pub(crate) struct Entries {
    pub(super) ways: Ways,
    pub(crate) tokens: Tokens,
    open: RwLock<HashMap<String, Open>>,
}

/// A tenant whose clients are let in.
struct Open {
    exports: Weak<Exports>,
    /// The places of those who use the API with its tokens.
    seats: Arc<Semaphore>,
    pace: Arc<DefaultDirectRateLimiter>,
    /// The share of its components in the processors.
    time: GuestTime,
}

/// Why there is no place for a connection to the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSeat {
    /// All are taken.
    Full,
    /// The tenant is gone.
    Gone,
}

impl Entries {
    /// Lets clients in to the exports of a tenant.
    pub(crate) fn open(&self, tenant: &str, exports: &Arc<Exports>, time: GuestTime) {
        let seats = Arc::new(Semaphore::new(MAX_SEATS));
        let quota = Quota::per_second(REQUESTS).allow_burst(BURST);
        let pace = Arc::new(RateLimiter::direct(quota));
        let open = Open { exports: Arc::downgrade(exports), seats, pace, time };
        let mut all = self.open.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(tenant.to_owned(), open);
    }

    /// Takes a place for a connection to the API with a token of a tenant.
    ///
    /// # Errors
    ///
    /// Returns an error if the tenant has as many as it may, or is gone.
    pub(crate) fn take_seat(&self, tenant: &str) -> Result<OwnedSemaphorePermit, NoSeat> {
        let all = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let seats = all.get(tenant).map(|open| open.seats.clone()).ok_or(NoSeat::Gone)?;
        seats.try_acquire_owned().map_err(|_| NoSeat::Full)
    }

    /// Lets no clients in any more, and forgets the tokens of the tenant.
    pub(super) fn close(&self, tenant: &str) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        self.ways.remove(tenant);
        self.tokens.remove_tenant(tenant);
    }

    /// Waits until a request with a token of a tenant may be handled. Those who wait are as few as there are
    /// places for connections.
    pub(crate) async fn wait_turn(&self, tenant: &str) {
        let pace = {
            let all = self.open.read().unwrap_or_else(PoisonError::into_inner);
            all.get(tenant).map(|open| open.pace.clone())
        };
        if let Some(pace) = pace {
            pace.until_ready().await;
        }
    }

    /// Waits until the components of a tenant used no more of the processors than they may.
    pub(crate) async fn wait_for_time(&self, tenant: &str) {
        let time = {
            let all = self.open.read().unwrap_or_else(PoisonError::into_inner);
            all.get(tenant).map(|open| open.time.clone())
        };
        if let Some(time) = time {
            time.wait().await;
        }
    }

    fn of(&self, tenant: &str) -> Option<Arc<Exports>> {
        let all = self.open.read().unwrap_or_else(PoisonError::into_inner);
        all.get(tenant).and_then(|open| open.exports.upgrade())
    }
}

impl Entrance for Entries {
    fn exports(&self, client: &Identity<'_>) -> Option<Arc<Exports>> {
        let tenant = self.ways.tenant(client)?;
        // Whoever is of a tenant that is being removed gets nothing, and not what others get.
        Some(self.of(&tenant).unwrap_or_else(|| Arc::new(Exports::in_namespace(&tenant))))
    }

    fn exports_by_name<'a>(&self, name: &'a str) -> Option<(Arc<Exports>, &'a str)> {
        let (secret, disk) = name.split_once('/')?;
        let holder = self.tokens.find(secret).filter(|holder| holder.role == Role::Connect)?;
        Some((self.of(&holder.tenant)?, disk))
    }
}
