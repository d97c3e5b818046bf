//! The registry of a server's exports.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::Export;
use crate::block::ErrorCode;

/// The exports of a server, to which others may be added while it runs, and from which they may be
/// removed.
#[derive(Default)]
pub struct Exports(RwLock<List>);

#[derive(Default)]
struct List {
    /// In the order in which they were added.
    list: Vec<Arc<Export>>,
    by_name: HashMap<String, Arc<Export>>,
    /// The name of the first that was added, which the empty name stands for. That does not change when
    /// the export is removed: clients that name none must not end up with another's disk.
    default: Option<String>,
}

impl Exports {
    /// Creates a registry of these exports.
    ///
    /// # Errors
    ///
    /// Returns an error if two exports have the same name.
    pub fn new(list: impl IntoIterator<Item = Arc<Export>>) -> Result<Self, DuplicateName> {
        let exports = Self::default();
        list.into_iter().try_for_each(|export| exports.add(export))?;
        Ok(exports)
    }

    /// Creates a registry of a single export.
    pub fn only(export: Arc<Export>) -> Self {
        let exports = Self::default();
        // There is no other name.
        let _ = exports.add(export);
        exports
    }

    /// Adds an export. Clients find it from now on.
    ///
    /// # Errors
    ///
    /// Returns an error if there is an export of this name.
    pub fn add(&self, export: Arc<Export>) -> Result<(), DuplicateName> {
        let mut list = self.write();
        let name = export.name().to_owned();
        if list.by_name.contains_key(&name) {
            return Err(DuplicateName(name));
        }
        list.default.get_or_insert_with(|| name.clone());
        list.list.push(export.clone());
        list.by_name.insert(name, export);
        Ok(())
    }

    /// Removes an export, as [`Handle::remove`](crate::server::Handle::remove) does. The name is taken
    /// until then. The future must not be dropped before it completes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such export, or if its disk could not be flushed.
    pub(crate) async fn remove(&self, name: &str, limit: Duration) -> Result<(), NotRemoved> {
        // The empty name is that of an export which has no other.
        let found = self.find(name).filter(|export| export.name() == name);
        let export = found.ok_or(NotRemoved::Unknown)?;
        let closed = export.close(limit).await;
        self.write().forget(&export);
        closed.map_err(NotRemoved::Unflushed)
    }

    /// Returns the export that a client requests by this name.
    pub fn find(&self, name: &str) -> Option<Arc<Export>> {
        let list = self.read();
        let found = match list.by_name.get(name) {
            None if name.is_empty() => list.by_name.get(list.default.as_ref()?),
            found => found,
        };
        found.filter(|export| export.may_be_used()).cloned()
    }

    /// Returns the exports, in the order in which they were added.
    pub fn list(&self) -> Vec<Arc<Export>> {
        let list = self.read();
        list.list.iter().filter(|export| export.may_be_used()).cloned().collect()
    }

    /// Returns those that are being removed, too.
    pub(crate) fn all(&self) -> Vec<Arc<Export>> {
        self.read().list.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, List> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, List> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn forget(&mut self, export: &Arc<Export>) {
        let is_other = |present: &Arc<Export>| !Arc::ptr_eq(present, export);
        self.list.retain(is_other);
        self.by_name.retain(|_, present| is_other(present));
    }
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list().iter().map(|export| export.name())).finish()
    }
}

/// Two exports have this name.
#[derive(Debug, PartialEq, Eq)]
pub struct DuplicateName(pub String);

impl fmt::Display for DuplicateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two exports have the name {:?}", self.0)
    }
}

impl std::error::Error for DuplicateName {}

/// Why an export was not removed as it should be.
#[derive(Debug, PartialEq, Eq)]
pub enum NotRemoved {
    /// There is no export of this name, or it is being removed already.
    Unknown,
    /// The export was removed, but its disk could not be flushed.
    Unflushed(ErrorCode),
}

impl fmt::Display for NotRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is no export of this name"),
            Self::Unflushed(error) => {
                write!(f, "removed, but not flushed, so data may be lost: {error:?}")
            }
        }
    }
}

impl std::error::Error for NotRemoved {}
