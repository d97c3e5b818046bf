//! Why an export cannot be served.

use std::fmt;
use std::sync::Arc;

use crate::component::LoadError;
use crate::device::guest::OpenError;

/// Why an export cannot be served.
#[derive(Debug)]
pub enum Problem {
    /// Its component was not compiled or loaded, or did not describe itself.
    Load {
        /// What the person who chose it calls it.
        component: String,
        /// Why not. Exports of the same component share it.
        error: Arc<LoadError>,
    },
    /// Its component has no such parameters.
    Parameters(String),
    /// Its disk was not opened.
    Open {
        /// What the person who chose it calls it.
        what: String,
        /// Why not.
        error: OpenError,
    },
    /// This program failed.
    Panicked,
}

impl Problem {
    /// True if it may go well another time. What depends on the component and its parameters
    /// alone does not: a component sees nothing that would change.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Load { error, .. } => error.may_pass(),
            Self::Open { error: OpenError::Fault(fault), .. } => fault.may_pass(),
            Self::Open { error: OpenError::Threads(_), .. } => true,
            Self::Open { error: OpenError::Refused(_), .. } => false,
            Self::Parameters(_) | Self::Panicked => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { component, error } => write!(f, "load component {component}: {error}"),
            Self::Parameters(text) => f.write_str(text),
            Self::Open { what, error } if what.is_empty() => error.fmt(f),
            Self::Open { what, error } => write!(f, "{what}: {error}"),
            Self::Panicked => f.write_str("the server failed while it opened the export"),
        }
    }
}

impl std::error::Error for Problem {}
