//! Where the disk of an export is read and written.

use std::fmt;

use super::Export;
use crate::component::MemoryBudget;
use crate::device::HeatMap;

/// Why it is not told where a disk is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWatched {
    /// The disk is not open.
    NotOpen,
    /// There is no memory for the counters.
    NoMemory,
}

impl fmt::Display for NotWatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOpen => "the disk is not open",
            Self::NoMemory => "there is no memory left to count where it is read and written",
        })
    }
}

impl std::error::Error for NotWatched {}

impl Export {
    /// Returns where the disk is read and written, by clients of all its names, and counts that for
    /// [`KEPT`](crate::device::KEPT) from now on. The first call begins to count. What that takes is charged to
    /// `memory`. Must be called in the context of a tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk is not open, or there is too little memory.
    pub fn look(&self, memory: &MemoryBudget) -> Result<HeatMap, NotWatched> {
        let size = self.size().ok_or(NotWatched::NotOpen)?;
        self.heat().look(size, memory).ok_or(NotWatched::NoMemory)
    }
}
