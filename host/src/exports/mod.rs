//! The exports of a server: named disks, each opened when it is first needed.
//!
//! An export that fails stays on the list, with the reason, and does not affect the others. This
//! module does not know where components come from, or how clients reach the exports.

mod backoff;
mod budgets;
mod export;
mod problem;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use backoff::Backoff;
pub use budgets::ProcessBudgets;
pub use export::{Export, Failed, Loading, NotReplaced, Source, Stage};
pub use problem::Problem;

/// All exports of a server. The first is the default export, which the empty name selects as well.
#[derive(Default)]
pub struct Exports {
    list: Vec<Arc<Export>>,
    by_name: HashMap<String, usize>,
}

impl Exports {
    /// Creates a list of exports in this order.
    ///
    /// # Errors
    ///
    /// Returns an error if two exports have the same name.
    pub fn new(list: Vec<Arc<Export>>) -> Result<Self, DuplicateName> {
        let mut by_name = HashMap::new();
        for (index, export) in list.iter().enumerate() {
            if by_name.insert(export.name().to_owned(), index).is_some() {
                return Err(DuplicateName(export.name().to_owned()));
            }
        }
        Ok(Self { list, by_name })
    }

    /// Creates a list of a single export.
    pub fn only(export: Arc<Export>) -> Self {
        let by_name = HashMap::from([(export.name().to_owned(), 0)]);
        Self { list: vec![export], by_name }
    }

    /// Returns the export that a client requests by this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Export>> {
        match self.by_name.get(name) {
            Some(&index) => self.list.get(index),
            None if name.is_empty() => self.list.first(),
            None => None,
        }
    }

    /// Iterates over the exports in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Export>> {
        self.list.iter()
    }
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list.iter().map(|export| export.name())).finish()
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
