//! Metadata contexts: their names, and which of them a client has selected.
//!
//! `base:allocation` is that of the spec; those of the namespace `qemu` are described in QEMU's
//! `docs/interop/nbd.rst`.

use std::fmt;

use super::codes::{ALLOCATION_ID, BASE_ALLOCATION};
use super::limits::MAX_CONTEXTS;

/// The namespace of QEMU's contexts, and the query that lists all of them.
pub(super) const QEMU_WILDCARD: &str = "qemu:";

/// The context that says how deep in a chain of disks an allocated range is.
const QEMU_DEPTH: &str = "qemu:allocation-depth";

/// The beginning of the names of dirty bitmaps, and the query that lists all of them.
pub(super) const BITMAP_WILDCARD: &str = "qemu:dirty-bitmap:";

/// The id of the first context that is not `base:allocation`.
const FIRST_ID: u32 = ALLOCATION_ID + 1;

/// A metadata context other than `base:allocation`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContextName {
    /// `qemu:allocation-depth`.
    AllocationDepth,
    /// `qemu:dirty-bitmap:` and this name.
    DirtyBitmap(String),
}

impl ContextName {
    /// Returns the context that a query names exactly. There may be no such bitmap.
    pub(super) fn parse(query: &str) -> Option<Self> {
        match query.strip_prefix(BITMAP_WILDCARD) {
            Some("") => None,
            Some(name) => Some(Self::DirtyBitmap(name.to_owned())),
            None => (query == QEMU_DEPTH).then_some(Self::AllocationDepth),
        }
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllocationDepth => f.write_str(QEMU_DEPTH),
            Self::DirtyBitmap(name) => write!(f, "{BITMAP_WILDCARD}{name}"),
        }
    }
}

/// The dirty bitmaps of an export.
pub trait Bitmaps: Sync {
    /// Returns true if there is one of this name.
    fn exists(&self, name: &str) -> bool;

    /// Returns the names of at most `most` of them.
    fn names(&self, most: usize) -> Vec<String>;
}

impl fmt::Debug for dyn Bitmaps + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bitmaps")
    }
}

/// A set of metadata contexts that were selected, by their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contexts(u32);

impl Contexts {
    /// `base:allocation` alone.
    pub const ALLOCATION: Self = Self(1 << ALLOCATION_ID);

    /// Returns true if there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns how many there are.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Returns true if the context with this id is one of them.
    pub fn contains(self, id: u32) -> bool {
        1_u32.checked_shl(id).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Returns their ids, in ascending order.
    pub fn ids(self) -> impl Iterator<Item = u32> {
        (0..u32::BITS).filter(move |&id| self.contains(id))
    }

    /// Returns the set with the context of this id in addition. Ids are at most
    /// [`MAX_CONTEXTS`] + 1.
    #[must_use]
    pub fn with(self, id: u32) -> Self {
        debug_assert!(id as usize <= MAX_CONTEXTS + ALLOCATION_ID as usize);
        Self(self.0 | 1_u32.checked_shl(id).unwrap_or(0))
    }
}

/// The contexts that SET_META_CONTEXT selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// The name of the export.
    pub(super) export: String,
    pub(super) contexts: Contexts,
    /// Those besides `base:allocation`; their ids are consecutive.
    pub(super) others: Vec<ContextName>,
}

impl Selected {
    /// Returns the contexts with their ids and names.
    pub(super) fn list(&self) -> impl Iterator<Item = (u32, String)> {
        let allocation = self.contexts.contains(ALLOCATION_ID);
        let allocation = allocation.then(|| (ALLOCATION_ID, BASE_ALLOCATION.to_owned()));
        let others = self.others.iter().zip(FIRST_ID..).map(|(name, id)| (id, name.to_string()));
        allocation.into_iter().chain(others)
    }
}

/// Returns the index of a context in the list of those that are not `base:allocation`, by its id.
pub fn index_of(id: u32) -> Option<usize> {
    Some(id.checked_sub(FIRST_ID)? as usize)
}

/// Selects contexts of an export. Returns `None` if they are more than [`MAX_CONTEXTS`], besides
/// `base:allocation`.
pub(super) fn select(
    export: String,
    allocation: bool,
    others: Vec<ContextName>,
) -> Option<Selected> {
    if others.len() > MAX_CONTEXTS {
        return None;
    }
    let begin = if allocation { Contexts::ALLOCATION } else { Contexts::default() };
    let ids = (FIRST_ID..).zip(&others).map(|(id, _)| id);
    let contexts = ids.fold(begin, Contexts::with);
    Some(Selected { export, contexts, others })
}
