//! Lower devices, on which a disk stands.
//!
//! Natively, the devices are those of [`testing`](crate::testing).

use alloc::vec::Vec;

#[cfg(target_arch = "wasm32")]
use crate::exports::lower as devices;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::devices;
use crate::{
    Capabilities, Chunk, Error, Extent, Location, Operations, Request, Route, StableRoute,
    ZeroOptions,
};

/// The longest read or write of the contract, in bytes.
const MAX_TRANSFER: usize = 1 << 20;

/// A lower device, which the user named in a parameter of the type device or file.
///
/// The functions wait until the device has answered. A filter that only routes requests needs no
/// more than [`geometry`](Self::geometry) and [`at`](Self::at). `wit/lower.wit` has the complete
/// contract. The functions fail with `EINVAL` if the range is empty or ends beyond the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lower(u32);

/// The properties of a lower device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size in bytes.
    pub size: u64,
    /// The unit in which requests need no read-modify-write: a power of two from 1 to 65536.
    pub minimum_block: u32,
    /// The unit of efficient requests: a power of two, at least `minimum_block`.
    pub preferred_block: u32,
    /// What the device can do. `FLUSH`, `FUA` and `EXTENTS` are always there.
    pub capabilities: Capabilities,
}

impl Lower {
    /// Returns the device with a number from an argument.
    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number that stands for the device in the contract.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the place at `offset` on the device, for a [`Route`].
    pub const fn at(self, offset: u64) -> Location {
        Location { device: self, offset }
    }

    /// Returns the route of a request to the same range of the device.
    pub fn pass(self, request: &Request) -> Route {
        Route::lower(self.at(request.offset), request.length)
    }

    /// Returns the stable route of everything from `offset` up to the end of the device to the same
    /// range of the device, or `None` at the end.
    pub fn pass_all(self, offset: u64) -> Option<StableRoute> {
        self.pass_until(offset, self.geometry().size)
    }

    /// Returns the stable route of everything from `offset` up to `end` to the same range of the
    /// device, or `None` if there is nothing.
    pub fn pass_until(self, offset: u64, end: u64) -> Option<StableRoute> {
        let length = end.checked_sub(offset).filter(|length| *length > 0)?;
        Some(StableRoute::new(self.at(offset), length))
    }

    /// Returns the properties of the device, which do not change.
    pub fn geometry(self) -> Geometry {
        devices::geometry(self)
    }

    /// Reads `length` bytes at `offset` as chunks, at most 1 MiB.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if the length is larger, and `ENOMEM` if the host cannot allocate the result.
    /// Like all functions below, it also returns the errors of the device.
    pub fn read_chunks(self, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        devices::read(self, offset, length)
    }

    /// Reads the bytes at `offset` into `buffer`, in pieces of 1 MiB.
    ///
    /// # Errors
    ///
    /// As [`read_chunks`](Self::read_chunks).
    pub fn read(self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut offset = offset;
        // An empty range is an error, which the host reports.
        let whole = buffer.len().min(MAX_TRANSFER);
        let (first, rest) = buffer.split_at_mut(whole);
        self.read_piece(offset, first)?;
        for piece in rest.chunks_mut(MAX_TRANSFER) {
            offset += MAX_TRANSFER as u64;
            self.read_piece(offset, piece)?;
        }
        Ok(())
    }

    fn read_piece(self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut rest = buffer;
        for chunk in self.read_chunks(offset, rest.len() as u32)? {
            let length = match &chunk {
                Chunk::Data(bytes) => bytes.len(),
                Chunk::Hole(length) => *length as usize,
            };
            let (part, after) = rest.split_at_mut_checked(length).ok_or(Error::EIO)?;
            match chunk {
                Chunk::Data(bytes) => part.copy_from_slice(&bytes),
                Chunk::Hole(_) => part.fill(0),
            }
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(Error::EIO) }
    }

    /// Writes `data` at `offset`, in pieces of 1 MiB, with `fua` to stable storage. The error is
    /// `EPERM` if the device is not writable, here as for `zero` and `trim`.
    pub fn write(self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        let mut offset = offset;
        let (first, rest) = data.split_at(data.len().min(MAX_TRANSFER));
        devices::write(self, offset, first, fua)?;
        for piece in rest.chunks(MAX_TRANSFER) {
            offset += MAX_TRANSFER as u64;
            devices::write(self, offset, piece, fua)?;
        }
        Ok(())
    }

    /// Makes `length` bytes at `offset` read as zeroes.
    pub fn zero(self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        devices::zero(self, offset, length, options)
    }

    /// Discards `length` bytes at `offset`, which keep their values or become zero.
    pub fn trim(self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        devices::trim(self, offset, length, fua)
    }

    /// Waits until everything that the device has completed is on stable storage.
    pub fn flush(self) -> Result<(), Error> {
        devices::flush(self)
    }

    /// Reports the allocation status of `length` bytes at `offset`: 1 to 4096 extents, which may
    /// end before the range.
    pub fn extents(self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        devices::extents(self, offset, length)
    }

    /// Prefetches `length` bytes at `offset`.
    pub fn cache(self, offset: u64, length: u64) -> Result<(), Error> {
        devices::cache(self, offset, length)
    }

    /// Opens the device anew, as it was opened with the disk: a file by its path, and a component with
    /// new instances, also if it has failed. A disk in memory has lost its content after that.
    ///
    /// Requests on the device end before that, and others wait. `wit/lower.wit` has the limits.
    ///
    /// # Errors
    ///
    /// Returns `ENOTSUP` if the device has other users, and `EIO` if it could not be opened anew. The
    /// old device stays.
    pub fn reopen(self) -> Result<(), Error> {
        devices::reopen(self)
    }
}

/// Withdraws all answers of [`Filter::stable`](crate::Filter::stable). Returns when no request is
/// in progress that relies on one; the host then asks again.
pub fn withdraw_routes() {
    devices::withdraw_routes();
}

/// Sets the stable route of a range of whole granules for some operations, or that there is none: such
/// requests within the range are passed to `place` from now on, and cost no call. Requests that began
/// before may still follow the former route. For a filter that learns what is stable while it serves
/// requests, see `wit/lower.wit`.
pub fn set_route(operations: Operations, offset: u64, length: u64, place: Option<Location>) {
    devices::set_route(operations, offset, length, place);
}

/// Releases all requests that are held under this number, by [`Route::held`]. Those that are held later
/// wait for another call.
pub fn release(hold: u64) {
    devices::release(hold);
}
