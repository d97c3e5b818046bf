//! Files that the process must not leave behind, however it ends.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use memnbd::server::OwnedFile;

/// The files to remove before the process ends.
#[derive(Clone, Default)]
pub(super) struct Leftovers(Arc<Mutex<Vec<Weak<OwnedFile>>>>);

impl Leftovers {
    pub(super) fn add(&self, file: &Arc<OwnedFile>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(file));
    }

    /// Removes the files that are still there.
    pub(super) fn remove(&self) {
        let files = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        files.iter().filter_map(Weak::upgrade).for_each(|file| file.remove());
    }
}
