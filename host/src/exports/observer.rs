//! Telling somebody what happens to exports.

use std::fmt;
use std::sync::OnceLock;

use super::{Export, State};

/// Something that happened to an export.
#[derive(Clone, Debug)]
pub enum Change {
    /// Clients find the export from now on.
    Added,
    /// The export is not in the registry any more.
    Removed,
    /// An attempt to open the disk has ended: in [`State::Live`], [`State::Closed`] or
    /// [`State::Failed`].
    State(State),
    /// The export was pointed at another device.
    Replaced {
        /// How often that was done.
        generation: u64,
    },
}

/// A function that is told what happens to exports. It is called in the order of the changes, with
/// locks held, so it must be quick, and must not use the exports.
pub type Observe = Box<dyn Fn(&Export, Change) + Send + Sync>;

/// The observer of a registry's exports, if there is one.
#[derive(Default)]
pub(super) struct Observer(OnceLock<Observe>);

impl Observer {
    /// Sets the function. The first call of this method counts.
    pub(super) fn set(&self, observe: Observe) {
        let _ = self.0.set(observe);
    }

    pub(super) fn tell(&self, export: &Export, change: Change) {
        if let Some(observe) = self.0.get() {
            observe(export, change);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.get().is_some()).finish()
    }
}
