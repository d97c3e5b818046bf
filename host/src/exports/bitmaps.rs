//! Dirty bitmaps of an export: what was changed since a snapshot.

use crate::device::snapshot::Mark;

/// The dirty bitmaps that an export offers to clients: one for each snapshot from which its disk descends. An
/// export with these, even if there are none now, also offers the metadata context `qemu:allocation-depth`.
pub trait Bitmaps: Send + Sync {
    /// Returns true if there is one of this name.
    fn exists(&self, name: &str) -> bool;

    /// Returns the names of at most `most` of them.
    fn names(&self, most: usize) -> Vec<String>;

    /// Returns what tells whether bytes were changed since the snapshot of this name, if there is one.
    fn find(&self, name: &str) -> Option<Mark>;
}
