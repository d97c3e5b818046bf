//! Why an export cannot be served.

use std::fmt;
use std::sync::Arc;

use crate::component::LoadError;
use crate::device::file;
use crate::device::guest::OpenError;

/// Why an export cannot be served.
#[derive(Debug)]
pub enum Problem {
    /// Its component could not be compiled or loaded, or did not describe itself.
    Load {
        /// The user's name for it.
        component: String,
        /// The reason, shared by all exports of the same component.
        error: Arc<LoadError>,
    },
    /// Its parameters do not match those of the component.
    Parameters(String),
    /// Its disk could not be opened.
    Open {
        /// The user's name for it.
        what: String,
        /// The reason.
        error: OpenError,
    },
    /// Its file could not be opened.
    File {
        /// The path.
        what: String,
        /// The reason.
        error: file::OpenError,
    },
    /// Whoever it belongs to may have no more, as this text says.
    Quota(String),
    /// The server panicked.
    Panicked,
    /// The export is being removed, or was.
    Removed,
}

impl Problem {
    /// Returns true if a retry may succeed. A failure that depends only on the component and its
    /// parameters is permanent, because a component has no inputs that could change.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Load { error, .. } => error.may_pass(),
            Self::Open { error, .. } => error.may_pass(),
            // Files come and go, and so do their permissions.
            Self::File { .. } | Self::Quota(_) => true,
            Self::Parameters(_) | Self::Panicked | Self::Removed => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { component, error } => write!(f, "load component {component}: {error}"),
            Self::Parameters(text) | Self::Quota(text) => f.write_str(text),
            Self::Open { what, error } if what.is_empty() => error.fmt(f),
            Self::Open { what, error } => write!(f, "{what}: {error}"),
            Self::File { what, error } => write!(f, "file {what}: {error}"),
            Self::Panicked => f.write_str("the server failed while it opened the export"),
            Self::Removed => f.write_str("the export was removed"),
        }
    }
}

impl std::error::Error for Problem {}
