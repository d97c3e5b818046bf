//! Other names of a disk: exports that serve the device of another one.
//!
//! An export by another name has a policy of its own and may refuse writes, but the device, and all that is
//! done with it, are those of the main export. Its connections have their ports among the main export's, so
//! whoever holds back or replaces the device reaches the clients of all names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Export;
use super::phase::Phase;

/// What makes an export another name of a disk.
pub(super) struct OtherName {
    /// The export whose disk it is.
    pub(super) main: Arc<Export>,
    /// Clients must not write.
    pub(super) read_only: bool,
    /// The main export counts it.
    counted: AtomicBool,
}

impl OtherName {
    fn new(main: Arc<Export>, read_only: bool) -> Self {
        main.other_names.fetch_add(1, Ordering::Relaxed);
        Self { main, read_only, counted: AtomicBool::new(true) }
    }

    /// Says that the main export may be removed as far as this name is concerned.
    fn release(&self) {
        if self.counted.swap(false, Ordering::Relaxed) {
            self.main.other_names.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for OtherName {
    fn drop(&mut self) {
        self.release();
    }
}

impl Export {
    /// Creates an export of the same disk by another name. Its clients share the device with those of the
    /// others: they see each other's writes, and a flush by one is for all. The account is shared as well;
    /// the policy is a new one. The main export cannot be removed before it.
    ///
    /// Returns `None` if each client of the export has a disk of its own.
    pub fn by_another_name(self: &Arc<Self>, name: &str, read_only: bool) -> Option<Arc<Self>> {
        let main = self.main().unwrap_or(self);
        if main.is_private() {
            return None;
        }
        let read_only = read_only || self.is_read_only();
        Some(Self::of_main(name, OtherName::new(main.clone(), read_only)))
    }

    /// Returns the export whose disk this one serves by another name, if it does.
    pub fn main(&self) -> Option<&Arc<Self>> {
        self.other_name.as_ref().map(|other| &other.main)
    }

    /// Returns true if there are exports of the disk by other names.
    pub fn has_other_names(&self) -> bool {
        self.other_names.load(Ordering::Relaxed) > 0
    }

    /// Returns true if clients must not write, whatever the device is.
    pub(crate) fn is_read_only(&self) -> bool {
        self.other_name.as_ref().is_some_and(|other| other.read_only)
    }

    /// Closes the name for good. Requests under way have until `limit` to finish; then its clients are
    /// disconnected. The disk stays.
    pub(super) async fn close_name(&self, other: &OtherName, limit: Duration) {
        // In turn with those who replace the device.
        let replacing = other.main.ports().replacing().await;
        self.status.send_modify(|status| status.phase = Phase::Gone);
        replacing.end_of(self.id(), limit).await;
        other.release();
    }

    /// Returns true unless it is a name that was removed.
    pub(super) fn has_name(&self) -> bool {
        !matches!(self.status.borrow().phase, Phase::Gone)
    }
}
