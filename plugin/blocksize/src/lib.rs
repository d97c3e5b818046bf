//! A filter that changes the sizes of requests to another disk, like nbdkit's filter `blocksize`. It
//! lets any client use a disk that takes only some requests.
//!
//! - `minblock` is the unit of offsets and lengths, a power of two up to 64K. The minimum block of the
//!   disk beneath holds if that is larger. Reads and prefetches are rounded out to whole blocks. A write
//!   or zeroing that begins or ends within a block reads that block, changes it and writes it. The
//!   partial blocks of a trim are ignored. Bytes after the last whole block are not served.
//! - `maxdata` is the longest read, write or prefetch, by default `maxlen`. Longer ones become several.
//! - `maxlen` is the longest trim, zeroing or request for block status. The default is no limit, where
//!   that of nbdkit is the one of 32-bit lengths. A fast zeroing that would become several requests, or
//!   has partial blocks, fails with ENOTSUP.
//!
//! Both have to be multiples of the minimum block. nbdkit's manual counts prefetches among the requests
//! that `maxlen` limits, but its filter does what is said here.
//!
//! Without `maxdata`, a read or write has the length that the client or the host chose, at most 64 MiB.
//!
//! The bytes of whole blocks do not enter the component, and while it reads, changes and writes a block,
//! requests that change the same block wait. With a block of one byte and without limits, nothing costs
//! a call.
//!
//! A request can become up to 4096 by its route. If it would be more, the component makes them by itself,
//! one after the other: reads and writes in pieces of up to 1 MiB, of which the bytes do enter it. A trim
//! or zeroing that would become more than 65536 fails with EOVERFLOW, and a prefetch ends there.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod pieces;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Extent, Filter, Level, Lock, Lower, MAX_PARTS,
    OpenRequest, Operation, Parameter, ParameterType, Place, Request, Route, Rules, Segment,
    StableRoute, ZeroOptions, log,
};

use pieces::{Piece, Pieces};

/// The largest `minblock`.
const MAX_BLOCK: u64 = 64 << 10;

/// The most requests that one of a client becomes.
const MAX_REQUESTS: u64 = 65536;

/// The longest maximum, which is that of nbdkit.
const MAX_MAXIMUM: u64 = u32::MAX as u64;

/// The open disk.
#[derive(Clone, Debug)]
pub struct BlockSize {
    base: Lower,
    size: u64,
    /// The unit of requests to the device beneath: a power of two, up to 64 KiB.
    block: u64,
    /// The longest read or write: a multiple of `block`.
    max_data: u64,
    /// The longest request without data: a multiple of `block`.
    max_length: u64,
}

impl BlockSize {
    /// Returns the longest request of an operation.
    fn maximum(&self, operation: Operation) -> u64 {
        match operation {
            Operation::Read | Operation::Write | Operation::Cache => self.max_data,
            Operation::Zero | Operation::Trim | Operation::Extents => self.max_length,
        }
    }

    fn pieces(&self, operation: Operation, offset: u64, length: u64) -> Pieces {
        Pieces::new(offset, length, self.block, self.maximum(operation))
    }

    /// Returns the range in whole blocks.
    fn round_out(&self, offset: u64, length: u64) -> (u64, u64) {
        let start = offset - offset % self.block;
        // The size is a multiple of the block.
        let end = (offset + length).next_multiple_of(self.block);
        (start, end - start)
    }

    /// Changes a part of a block.
    fn change(&self, piece: Piece, fua: bool, change: impl FnOnce(&mut [u8])) -> Result<(), Error> {
        let (start, length) = self.round_out(piece.offset, piece.length);
        let mut block = vec![0; length as usize];
        self.base.read(start, &mut block)?;
        let within = (piece.offset - start) as usize;
        change(&mut block[within..within + piece.length as usize]);
        self.base.write(start, &block, fua)
    }

    /// Returns the pieces of a request without data, unless there are too many.
    fn countable(&self, operation: Operation, offset: u64, length: u64) -> Result<Pieces, Error> {
        let pieces = self.pieces(operation, offset, length);
        if pieces.count() > MAX_REQUESTS {
            let maximum = self.max_length;
            return Err(Error::EOVERFLOW.because(format!(
                "{length} bytes at {offset} would be more than {MAX_REQUESTS} requests of \
                 maxlen, which is {maximum}"
            )));
        }
        Ok(pieces)
    }
}

/// Returns a maximum that must be at least a block and a multiple of it.
fn maximum(request: &OpenRequest, name: &str, block: u64) -> Result<Option<u64>, Error> {
    match request.size(name) {
        Some(maximum) if !maximum.is_multiple_of(block) => Err(Error::EINVAL.because(format!(
            "{name}={maximum} must be a multiple of the minimum block, which is {block}"
        ))),
        maximum => Ok(maximum),
    }
}

impl Backend for BlockSize {
    fn describe() -> Description {
        let size =
            |name, summary, maximum| Parameter::new(name, summary, ParameterType::Size(1, maximum));
        Description::new(
            "blocksize",
            env!("CARGO_PKG_VERSION"),
            "another disk, with requests of other sizes",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            size(
                "minblock",
                "the unit of offsets and lengths of requests to the device beneath, a power of two",
                MAX_BLOCK,
            )
            .default("that of the device beneath, or 1"),
        )
        .parameter(
            size("maxdata", "the longest read, write or prefetch", MAX_MAXIMUM)
                .default("maxlen, at most 64M"),
        )
        .parameter(
            size("maxlen", "the longest trim, zeroing or request for block status", MAX_MAXIMUM)
                .default("no limit"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let geometry = base.geometry();
        let given = request.size("minblock").unwrap_or(1);
        if !given.is_power_of_two() {
            return Err(Error::EINVAL.because(format!("minblock={given} must be a power of two")));
        }
        let block = given.max(geometry.minimum_block.into());
        let max_length = maximum(request, "maxlen", block)?;
        let max_data = maximum(request, "maxdata", block)?.or(max_length);
        let size = geometry.size - geometry.size % block;
        if size < geometry.size {
            log(
                Level::Warn,
                &format!(
                    "the device beneath has {} bytes; the last {} are not served, for they are not \
                     a whole block of {block}",
                    geometry.size,
                    geometry.size - size
                ),
            );
        }
        Ok(Self {
            base,
            size,
            block,
            max_data: max_data.unwrap_or(u64::MAX),
            max_length: max_length.unwrap_or(u64::MAX),
        })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        Disk {
            size: self.size,
            minimum_block: 1,
            // A block has at most 64 KiB.
            preferred_block: disk.preferred_block.max(4096).max(self.block as u32),
            capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE,
            ..disk
        }
        .in_pieces()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut rest = buffer;
        for piece in self.pieces(Operation::Read, offset, rest.len() as u64) {
            let (part, after) = rest.split_at_mut(piece.length as usize);
            rest = after;
            if piece.is_whole {
                self.base.read(piece.offset, part)?;
                continue;
            }
            let (start, length) = self.round_out(piece.offset, piece.length);
            let mut block = vec![0; length as usize];
            self.base.read(start, &mut block)?;
            let within = (piece.offset - start) as usize;
            part.copy_from_slice(&block[within..within + part.len()]);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        let mut rest = data;
        for piece in self.pieces(Operation::Write, offset, data.len() as u64) {
            let (part, after) = rest.split_at(piece.length as usize);
            rest = after;
            match piece.is_whole {
                true => self.base.write(piece.offset, part, fua)?,
                false => self.change(piece, fua, |bytes| bytes.copy_from_slice(part))?,
            }
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        for piece in self.countable(Operation::Zero, offset, length)? {
            match piece.is_whole {
                true => self.base.zero(piece.offset, piece.length, options)?,
                false => self.change(piece, options.fua, |bytes| bytes.fill(0))?,
            }
        }
        Ok(())
    }

    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        let pieces = self.countable(Operation::Trim, offset, length)?;
        pieces
            .filter(|piece| piece.is_whole)
            .try_for_each(|piece| self.base.trim(piece.offset, piece.length, fua))
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let (start, length) = self.round_out(offset, length);
        let mut extents = self.base.extents(start, length.min(self.max_length))?;
        let mut before = offset - start;
        extents.retain_mut(|extent| {
            let cut = before.min(extent.length);
            before -= cut;
            extent.length -= cut;
            extent.length > 0
        });
        if extents.is_empty() {
            // The device answered for less than a block.
            return Err(Error::EIO);
        }
        Ok(extents)
    }

    fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        let (start, length) = self.round_out(offset, length);
        let mut pieces = self.pieces(Operation::Cache, start, length).take(MAX_REQUESTS as usize);
        pieces.try_for_each(|piece| self.base.cache(piece.offset, piece.length))
    }
}

impl Filter for BlockSize {
    /// Changes of a part of a block read and write it, and no other change may come between.
    fn rules(&self) -> Rules {
        match self.block {
            1 => Rules::NONE,
            granule => Rules {
                granule,
                read: Lock::None,
                cache: Lock::None,
                ..Rules::shared_or_exclusive(granule)
            },
        }
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let Request { operation, offset, length, .. } = *request;
        let own = Ok(Route::new().segment(Place::Own, length));
        let is_aligned = (offset | length).is_multiple_of(self.block);
        let pieces = self.pieces(operation, offset, length);
        if request.fast && !(is_aligned && pieces.count() == 1) {
            return Err(Error::ENOTSUP);
        }
        match operation {
            // The component rounds them out.
            Operation::Cache | Operation::Extents if !is_aligned => return own,
            // The answer may be for a part of the range.
            Operation::Extents => {
                return Ok(Route::lower(self.base.at(offset), length.min(self.max_length)));
            }
            _ if pieces.count() > MAX_PARTS as u64 => return own,
            _ => {}
        }
        let segments = pieces.map(|piece| {
            let place = match piece.is_whole {
                true => self.base.at(piece.offset).into(),
                false if operation == Operation::Trim => Place::Hole,
                false => Place::Own,
            };
            Segment { place, length: piece.length }
        });
        // Not merged: they are what the device beneath gets.
        Ok(Route { segments: segments.collect(), ..Route::new() })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if self.block > 1 || self.maximum(operation) < u64::MAX {
            return None;
        }
        self.base.pass_until(offset, self.size)
    }
}

memnbd_guest::filter!(BlockSize);

#[cfg(test)]
mod tests;
