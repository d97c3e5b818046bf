//! A device over a regular file or a block device.
//!
//! Short reads from the page cache are ready at once. Long reads for a Unix socket are answered with
//! references to pages, in pipes, so that no byte is copied here. All other commands may block, and
//! run on the runtime's blocking threads (`execute`). `open_file`, `zero` and `extents` make the
//! system calls and do not know about threads.
//!
//! The device knows neither NBD's messages nor the path of its file: clients see its errors.
//!
//! # When others change the file
//!
//! The size of the device is that of the file when it is opened; bytes that are appended later are
//! not served. The file is not mapped, so its truncation does not kill the process (SIGBUS):
//!
//! - A read past the present end of the file fails with EIO and returns no zeroes. If the file is cut
//!   while a reply with its pages is being sent, the rest of the reply may have zeroes at the new end.
//! - Extents past the present end are data, so that clients try to read them.
//! - A write past the present end extends the file. A gap before it reads as zeroes.
//! - Zeroing and trimming past the present end succeed and change nothing.

mod error;
mod evict;
mod execute;
mod extents;
mod open;
mod open_file;
mod options;
mod pool;
mod support;
#[cfg(test)]
mod tests;
mod zero;

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::block::Geometry;
use crate::device::Buffers;
use crate::throttle::{Limit, Throttle};
use open::Opened;
pub use open::{OpenError, files_in};
use open_file::OpenFile;
pub use options::{Access, FileOptions, PageCache, Source};

/// The maximum number of commands of one device that may block at the same time. Each of them has a
/// thread of the runtime, which has 512 for all devices by default.
const MAX_BLOCKING: usize = 16;

/// How many errors are logged.
const LOGGED_LINES: Limit = Limit { burst: 20, per_second: 1 };
const LOGGED_BYTES: Limit = Limit { burst: 16 << 10, per_second: 1 << 10 };

/// A device over a regular file or a block device.
pub struct FileDevice {
    export_name: String,
    geometry: Geometry,
    buffers: Buffers,
    file: OpenFile,
    /// One permit for each call that may block.
    blocking: Arc<Semaphore>,
    write_refusal: Option<Errno>,
    /// Bounds what is logged of errors, each of which a client can repeat.
    throttle: Throttle,
}

impl FileDevice {
    /// Opens a device. This may block, for as long as the file system takes.
    ///
    /// If the file cannot be opened for writing because of its permissions, or because its file
    /// system or device is read-only, the device is read-only as well; see [`Self::write_refusal`].
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened, or is not a regular file or block device.
    pub fn open(options: FileOptions) -> Result<Self, OpenError> {
        let FileOptions { source, export_name, read_only, access, page_cache, buffers } = options;
        let opened = Opened::open(source, read_only)?;
        let geometry = opened.geometry(page_cache)?;
        let write_refusal = opened.write_refusal;
        let file = OpenFile::new(opened, &geometry, page_cache);
        file.expect_access(access);
        let blocking = Arc::new(Semaphore::new(MAX_BLOCKING));
        let throttle = Throttle::new(LOGGED_LINES, LOGGED_BYTES);
        Ok(Self { export_name, geometry, buffers, file, blocking, write_refusal, throttle })
    }

    /// Returns why the file could not be opened for writing, if the device is read-only for that
    /// reason.
    pub fn write_refusal(&self) -> Option<io::Error> {
        self.write_refusal.map(io::Error::from)
    }
}
