//! The trait of components that list their exports.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{Backend, Error, OpenRequest};

/// A component whose exports have names: the members of an archive, the partitions of a disk.
///
/// The macro [`listing!`](crate::listing!) exports the trait, next to [`backend!`](crate::backend!) or
/// [`filter!`](crate::filter!). `--export '*=COMPONENT'` serves all exports.
pub trait Listing: Backend {
    /// Lists what clients can ask for. The host calls this instead of `open`, with the same arguments,
    /// and an empty `export_name`.
    ///
    /// # Errors
    ///
    /// An error is logged, and the list is empty.
    fn exports(request: &OpenRequest) -> Result<Listed, Error>;
}

/// What clients can ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The exports, at most 10,000, with distinct names.
    pub exports: Vec<ListedExport>,
    /// The name that the empty name stands for.
    pub default: Option<String>,
}

/// An export that clients can ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedExport {
    /// The name, which becomes [`OpenRequest::export_name`].
    pub name: String,
    /// A line for people, possibly empty.
    pub description: String,
}
