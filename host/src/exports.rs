//! What a server serves: exports by name, each a disk that is opened when it is first needed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::block::ErrorCode;
use crate::disk::{Disk, OpenError, Recipe};

/// A disk under a name.
pub struct Export {
    recipe: Recipe,
    disk: OnceCell<Arc<Disk>>,
}

impl Export {
    /// An export that is not open yet.
    pub fn new(mut recipe: Recipe) -> Arc<Self> {
        recipe.component = recipe.component.for_export(&recipe.export_name);
        Arc::new(Self { recipe, disk: OnceCell::new() })
    }

    /// The name by which clients ask for it.
    pub fn name(&self) -> &str {
        &self.recipe.export_name
    }

    /// A line for people: the disk's own, where it is open and has one, else the component's.
    pub fn description(&self) -> &str {
        let own = self.disk.get().map(|disk| disk.geometry().description.as_str());
        match own {
            Some(own) if !own.is_empty() => own,
            _ => &self.recipe.component.description().summary,
        }
    }

    /// The disk; it is opened if it is not open yet.
    ///
    /// # Errors
    ///
    /// Why it could not be opened. The next call tries again.
    pub async fn disk(self: &Arc<Self>) -> Result<Arc<Disk>, OpenError> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk.clone());
        }
        let export = self.clone();
        // The caller may go away while the component is at work; the opening must not.
        let opening = tokio::spawn(async move { export.open().await });
        opening.await.expect("opening a disk neither panics nor is cancelled")
    }

    /// As [`Self::disk`], for callers who do not go away: this must not be dropped half way.
    ///
    /// # Errors
    ///
    /// As [`Self::disk`].
    pub async fn open(&self) -> Result<Arc<Disk>, OpenError> {
        let open = || async { Disk::open(self.recipe.clone()).await.map(Arc::new) };
        self.disk.get_or_try_init(open).await.cloned()
    }

    /// Finds out whether the disk can be opened, and closes it again.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub async fn try_open(&self) -> Result<(), OpenError> {
        Disk::open(self.recipe.clone()).await.map(drop)
    }

    /// Returns true if [`Self::finish`] has anything to do.
    pub fn needs_last_flush(&self) -> bool {
        self.disk.get().is_some_and(|disk| disk.needs_last_flush())
    }

    /// Flushes the disk, if it is open, before the process stops.
    ///
    /// # Errors
    ///
    /// When the component fails to; this is logged.
    pub async fn finish(&self) -> Result<(), ErrorCode> {
        match self.disk.get() {
            Some(disk) => disk.finish().await,
            None => Ok(()),
        }
    }
}

/// All exports of a server. The first is the default one: it also answers to the empty name.
#[derive(Default)]
pub struct Exports {
    list: Vec<Arc<Export>>,
    by_name: HashMap<String, usize>,
}

impl Exports {
    /// Makes the exports known in this order.
    ///
    /// # Errors
    ///
    /// When two have the same name.
    pub fn new(list: Vec<Arc<Export>>) -> Result<Self, DuplicateName> {
        let mut by_name = HashMap::new();
        for (index, export) in list.iter().enumerate() {
            if by_name.insert(export.name().to_owned(), index).is_some() {
                return Err(DuplicateName(export.name().to_owned()));
            }
        }
        Ok(Self { list, by_name })
    }

    /// One export and no other.
    pub fn only(export: Arc<Export>) -> Self {
        let by_name = HashMap::from([(export.name().to_owned(), 0)]);
        Self { list: vec![export], by_name }
    }

    /// The export that a client means.
    pub fn find(&self, name: &str) -> Option<&Arc<Export>> {
        match self.by_name.get(name) {
            Some(&index) => self.list.get(index),
            None if name.is_empty() => self.list.first(),
            None => None,
        }
    }

    /// All of them, in order.
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
