//! The states of an export.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::{Backoff, Problem};

/// The state of an export.
#[derive(Clone, Debug)]
pub enum State {
    /// The disk is opened when it is first needed.
    Closed,
    /// The disk is being opened.
    Opening(Stage),
    /// The disk is open.
    Live,
    /// The last attempt to open the disk failed.
    Failed(Failed),
    /// The export is being removed: requests under way are finished, and the disk is flushed.
    Draining,
    /// The export was removed.
    Gone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Opening(stage) => stage.fmt(f),
            Self::Live => f.write_str("live"),
            Self::Failed(failed) => write!(f, "failed: {failed}"),
            Self::Draining => f.write_str("draining"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

/// The progress of an export that is being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The component is looked up in the cache of compiled components, or is being started.
    Loading,
    /// The component is being compiled.
    Compiling,
    /// The disk is being opened.
    Opening,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loading => "loading",
            Self::Compiling => "compiling",
            Self::Opening => "opening",
        })
    }
}

/// An export that cannot be served.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The reason.
    pub problem: Arc<Problem>,
    /// When a retry is allowed; `None` for never.
    pub(super) backoff: Option<Backoff>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)?;
        match self.backoff.and_then(|backoff| backoff.left(Instant::now())) {
            Some(left) => write!(f, " (the next try is in {} s)", left.as_secs() + 1),
            None => Ok(()),
        }
    }
}

impl Failed {
    /// Returns true if a retry is allowed now.
    pub(super) fn is_due(&self) -> bool {
        self.backoff.is_some_and(|backoff| backoff.left(Instant::now()).is_none())
    }
}
