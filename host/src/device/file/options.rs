//! The options of a file device.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::Advice;

use crate::device::Buffers;

/// The configuration of a file device.
#[derive(Debug)]
pub struct FileOptions {
    /// The file.
    pub source: Source,
    /// The name of the export, for the log.
    pub export_name: String,
    /// Refuses writes even if the file allows them.
    pub read_only: bool,
    /// The order in which clients will read.
    pub access: Access,
    /// How much of the file stays in the page cache.
    pub page_cache: PageCache,
    /// The budget for the payloads of requests.
    pub buffers: Buffers,
}

/// Where the file of a device comes from.
#[derive(Debug)]
pub enum Source {
    /// The file at a path, which is opened and not created.
    Path(PathBuf),
    /// The file of this name in a directory. Links that lead out of the directory are not followed.
    Beneath {
        /// The path of the directory.
        directory: PathBuf,
        /// The name of the file, without a slash.
        name: String,
    },
    /// An open file. If it was opened for reading alone, the device is read-only. It must not have
    /// O_APPEND or O_DIRECT. The device moves its offset, which it shares with duplicates.
    Descriptor(OwnedFd),
}

/// The order in which a file will be read: how much the kernel reads ahead (posix_fadvise(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// None in particular: the kernel reads ahead.
    #[default]
    Normal,
    /// Random: nothing is read ahead.
    Random,
    /// Ascending: twice as much is read ahead.
    Sequential,
}

impl From<Access> for Advice {
    fn from(access: Access) -> Self {
        match access {
            Access::Normal => Self::Normal,
            Access::Random => Self::Random,
            Access::Sequential => Self::Sequential,
        }
    }
}

/// How much of a file stays in the kernel's page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageCache {
    /// As much as the kernel sees fit.
    #[default]
    Default,
    /// As little as possible, so that the file does not displace others. Repeated reads are slow.
    None,
}
