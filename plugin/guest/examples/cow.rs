//! An example of a filter with two devices: a copy-on-write layer. Reads come from the device
//! `base`, which is never changed, until a block is written; from then on the block is on the
//! device `overlay`.
//!
//! Which blocks are on the overlay is kept in memory only. The layer is for data that nobody needs
//! after the disk is closed: then the content of the overlay is garbage.
//!
//! # How requests are routed
//!
//! - A read has a segment for each run of blocks that are on the same device.
//! - A write goes to the overlay. Bytes that a write leaves out of its first and last block are
//!   copied there before, if the block is not on the overlay yet. When everything has succeeded,
//!   `done` marks the blocks. Granules are blocks, and a write locks them exclusively, so nobody
//!   sees a block between the copy and the mark. Zeroing is the same.
//! - A trim discards what is on the overlay, and keeps the rest.

#![cfg_attr(all(target_arch = "wasm32", feature = "runtime"), no_std)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, MAX_COPY, MAX_PARTS,
    OpenRequest, Operation, Parameter, ParameterType, Place, Request, Results, Route, Rules,
};

/// The size of blocks without the parameter.
const DEFAULT_BLOCK: u64 = 4096;

/// The longest read of a lower device by a component.
const MAX_READ: u32 = 1 << 20;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Cow {
    base: Lower,
    overlay: Lower,
    size: u64,
    block: u64,
    writable: bool,
    /// One bit for each block: it is on the overlay.
    present: Vec<u64>,
    /// The blocks of writes that are in progress, by their tokens.
    pending: BTreeMap<u64, Range<u64>>,
    next_token: u64,
}

impl Cow {
    fn is_present(&self, block: u64) -> bool {
        self.present[(block / 64) as usize] >> (block % 64) & 1 != 0
    }

    /// Returns the first block after `block` that is not on the same device, or `end` if there is
    /// none before it.
    fn end_of_run(&self, block: u64, end: u64) -> u64 {
        let others = if self.is_present(block) { 0 } else { u64::MAX };
        let mut at = block;
        while at < end {
            let same = (self.present[(at / 64) as usize] ^ others) >> (at % 64);
            let count = u64::from(same.trailing_ones());
            at += count;
            if count == 0 || !at.is_multiple_of(64) {
                break;
            }
        }
        at.min(end)
    }

    /// Returns the parts of a range that are on the same device, and whether that is the overlay.
    fn runs(&self, offset: u64, length: u64) -> impl Iterator<Item = (Range<u64>, bool)> {
        let end = offset + length;
        let mut at = offset;
        core::iter::from_fn(move || {
            let start = at;
            (start < end).then(|| {
                let block = start / self.block;
                at = end.min(self.end_of_run(block, end.div_ceil(self.block)) * self.block);
                (start..at, self.is_present(block))
            })
        })
    }

    /// Returns the blocks that a request touches.
    fn blocks(&self, request: &Request) -> Range<u64> {
        request.offset / self.block..request.end().div_ceil(self.block)
    }

    /// Routes each run to the place that `place` returns for its offset and device. If there are
    /// too many runs, what remains goes to `rest`, or is left out.
    fn route_runs(
        &self,
        request: &Request,
        rest: Option<Place>,
        place: impl Fn(u64, bool) -> Place,
    ) -> Route {
        let mut route = Route::new();
        for (range, present) in self.runs(request.offset, request.length) {
            if route.parts() == MAX_PARTS - 1 {
                if let Some(rest) = rest {
                    route.push(rest, request.end() - range.start);
                }
                break;
            }
            route.push(place(range.start, present), range.end - range.start);
        }
        route
    }

    /// Routes a write or a zeroing to the overlay.
    fn route_change(&mut self, request: &Request) -> Result<Route, Error> {
        let route = Route::lower(self.overlay.at(request.offset), request.length);
        let blocks = self.blocks(request);
        let (first, last) = (blocks.start, blocks.end - 1);
        if self.is_present(first) && self.end_of_run(first, blocks.end) == blocks.end {
            return Ok(route);
        }
        let start = first * self.block;
        let end = (blocks.end * self.block).min(self.size);
        let mut route = route;
        for (block, gap) in [(first, start..request.offset), (last, request.end()..end)] {
            if !gap.is_empty() && !self.is_present(block) {
                let (from, to) = (self.base.at(gap.start), self.overlay.at(gap.start));
                route = route.copy(from, to, gap.end - gap.start);
            }
        }
        if request.fast && !route.copies.is_empty() {
            return Err(Error::ENOTSUP);
        }
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, blocks);
        Ok(route.token(token))
    }
}

impl Backend for Cow {
    fn describe() -> Description {
        Description::new("cow", env!("CARGO_PKG_VERSION"), "a disk whose changes go to another one")
            .parameter(
                Parameter::device("base", "the device beneath, which is only read")
                    .unshared()
                    .required(),
            )
            .parameter(
                Parameter::device("overlay", "the device for changes, at least as large")
                    .writes()
                    .required(),
            )
            .parameter(
                Parameter::new(
                    "block",
                    "the unit in which data are copied to the overlay, a power of two",
                    ParameterType::Size(512, MAX_COPY),
                )
                .default("4096"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let overlay = request.device("overlay").ok_or(Error::EINVAL)?;
        let block = request.size("block").unwrap_or(DEFAULT_BLOCK);
        let (size, space) = (base.geometry().size, overlay.geometry().size);
        if base == overlay {
            return Err(Error::EINVAL.because("base and overlay must be different devices"));
        }
        if space < size {
            return Err(Error::EINVAL.because(format!(
                "overlay has {space} bytes; it must have at least the {size} bytes of base"
            )));
        }
        if !block.is_power_of_two() {
            return Err(Error::EINVAL.because("block must be a power of two"));
        }
        let writable = overlay.geometry().capabilities.contains(Capabilities::WRITABLE);
        if !writable && !request.read_only {
            return Err(Error::EPERM.because("overlay must be writable"));
        }
        let words = size.div_ceil(block).div_ceil(64);
        let mut present = Vec::new();
        usize::try_from(words)
            .ok()
            .and_then(|words| {
                present.try_reserve_exact(words).ok()?;
                present.resize(words, 0);
                Some(())
            })
            .ok_or_else(|| {
                let bytes = words * 8;
                Error::ENOMEM.because(format!(
                    "{bytes} bytes of memory are needed; a larger block takes less"
                ))
            })?;
        let pending = BTreeMap::new();
        Ok(Self { base, overlay, size, block, writable, present, pending, next_token: 0 })
    }

    fn disk(&self) -> Disk {
        let (base, overlay) = (self.base.geometry(), self.overlay.geometry());
        let mut disk = Disk::above(&base);
        disk.minimum_block = base.minimum_block.max(overlay.minimum_block).min(self.block as u32);
        disk.preferred_block = disk.preferred_block.max(self.block as u32).min(MAX_READ);
        // For the parts of reads that are own.
        disk.maximum_transfer = MAX_READ;
        disk.capabilities = Disk::above(&overlay).capabilities;
        if !self.writable {
            disk.capabilities = disk.capabilities.without(Capabilities::WRITABLE);
        }
        disk
    }

    /// Reads the parts of requests that have too many runs for a route.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        for (range, present) in self.runs(offset, buffer.len() as u64) {
            let device = if present { self.overlay } else { self.base };
            let part = (range.start - offset) as usize..(range.end - offset) as usize;
            device.read(range.start, &mut buffer[part])?;
        }
        Ok(())
    }
}

impl Filter for Cow {
    fn rules(&self) -> Rules {
        Rules::shared_or_exclusive(self.block)
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let (base, overlay) = (self.base, self.overlay);
        let nearest = |offset, present| {
            if present { overlay.at(offset).into() } else { base.at(offset).into() }
        };
        Ok(match request.operation {
            Operation::Read => self.route_runs(request, Some(Place::Own), nearest),
            Operation::Cache => self.route_runs(request, Some(Place::Hole), nearest),
            Operation::Extents => self.route_runs(request, None, nearest),
            Operation::Trim => self.route_runs(request, Some(Place::Hole), |offset, present| {
                if present { overlay.at(offset).into() } else { Place::Hole }
            }),
            Operation::Write | Operation::Zero => self.route_change(request)?,
        })
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        let blocks = self.pending.remove(&token).ok_or(Error::EIO)?;
        if results.succeeded() {
            for block in blocks {
                self.present[(block / 64) as usize] |= 1 << (block % 64);
            }
        }
        Ok(())
    }
}

memnbd_guest::filter!(Cow);

#[cfg(test)]
#[path = "cow/tests.rs"]
mod tests;
