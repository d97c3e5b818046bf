//! The namespaces of a server: sets of exports that do not know of each other.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exports::{Export, Exports};

/// All exports of a server.
#[derive(Clone)]
pub(super) struct Namespaces(Arc<All>);

struct All {
    /// Those without a namespace.
    first: Arc<Exports>,
    others: Mutex<HashMap<String, Arc<Exports>>>,
}

/// A namespace of a server, which forgets it when this is dropped. Its exports should be removed before.
#[must_use]
pub struct Namespace {
    namespaces: Namespaces,
    name: String,
}

impl Namespaces {
    pub(super) fn new(first: Arc<Exports>) -> Self {
        Self(Arc::new(All { first, others: Mutex::default() }))
    }

    /// Adds a namespace whose exports have at most `most` connections together.
    pub(super) fn add(
        &self,
        exports: Arc<Exports>,
        most: u64,
    ) -> Result<Namespace, DuplicateNamespace> {
        let name = exports.namespace().to_owned();
        let mut others = self.others();
        if name.is_empty() || others.contains_key(&name) {
            return Err(DuplicateNamespace(name));
        }
        exports.set_places(self.0.first.places().share(most));
        others.insert(name.clone(), exports);
        drop(others);
        Ok(Namespace { namespaces: self.clone(), name })
    }

    /// Returns all exports, with those that are being removed.
    pub(super) fn all_exports(&self) -> Vec<Arc<Export>> {
        let mut all = self.0.first.all();
        all.extend(self.others().values().flat_map(|exports| exports.all()));
        all
    }

    fn others(&self) -> MutexGuard<'_, HashMap<String, Arc<Exports>>> {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.namespaces.others().remove(&self.name);
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.name).finish()
    }
}

/// Two namespaces have this name; or it is empty, which stands for none.
#[derive(Debug, PartialEq, Eq)]
pub struct DuplicateNamespace(pub String);

impl fmt::Display for DuplicateNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two namespaces have the name {:?}", self.0)
    }
}

impl std::error::Error for DuplicateNamespace {}
