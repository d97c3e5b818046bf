//! A filter that serves the content of an xz file, read-only, like nbdkit's filter `xz`.
//!
//! ```text
//! xz --block-size=16MiB disk.img
//! memnbd-host --filter=xz file disk.img.xz
//! ```
//!
//! The file is decompressed in the sandbox of a component. Each block of an xz file can be decompressed
//! by itself, and the index at the end of the file says where the blocks are. A read in the middle of a
//! block takes the time to decompress all of the block before it, so blocks should be short; `xz --list`
//! shows their number. Sequential reads are decompressed once.
//!
//! `xz-max-block` is the largest block, 512 MiB by default; files with larger ones are refused.
//! `xz-max-depth` is the number of blocks that are kept decompressed, 8 by default, as far as a quarter
//! of the memory of the disk is enough for that.
//!
//! A read for which more than 256 MiB have to be decompressed that it does not need fails with EIO, so
//! that it does not exceed `--deadline`, after which the disk would be lost; the next read goes on from
//! there. The checksums CRC32 and CRC64 are verified when a block has been decompressed to its end;
//! SHA-256 is not.
//!
//! # Differences from nbdkit
//!
//! Files of several streams are served as a whole. A block need not fit in memory. At most one filter,
//! BCJ or delta, can stand before LZMA2, and dictionaries have at most 256 MiB.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod block;
mod index;

use alloc::format;

use memnbd_formats::{BlockReader, Pages, decoded};
use memnbd_guest::{
    Backend, Description, Disk, Error, Filter, Lower, OpenRequest, Operation, Parameter, Request,
    Route, StableRoute,
};

use block::Decoder;
use index::{Index, refused};

/// The largest block by default, as in nbdkit.
const MAX_BLOCK: u64 = 512 << 20;

/// The number of blocks that are kept, as in nbdkit.
const MAX_DEPTH: i64 = 8;

/// The most memory for what is decompressed.
const MAX_KEPT: u64 = 1 << 30;

/// The memory for pages of the index while it is read.
const INDEX: usize = 1 << 20;

/// The most bytes that are decompressed for a read that does not need them.
const MAX_SKIP: u64 = 256 << 20;

/// The memory for the dictionaries of decoders, of which there are up to four.
const DICTIONARIES: u64 = 256 << 20;

/// The open disk.
pub struct Xz {
    base: Lower,
    reader: BlockReader<Decoder>,
}

impl Backend for Xz {
    fn describe() -> Description {
        Description::new("xz", env!("CARGO_PKG_VERSION"), "the content of an xz file, read-only")
            .parameter(
                Parameter::device("base", "the device beneath, which has the file")
                    .unshared()
                    .required(),
            )
            .parameter(
                Parameter::size("xz-max-block", "the largest block; files with larger are refused")
                    .default("512M"),
            )
            .parameter(
                Parameter::number(
                    "xz-max-depth",
                    "the number of blocks that are kept decompressed",
                    1,
                    i64::MAX,
                )
                .default("8"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let index = Index::read(&mut Pages::new(base, INDEX))?;
        let max_block = request.size("xz-max-block").unwrap_or(MAX_BLOCK);
        if index.largest > max_block {
            return Err(refused(format!(
                "the xz file has a block of {} bytes, more than xz-max-block={max_block}; compress \
                 it in shorter blocks, such as with `xz --block-size=16MiB`",
                index.largest
            )));
        }
        let depth = request.number("xz-max-depth").unwrap_or(MAX_DEPTH).unsigned_abs();
        let kept = index.largest.saturating_mul(depth).min(MAX_KEPT).min(request.memory_limit / 4);
        let decoders = (DICTIONARIES / index.largest.max(1)).clamp(1, 4) as usize;
        let reader = BlockReader::new(Decoder { base, index }, kept, decoders, MAX_SKIP);
        Ok(Self { base, reader })
    }

    fn disk(&self) -> Disk {
        decoded::disk(&self.base, self.reader.get().index.size)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.reader.read(offset, buffer)
    }
}

impl Filter for Xz {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(decoded::route(request))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        decoded::stable(self.reader.get().index.size, offset)
    }
}

memnbd_guest::filter!(Xz);

#[cfg(test)]
mod tests;
