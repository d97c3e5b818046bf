//! A filter that serves the content of a gzip file, read-only, like nbdkit's filter `gzip`.
//!
//! ```text
//! memnbd-host --filter=gzip file disk.img.gz
//! ```
//!
//! The file is decompressed in the sandbox of a component. It is decompressed once as a whole when the
//! disk is opened, because that is the only way to know its size: the length at the end of a gzip file
//! is that of its last member, modulo 4 GiB. That pass checks the whole file, and takes processor time
//! in one call: a second for some hundred megabytes. `--deadline` bounds that, and has to be raised for
//! large disks.
//!
//! `gzip-size` is the size of the disk, which makes this pass unnecessary. If it is too large, reads
//! beyond the end fail.
//!
//! The pass remembers up to some hundred places in the file from which decompressing can begin, so that
//! a read in the middle decompresses little before it. These and decompressed bytes take at most a
//! quarter of the memory of the disk each.
//!
//! # Differences from nbdkit
//!
//! nbdkit keeps the decompressed file on the file system. Files of several members are decompressed as a
//! whole, as by gzip itself.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod stream;

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use memnbd_formats::{BlockReader, Decode, decoded};
use memnbd_guest::{
    Backend, Description, Disk, Error, Filter, Lower, MAX_SIZE, OpenRequest, Operation, Parameter,
    Request, Route, StableRoute,
};

use stream::{CURSOR, Cursor, Input, damaged};

/// The distance of the places from which decompressing can begin, as long as they are few.
const DISTANCE: u64 = 1 << 20;

/// The most such places.
const MAX_POINTS: u64 = 1024;

/// The most memory for decompressed bytes.
const MAX_KEPT: u64 = 64 << 20;

/// The most bytes that are decompressed for a read that does not need them, without the first pass.
const MAX_SKIP: u64 = 512 << 20;

/// How much is decompressed at once in the first pass.
const PIECE: usize = 64 << 10;

/// The open disk.
pub struct Gzip {
    base: Lower,
    reader: BlockReader<Decoder>,
}

/// Decompresses from the places that are known.
struct Decoder {
    input: Input,
    size: u64,
    /// Places from which decompressing can begin, the first at the beginning.
    points: Vec<(u64, Cursor)>,
    max_points: usize,
    /// How far apart they are.
    distance: u64,
}

impl Decoder {
    /// Remembers a place, if it is far enough from the last one.
    fn remember(&mut self, offset: u64, cursor: &Cursor) {
        let last = self.points.last().map_or(0, |(last, _)| *last);
        if offset < last.saturating_add(self.distance) {
            return;
        }
        if self.points.len() >= self.max_points {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.distance *= 2;
        }
        self.points.push((offset, cursor.clone()));
    }

    /// Decompresses the whole file. Returns its size.
    fn pass(&mut self) -> Result<u64, Error> {
        let mut cursor = Cursor::new();
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        loop {
            let length = cursor.read(&mut self.input, &mut piece)?;
            offset += length as u64;
            if length < PIECE {
                return Ok(offset);
            }
            self.remember(offset, &cursor);
        }
    }
}

impl Decode for Decoder {
    type Cursor = (u64, Cursor);

    /// Blocks are what is between places that are known. Later places must not divide a block in which a
    /// decoder is at work, so those are only found in the first pass, or else at the end of the last one.
    fn block(&mut self, offset: u64) -> Range<u64> {
        let next = self.points.partition_point(|(start, _)| *start <= offset);
        let start = next.checked_sub(1).and_then(|index| self.points.get(index));
        let end = self.points.get(next).map_or(self.size, |(end, _)| *end);
        start.map_or(0, |(start, _)| *start)..end
    }

    fn start(&mut self, block: &Range<u64>) -> Result<Self::Cursor, Error> {
        let index = self.points.binary_search_by_key(&block.start, |(start, _)| *start);
        let point = index.ok().and_then(|index| self.points.get(index));
        point.map(|(start, cursor)| (*start, cursor.clone())).ok_or(Error::EIO)
    }

    fn next(&mut self, cursor: &mut Self::Cursor, buffer: &mut [u8]) -> Result<(), Error> {
        let (offset, cursor) = cursor;
        let length = cursor.read(&mut self.input, buffer)?;
        *offset += length as u64;
        if length < buffer.len() {
            return Err(damaged(*offset, "it ends before the size that it was said to have"));
        }
        Ok(())
    }
}

impl Backend for Gzip {
    fn describe() -> Description {
        Description::new("gzip", env!("CARGO_PKG_VERSION"), "the content of a gzip file, read-only")
            .parameter(
                Parameter::device("base", "the device beneath, which has the file")
                    .unshared()
                    .required(),
            )
            .parameter(
                Parameter::size("gzip-size", "the size of the disk, if it is known")
                    .default("found by decompressing the whole file at the start"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let share = request.memory_limit / 4;
        let mut decoder = Decoder {
            input: Input::new(base),
            size: 0,
            points: vec![(0, Cursor::new())],
            max_points: (share / CURSOR).clamp(8, MAX_POINTS) as usize,
            distance: DISTANCE,
        };
        // A file without any member is none, even with a size.
        let mut first = [0; 1];
        let is_empty = Cursor::new().read(&mut decoder.input, &mut first)? == 0;
        if is_empty && !decoder.input.is_gzip()? {
            return Err(Error::EINVAL.because("the device has no gzip file"));
        }
        decoder.size = match request.size("gzip-size") {
            Some(size) => size,
            None => decoder.pass()?,
        };
        if decoder.size > MAX_SIZE {
            return Err(Error::EINVAL.because("the disk would have more than 2^63-1 bytes"));
        }
        let reader = BlockReader::new(decoder, share.min(MAX_KEPT), 4, MAX_SKIP);
        Ok(Self { base, reader })
    }

    fn disk(&self) -> Disk {
        decoded::disk(&self.base, self.reader.get().size)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.reader.read(offset, buffer)
    }
}

impl Filter for Gzip {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(decoded::route(request))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        decoded::stable(self.reader.get().size, offset)
    }
}

memnbd_guest::filter!(Gzip);

#[cfg(test)]
mod tests;
