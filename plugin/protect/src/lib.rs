//! A filter that protects parts of another disk from changes, like nbdkit's filter `protect`.
//!
//! `protect=START-END` protects the bytes from `START` to `END`, both included, and
//! `protect=~START-END` all others. `START` and `END` are sizes; without one, the range begins or ends
//! with the disk. The parameter can be repeated.
//!
//! Protected bytes can be read, and can be written, zeroed and trimmed if that does not change them:
//! writes must have what is there, and zeroing and trims must be of zeroes. Otherwise the request fails
//! with EPERM, and what else it was for may have been done. Zeroing and trims of very long ranges with
//! much data that is zero fail with EOVERFLOW.
//!
//! Requests elsewhere cost no call of this component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod ranges;

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Chunk, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute, ZeroOptions,
};

use ranges::Range;

/// The length of the pieces in which data are compared.
const PIECE: u64 = 256 << 10;

/// The most pieces that one call looks at, and the most questions for extents.
const MAX_STEPS: usize = 1024;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Protect {
    base: Lower,
    size: u64,
    /// In ascending order, and apart from each other.
    ranges: Vec<Range>,
}

impl Protect {
    /// Returns whether the byte at an offset is protected, and the end of the bytes after it of which
    /// the same is true.
    fn at(&self, offset: u64) -> (bool, u64) {
        let next = self.ranges.partition_point(|range| range.end <= offset);
        match self.ranges.get(next) {
            Some(range) if range.start <= offset => (true, range.end),
            Some(range) => (false, range.start),
            None => (false, self.size),
        }
    }

    fn refusal(&self, offset: u64) -> Error {
        let range = self.ranges.iter().find(|range| range.end > offset);
        let (start, end) = range.map_or((0, 0), |range| (range.start, range.end));
        Error::EPERM.because(format!(
            "bytes {start} to {} are protected and would change",
            end.saturating_sub(1)
        ))
    }

    /// Succeeds if the range is zero.
    fn check_zero(&self, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset + length;
        let mut at = offset;
        for _ in 0..MAX_STEPS {
            for extent in self.base.extents(at, end - at)? {
                if !extent.status.zero {
                    break;
                }
                at += extent.length;
                if at >= end {
                    return Ok(());
                }
            }
            let piece = (end - at).min(PIECE);
            let chunks = self.base.read_chunks(at, piece as u32)?;
            let is_zero = chunks.iter().all(|chunk| match chunk {
                Chunk::Data(bytes) => bytes.iter().all(|byte| *byte == 0),
                Chunk::Hole(_) => true,
            });
            if !is_zero {
                return Err(self.refusal(at));
            }
            at += piece;
            if at >= end {
                return Ok(());
            }
        }
        Err(Error::EOVERFLOW.because(format!(
            "it takes too long to find out whether {length} protected bytes at {offset} are zero; \
             send shorter requests"
        )))
    }
}

impl Backend for Protect {
    fn describe() -> Description {
        Description::new(
            "protect",
            env!("CARGO_PKG_VERSION"),
            "another disk, parts of which cannot be changed",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::text("protect", "START-END, protect these bytes; or ~START-END, all others")
                .repeatable(),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        Ok(Self { base, size, ranges: ranges::parse(request, size)? })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        // So that blocks are protected as a whole or not at all.
        let bounds = self.ranges.iter().fold(0, |bounds, range| bounds | range.start | range.end);
        let divisors = u64::from(disk.minimum_block) | bounds;
        Disk {
            minimum_block: 1 << divisors.trailing_zeros(),
            capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE,
            ..disk
        }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)
    }

    /// Compares what is written to a protected range.
    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        let mut at = offset;
        for data in data.chunks(PIECE as usize) {
            let mut rest = data;
            for chunk in self.base.read_chunks(at, data.len() as u32)? {
                let length = match &chunk {
                    Chunk::Data(bytes) => bytes.len(),
                    Chunk::Hole(length) => *length as usize,
                };
                let (part, after) = rest.split_at_checked(length).ok_or(Error::EIO)?;
                let is_same = match &chunk {
                    Chunk::Data(bytes) => part == bytes.as_slice(),
                    Chunk::Hole(_) => part.iter().all(|byte| *byte == 0),
                };
                if !is_same {
                    return Err(self.refusal(at));
                }
                rest = after;
            }
            at += data.len() as u64;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, _options: ZeroOptions) -> Result<(), Error> {
        self.check_zero(offset, length)
    }

    fn trim(&mut self, offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
        self.check_zero(offset, length)
    }
}

impl Filter for Protect {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if !request.operation.changes() {
            return Ok(self.base.pass(request));
        }
        let mut route = Route::new();
        let mut at = request.offset;
        while at < request.end() {
            let (is_protected, end) = self.at(at);
            let length = end.min(request.end()) - at;
            if is_protected {
                route.push(Place::Own, length);
            } else {
                route.push(self.base.at(at), length);
            }
            at += length;
        }
        Ok(route)
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if !operation.changes() {
            return self.base.pass_all(offset);
        }
        let (is_protected, end) = self.at(offset);
        if is_protected {
            let length = end.checked_sub(offset).filter(|length| *length > 0)?;
            return Some(StableRoute::new(Place::Own, length));
        }
        self.base.pass_until(offset, end)
    }
}

memnbd_guest::filter!(Protect);

#[cfg(test)]
mod tests;
