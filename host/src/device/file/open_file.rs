//! An open file: reading, writing and flushing it, by calls that block.

use std::io::{IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, fadvise, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, pwritev2, retry_on_intr};

use super::error::Failure;
use super::evict::{Evictor, evict};
use super::open::Opened;
use super::options::{Access, PageCache};
use super::pool;
use super::support::Support;
use crate::block::{Geometry, Span};
use crate::device::piped::{NotPiped, PIPES, Piped};

/// The longest read or write that is executed on the caller's thread, in bytes.
///
/// On two processors, a read of 4 KiB from the page cache takes 1.2 us there and 16 us on another
/// thread; one of 256 KiB takes 21 us and 36 us. Longer ones would delay the thread's other
/// connections.
pub(super) const MAX_NOW: u64 = 256 << 10;

/// The same on a thread that serves a single connection, which waits for the command anyway.
pub(super) const MAX_NOW_ALONE: u64 = 1 << 20;

/// The shortest read that is answered through pipes, in bytes: with reads of 256 KiB, clients receive 1.2
/// times as much, for half of the processor time here.
const LEAST_PIPED: u64 = 128 << 10;

/// An open file, and the optional operations that its file system supports.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) fd: OwnedFd,
    pub(super) is_block_device: bool,
    /// The file system is one in memory: nothing blocks for long, unless the memory is swapped out.
    pub(super) in_memory: bool,
    /// The unit of `fallocate`, in bytes.
    pub(super) block: u64,
    /// Present if the file is to be kept out of the page cache.
    evictor: Option<Evictor>,
    /// Set when a flush has failed.
    flush_failed: AtomicBool,
    /// RWF_NOWAIT.
    pub(super) read_now: Support,
    /// RWF_DSYNC.
    pub(super) write_durably: Support,
    /// splice(2).
    splice: Support,
    pub(super) punch: Support,
    pub(super) zero_range: Support,
    /// SEEK_DATA and SEEK_HOLE.
    pub(super) seek: Support,
}

impl OpenFile {
    pub(super) fn new(opened: Opened, geometry: &Geometry, page_cache: PageCache) -> Self {
        Self {
            is_block_device: opened.is_block_device(),
            in_memory: opened.is_in_memory(),
            fd: opened.fd,
            block: geometry.block_sizes.minimum.into(),
            evictor: (page_cache == PageCache::None).then(Evictor::default),
            flush_failed: AtomicBool::new(false),
            read_now: Support::default(),
            write_durably: Support::default(),
            splice: Support::default(),
            punch: Support::default(),
            zero_range: Support::default(),
            seek: Support::default(),
        }
    }

    /// Tells the kernel in which order the file will be read.
    pub(super) fn expect_access(&self, access: Access) {
        let _ = fadvise(&self.fd, 0, None, access.into());
    }

    /// Reads a short span without blocking, if all of it is in the page cache.
    pub(super) fn read_now(&self, span: Span) -> Option<Vec<u8>> {
        if span.length > MAX_NOW || self.evictor.is_some() {
            return None;
        }
        self.read_now
            .attempt(|| {
                let mut bytes = vec![0; span.length as usize];
                let buffers = &mut [IoSliceMut::new(&mut bytes)];
                let read = preadv2(&self.fd, buffers, span.offset, ReadWriteFlags::NOWAIT)?;
                // In Linux 5.9 and 5.10 the result may be 0 when it is not the end of the file.
                if read == bytes.len() { Ok(bytes) } else { Err(Errno::AGAIN) }
            })?
            .ok()
    }

    /// Reads a span.
    pub(super) fn read(&self, span: Span) -> Result<Vec<u8>, Failure> {
        let length = span.length as usize;
        // Not zeroed: that would take as long as reading it from the page cache.
        let mut bytes = pool::take(length);
        while bytes.len() < length {
            let offset = span.offset + bytes.len() as u64;
            let read = retry_on_intr(|| pread(&self.fd, spare_capacity(&mut bytes), offset))?;
            if read == 0 {
                return Err(Failure::Truncated);
            }
        }
        // A vector may have more room than was asked for.
        bytes.truncate(length);
        if self.evictor.is_some() {
            evict(&self.fd, span);
        }
        Ok(bytes)
    }

    /// Reads a span into pipes. Returns `None` if it has to be copied: because that takes less time, or
    /// there are no pipes.
    pub(super) fn read_piped(&self, span: Span) -> Result<Option<Piped>, Failure> {
        if span.length < LEAST_PIPED || self.evictor.is_some() {
            return Ok(None);
        }
        let piped = self.splice.attempt(|| match Piped::of_file(self.fd.as_fd(), span, &PIPES) {
            // The file system cannot do it.
            Err(NotPiped::File(Errno::INVAL)) => Err(Errno::OPNOTSUPP),
            piped => Ok(piped),
        });
        match piped.transpose()? {
            None | Some(Err(NotPiped::NoPipes)) => Ok(None),
            Some(Ok(piped)) => Ok(Some(piped)),
            Some(Err(NotPiped::Truncated)) => Err(Failure::Truncated),
            Some(Err(NotPiped::File(error))) => Err(error.into()),
        }
    }

    /// Writes `data` at an offset.
    pub(super) fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        if !fua {
            return Ok(self.write_all(offset, data, ReadWriteFlags::empty())?);
        }
        // This flushes the written range alone, while fdatasync flushes all of the file: for 4 KiB
        // after another 64 MiB, 1.4 ms instead of 15 ms.
        let durably = || self.write_all(offset, data, ReadWriteFlags::DSYNC);
        match self.write_durably.attempt(durably) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                // If the same write succeeds without the flag, the flush is what failed.
                self.write_all(offset, data, ReadWriteFlags::empty())?;
                self.flush_failed.store(true, Ordering::Relaxed);
                Err(error.into())
            }
            None => {
                self.write_all(offset, data, ReadWriteFlags::empty())?;
                self.sync()
            }
        }
    }

    pub(super) fn write_all(
        &self,
        offset: u64,
        data: &[u8],
        flags: ReadWriteFlags,
    ) -> rustix::io::Result<()> {
        let mut written = 0;
        while written < data.len() {
            let buffers = &[IoSlice::new(&data[written..])];
            let at = offset + written as u64;
            match retry_on_intr(|| pwritev2(&self.fd, buffers, at, flags))? {
                0 => return Err(Errno::IO),
                more => written += more,
            }
        }
        if let Some(evictor) = &self.evictor {
            evictor.evict_written(&self.fd, Span { offset, length: data.len() as u64 });
        }
        Ok(())
    }

    /// Flushes the file.
    ///
    /// After a failure, all later flushes fail: the kernel reports a lost write once, and may have
    /// dropped its data, so that a later success would mean nothing.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        let written = self.evictor.as_ref().map(Evictor::take_written).unwrap_or_default();
        if let Err(error) = retry_on_intr(|| fdatasync(&self.fd)) {
            self.flush_failed.store(true, Ordering::Relaxed);
            return Err(error.into());
        }
        // Checked after the call, because the kernel may report a failure to another thread.
        if self.flush_failed.load(Ordering::Relaxed) {
            return Err(Failure::FlushFailed);
        }
        written.into_iter().for_each(|span| evict(&self.fd, span));
        Ok(())
    }

    /// Flushes the file if `fua` is set.
    pub(super) fn sync_if(&self, fua: bool) -> Result<(), Failure> {
        if fua { self.sync() } else { Ok(()) }
    }

    /// Starts to fetch the first part of a span, as long as the kernel's longest read-ahead.
    pub(super) fn cache(&self, span: Span) -> Result<(), Failure> {
        Ok(fadvise(&self.fd, span.offset, NonZeroU64::new(span.length), Advice::WillNeed)?)
    }

    /// Makes this and later flushes fail.
    #[cfg(test)]
    pub(super) fn fail_flushes(&self) {
        self.flush_failed.store(true, Ordering::Relaxed);
    }
}
