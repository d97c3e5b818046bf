//! Dirty bitmaps for NBD clients: one for each snapshot from which a disk descends.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use memnbd::device::snapshot::{Mark, Snapshot};
use memnbd::exports::{Bitmaps, Export};

use super::catalog::Catalog;

/// The bitmaps of a disk.
struct DiskBitmaps {
    catalog: Weak<Mutex<Catalog>>,
    /// The name of the disk.
    disk: String,
}

/// Offers the clients of a disk of this name its bitmaps.
pub(super) fn offer(export: &Export, disk: &str, catalog: &Arc<Mutex<Catalog>>) {
    let catalog = Arc::downgrade(catalog);
    export.offer_bitmaps(Arc::new(DiskBitmaps { catalog, disk: disk.to_owned() }));
}

impl DiskBitmaps {
    /// Calls a function with the catalog and the snapshot from which the disk descends, if it does.
    fn with<T>(&self, call: impl FnOnce(&mut Catalog, &Snapshot) -> T) -> Option<T> {
        let catalog = self.catalog.upgrade()?;
        let mut catalog = catalog.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = catalog.disk(&self.disk)?.chain.volume().origin()?;
        Some(call(&mut catalog, &origin))
    }
}

impl Bitmaps for DiskBitmaps {
    fn exists(&self, name: &str) -> bool {
        let exists = self.with(|catalog, origin| {
            let taken = catalog.snapshots().get(name);
            taken.is_some_and(|taken| taken.snapshot.is_ancestor_of(origin))
        });
        exists.unwrap_or(false)
    }

    /// The last snapshots come first.
    fn names(&self, most: usize) -> Vec<String> {
        let names = self.with(|catalog, origin| {
            let all = catalog.snapshots().iter();
            let mut of_disk: Vec<(Instant, &String)> = all
                .filter(|(_, taken)| taken.snapshot.is_ancestor_of(origin))
                .map(|(name, taken)| (taken.at, name))
                .collect();
            of_disk.sort_by(|one, other| other.cmp(one));
            of_disk.into_iter().take(most).map(|(_, name)| name.clone()).collect()
        });
        names.unwrap_or_default()
    }

    fn find(&self, name: &str) -> Option<Mark> {
        self.with(|catalog, origin| {
            let taken = catalog.snapshots().get(name)?;
            taken.snapshot.is_ancestor_of(origin).then(|| taken.snapshot.mark())
        })?
    }
}
