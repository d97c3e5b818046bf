//! A filter that serves the content of a zstd file, read-only.
//!
//! ```text
//! pzstd disk.img
//! memnbd-host --filter=zstd file disk.img.zst
//! ```
//!
//! The file is decompressed in the sandbox of a component. Each frame of a zstd file can be decompressed by
//! itself. A read in the middle of a frame takes the time to decompress all of the frame before it, so
//! frames should be short: `pzstd` and tools for the seekable format make many, while `zstd` makes one, which
//! is good for reading the disk from the beginning to the end. Sequential reads are decompressed once.
//!
//! A file in the seekable format has a table of its frames at the end. Otherwise the headers of all frames
//! and blocks are read when the disk is opened. Frames that do not tell the size of their content, such as
//! those of `pzstd` and of what `zstd` reads from a pipe, are then decompressed to find it, which takes
//! processor time in one call: a second for some hundred megabytes. `--deadline` bounds that, and has to be
//! raised for large disks.
//!
//! `zstd-size` is the size of the disk, which makes this unnecessary if only one frame does not tell its
//! own. If it is wrong, reads at the end fail.
//!
//! A read for which more than 256 MiB have to be decompressed that it does not need fails with EIO, so that
//! it does not exceed `--deadline`, after which the disk would be lost; the next read goes on from there.
//! Checksums, those of the seek table as well, are verified when a frame has been decompressed to its end.
//!
//! Windows of up to 128 MiB are supported, as by `zstd` itself unless `--long` is given, and up to an eighth of
//! the memory of the disk. Files that need a dictionary are refused, and so are those of versions before
//! 0.8.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod cursor;
mod index;

use core::ops::Range;

use memnbd_formats::{BlockReader, Decode, Pages, decoded};
use memnbd_guest::{
    Backend, Description, Disk, Error, Filter, Lower, OpenRequest, Operation, Parameter, Request,
    Route, StableRoute,
};

use cursor::Cursor;
use index::Index;

/// The most memory for what is decompressed.
const MAX_KEPT: u64 = 64 << 20;

/// The memory for pages of the file while the index is made.
const INDEX: usize = 1 << 20;

/// The most bytes that are decompressed for a read that does not need them.
const MAX_SKIP: u64 = 256 << 20;

/// The largest window, the limit of `zstd` itself.
const MAX_WINDOW: u64 = 128 << 20;

/// The open disk.
pub struct Zstd {
    base: Lower,
    reader: BlockReader<Decoder>,
}

/// Decompresses frames.
struct Decoder {
    base: Lower,
    index: Index,
    max_window: u64,
}

impl Decode for Decoder {
    type Cursor = Cursor;

    fn block(&mut self, offset: u64) -> Range<u64> {
        let number = self.index.find(offset);
        number.map_or(0..self.index.size, |number| self.index.content(number))
    }

    fn start(&mut self, block: &Range<u64>) -> Result<Cursor, Error> {
        let number = self.index.find(block.start).ok_or(Error::EIO)?;
        let frame = self.index.frames.get(number).ok_or(Error::EIO)?;
        let cursor = Cursor::new(self.base, self.index.input(number), self.max_window);
        Ok(cursor.of(block.end - block.start, frame.checksum))
    }

    fn next(&mut self, cursor: &mut Cursor, buffer: &mut [u8]) -> Result<(), Error> {
        cursor.fill(buffer)
    }
}

impl Backend for Zstd {
    fn describe() -> Description {
        Description::new("zstd", env!("CARGO_PKG_VERSION"), "the content of a zstd file, read-only")
            .parameter(
                Parameter::device("base", "the device beneath, which has the file")
                    .unshared()
                    .required(),
            )
            .parameter(
                Parameter::size("zstd-size", "the size of the disk, if it is known")
                    .default("what the file says, or else found by decompressing it at the start"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let memory = request.memory_limit;
        // A window takes twice its size while it is in use, and three times while it grows.
        let max_window = MAX_WINDOW.min(memory / 8);
        let cursors = (memory / 2 / (3 * max_window).max(1)).clamp(1, 4) as usize;
        let index = Index::read(
            &mut Pages::new(base, INDEX),
            memory / 16,
            request.size("zstd-size"),
            |input| Cursor::new(base, input, max_window).count(),
        )?;
        let decoder = Decoder { base, index, max_window };
        let reader = BlockReader::new(decoder, MAX_KEPT.min(memory / 8), cursors, MAX_SKIP);
        Ok(Self { base, reader })
    }

    fn disk(&self) -> Disk {
        decoded::disk(&self.base, self.reader.get().index.size)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.reader.read(offset, buffer)
    }
}

impl Filter for Zstd {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(decoded::route(request))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        decoded::stable(self.reader.get().index.size, offset)
    }
}

memnbd_guest::filter!(Zstd);

#[cfg(test)]
mod tests;
