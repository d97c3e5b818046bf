//! The trait that a backend implements.

use alloc::vec;
use alloc::vec::Vec;

use crate::{Chunk, Description, Disk, Error, Extent, OpenRequest, Status, ZeroOptions};

/// The storage of a disk. An instance of a component serves one disk, or part of one, and gets one
/// call at a time.
///
/// A read-only backend implements the three functions without a default, and [`read`](Self::read).
/// The host calls an optional function only if [`disk`](Self::disk) declares its capability; the
/// implementation and the capability belong together, and neither implies the other.
///
/// The host guarantees that requests are within the disk, aligned to its minimum block, not empty,
/// and, for reads and writes, no longer than its maximum transfer. `wit/block-store.wit` has the
/// complete contract.
pub trait Backend: Sized + 'static {
    /// Describes the component, for help texts and for checking parameters. Returns the same
    /// description every time.
    fn describe() -> Description;

    /// Opens the disk.
    ///
    /// # Errors
    ///
    /// The message is for the user who gave the arguments. It says what is wrong and what would be
    /// right.
    fn open(request: &OpenRequest) -> Result<Self, Error>;

    /// Returns the properties of the disk. The host asks once, after `open`.
    fn disk(&self) -> Disk;

    /// Reads the bytes at `offset` into `buffer`, which is all zeroes at first.
    ///
    /// By default this fails with `EIO`, which is for a [`Filter`](crate::Filter) that routes all
    /// reads to lower devices: the host never calls this there.
    ///
    /// # Errors
    ///
    /// An error is the answer to the request and does not make the disk fail; this is true for all
    /// functions below.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let _ = (offset, buffer);
        Err(Error::EIO)
    }

    /// Reads `length` bytes at `offset` as chunks, of which there are at most 4096. A disk with
    /// holes implements this to send them without their zeroes.
    ///
    /// By default this is one chunk of data, from [`read`](Self::read).
    fn read_chunks(&mut self, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        Ok(vec![Chunk::data(length, |buffer| self.read(offset, buffer))?])
    }

    /// Writes `data` at `offset`, with `fua` to stable storage.
    ///
    /// Needs [`WRITABLE`](crate::Capabilities::WRITABLE).
    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        let _ = (offset, data, fua);
        Err(Error::EPERM)
    }

    /// Makes `length` bytes at `offset` read as zeroes.
    ///
    /// Needs [`ZERO`](crate::Capabilities::ZERO). The range may be the whole disk. After
    /// [`ENOTSUP`](Error::ENOTSUP), which is the default, the host writes zeroes, unless the client
    /// wanted it to be fast.
    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        let _ = (offset, length, options);
        Err(Error::ENOTSUP)
    }

    /// Discards `length` bytes at `offset`, which keep their values or become zero.
    ///
    /// Needs [`TRIM`](crate::Capabilities::TRIM). The range may be the whole disk. By default this
    /// keeps all values.
    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        let _ = (offset, length, fua);
        Ok(())
    }

    /// Waits until all completed writes, zeroes and trims are on stable storage.
    ///
    /// Needs [`FLUSH`](crate::Capabilities::FLUSH). By default there is nothing to wait for.
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Reports the allocation status of `length` bytes at `offset`: 1 to 4096 extents without gaps,
    /// the first at `offset`. They may end early, or reach beyond the range.
    ///
    /// Needs [`EXTENTS`](crate::Capabilities::EXTENTS). The range may be the whole disk. By default
    /// everything is data.
    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let _ = offset;
        Ok(vec![Extent { length, status: Status::DATA }])
    }

    /// Prefetches `length` bytes at `offset`.
    ///
    /// Needs [`CACHE`](crate::Capabilities::CACHE). By default there is nothing to prefetch.
    fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        let _ = (offset, length);
        Ok(())
    }
}
