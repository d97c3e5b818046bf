//! A filter that lets another disk run out of space: writes fail with ENOSPC from some moment on, or from
//! some place on. It tests programs with a thin disk whose pool is full.
//!
//! - `enospc-after=SIZE`: so much can be written to places where nothing was written since the disk was
//!   opened. Writes that need more fail; writes to places that were written before still succeed. Space is
//!   counted in blocks of `enospc-block` bytes, 4096 by default. Trims give it back, and so does zeroing
//!   that may deallocate, unless `enospc-reclaim=false`.
//! - `enospc-offset=OFFSET`: writes and zeroing that touch a byte from this offset on fail.
//!
//! A write that fails changes nothing, unless `enospc-partial=true`: then the blocks are written for which
//! there is space, as `write` in a file system that becomes full.
//!
//! nbdkit's plugin `full`, which is here as well, is a whole disk that is always full.
//!
//! Everything but writes, zeroing and trims passes without a call of this component.
//!
//! # Commands
//!
//! - `status` tells how much space is used, and how much there is.
//! - `set KEY=VALUE...` changes parameters. What was written stays counted, unless the block is another:
//!   `set enospc-after=1G` makes the pool larger.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod space;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Filter, Lower, OpenRequest,
    Operation, Parameter, ParameterType, Place, Request, Route, StableRoute, withdraw_routes,
};

use space::Space;

/// The longest block in which space is counted.
const MAX_BLOCK: u64 = 1 << 30;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Enospc {
    base: Lower,
    size: u64,
    /// The length of a block.
    block: u64,
    /// How many blocks can be written.
    blocks: Option<u64>,
    /// The first byte that cannot be written.
    end: u64,
    is_partial: bool,
    reclaims: bool,
    /// The blocks that were written.
    space: Space,
    request: OpenRequest,
}

impl Enospc {
    fn error(&self) -> Error {
        Error::ENOSPC.because("no space is left, says the filter enospc")
    }

    /// Takes space for a range, or for the part for which there is some. Returns the end of what was
    /// taken.
    fn take(&mut self, start: u64, end: u64, is_partial: bool) -> u64 {
        let end = end.min(self.end);
        if start >= end {
            return start;
        }
        let Some(blocks) = self.blocks else { return end };
        let (first, last) = (start / self.block, end.div_ceil(self.block));
        let left = blocks.saturating_sub(self.space.used());
        let fits = self.space.fits(first, last, left);
        if fits < last && !is_partial {
            return start;
        }
        self.space.add(first, fits);
        end.min(fits.saturating_mul(self.block)).max(start)
    }

    /// Gives back the blocks that lie within a range.
    fn give_back(&mut self, start: u64, end: u64) {
        if !self.reclaims || self.blocks.is_none() {
            return;
        }
        let last = if end == self.size { end.div_ceil(self.block) } else { end / self.block };
        self.space.remove(start.div_ceil(self.block), last);
    }

    /// Routes a request that takes space.
    fn route_taking(&mut self, request: &Request) -> Result<Route, Error> {
        let is_partial = self.is_partial && request.operation == Operation::Write;
        if !is_partial && request.end() > self.end {
            return Err(self.error());
        }
        let end = self.take(request.offset, request.end(), is_partial);
        if end == request.end() {
            return Ok(self.base.pass(request));
        }
        if end == request.offset {
            return Err(self.error());
        }
        let written = end - request.offset;
        let route = Route::lower(self.base.at(request.offset), written);
        Ok(route.segment(Place::Own, request.length - written))
    }
}

impl Backend for Enospc {
    fn describe() -> Description {
        Description::new(
            "enospc",
            env!("CARGO_PKG_VERSION"),
            "another disk, which runs out of space",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::size("enospc-after", "how much can be written where nothing was written")
                .default("everything"),
        )
        .parameter(
            Parameter::size("enospc-offset", "from this offset on, writes fail")
                .default("the end of the disk"),
        )
        .parameter(
            Parameter::new(
                "enospc-block",
                "the length of the blocks in which space is counted",
                ParameterType::Size(1, MAX_BLOCK),
            )
            .default("4096"),
        )
        .parameter(
            Parameter::boolean("enospc-partial", "whether the first part of a write is written")
                .default("false"),
        )
        .parameter(
            Parameter::boolean("enospc-reclaim", "whether trims give space back").default("true"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        let block = request.size("enospc-block").unwrap_or(4096);
        if !block.is_power_of_two() {
            return Err(Error::EINVAL
                .because(format!("enospc-block={block} must be a power of two, such as 4096")));
        }
        Ok(Self {
            base,
            size,
            block,
            blocks: request.size("enospc-after").map(|after| after / block),
            end: request.size("enospc-offset").unwrap_or(size).min(size),
            is_partial: request.boolean("enospc-partial").unwrap_or(false),
            reclaims: request.boolean("enospc-reclaim").unwrap_or(true),
            space: Space::default(),
            request: request.clone(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry()).in_pieces()
    }

    /// Reads blocks of which a part is written by a request that fails.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)
    }

    /// Refuses the part of a write for which there is no space.
    fn write(&mut self, _: u64, _: &[u8], _: bool) -> Result<(), Error> {
        Err(self.error())
    }
}

impl Filter for Enospc {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        match request.operation {
            Operation::Write => return self.route_taking(request),
            Operation::Zero if request.keep_allocated => return self.route_taking(request),
            Operation::Zero if request.end() > self.end => return Err(self.error()),
            Operation::Zero | Operation::Trim => self.give_back(request.offset, request.end()),
            Operation::Read | Operation::Cache | Operation::Extents => {}
        }
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let counts = self.blocks.is_some() && operation.changes();
        if counts {
            return None;
        }
        let end = match operation {
            Operation::Write | Operation::Zero => self.end,
            _ => self.size,
        };
        self.base.pass_until(offset, end)
    }
}

impl Control for Enospc {
    fn commands(&self) -> Vec<Command> {
        vec![
            Command::set(Self::describe()),
            Command::new("status", "tells how much space is used, and how much there is"),
        ]
    }

    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error> {
        if command == "status" {
            let used = self.space.used() * self.block;
            return Ok(match self.blocks {
                Some(blocks) => format!("{used} of {} bytes are used", blocks * self.block),
                None => "space is not limited".into(),
            });
        }
        let mut changed = Self::open(&self.request.changed(arguments))?;
        if changed.block == self.block {
            changed.space = core::mem::take(&mut self.space);
        }
        *self = changed;
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Enospc);
memnbd_guest::control!(Enospc);

#[cfg(test)]
mod tests;
