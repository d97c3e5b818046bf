//! A filter that gives another disk bad sectors: reads of them fail with EIO until they are rewritten,
//! as Linux' device-mapper target `dust` does it. It tests how clients handle media errors.
//!
//! # Which sectors are bad
//!
//! - `badblocks-range=OFFSET:LENGTH`: those that touch this range. It can be repeated.
//! - `badblocks-count=N`: this many, chosen by chance.
//! - `badblocks-rate=P`: each with this probability.
//! - `badblocks-mapfile=FILE`: those that touch a byte whose state in a map file of GNU ddrescue is not
//!   `+`. The file is read once, and has at most 8 MiB. The filter `ddrescue` is for reading an image as
//!   ddrescue left it.
//!
//! These add up. `badblocks-sector` is the length of a sector, 512 by default. With the same
//! `badblocks-seed`, the same sectors are chosen. There can be up to 65536 ranges of bad sectors.
//!
//! # What fails
//!
//! Reads and prefetching that touch a bad sector fail. A write or zeroing that covers whole bad sectors
//! succeeds and mends them, as a drive that puts other sectors in their place; one that touches a part
//! of a bad sector fails, for a drive would have to read the rest. With `badblocks-mend=false`, sectors
//! stay bad, and writes fail as well. Trims and block status never fail.
//!
//! Requests elsewhere pass without a call of this component.
//!
//! # Commands
//!
//! - `set KEY=VALUE...` changes parameters. What was mended is bad again.
//! - `add range=OFFSET:LENGTH` makes more sectors bad, and `remove range=OFFSET:LENGTH` mends some.
//! - `list` tells the bad ranges.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod sectors;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;

use memnbd_faults::Range;
use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Filter, Lower, OpenRequest,
    Operation, Parameter, ParameterType, Request, Results, Route, StableRoute, Value,
    withdraw_routes,
};

use sectors::Sectors;

/// The longest sector.
const MAX_SECTOR: u64 = 1 << 20;

/// The most ranges that `list` tells.
const MAX_LISTED: usize = 1000;

/// The open disk.
#[derive(Clone, Debug)]
pub struct BadBlocks {
    base: Lower,
    size: u64,
    sectors: Sectors,
    /// Bad sectors can be rewritten.
    mends: bool,
    /// The ranges of requests that mend what they rewrite, by their tokens.
    rewriting: BTreeMap<u64, Range>,
    next_token: u64,
    request: OpenRequest,
}

impl BadBlocks {
    /// Returns the error of a request that touches a bad sector.
    fn bad(&self, range: Range) -> Error {
        Error::EIO.because(format!("the sector at {} is bad", range.start))
    }

    /// Routes a request that rewrites what it touches.
    fn rewrite(&mut self, request: &Request) -> Result<Route, Error> {
        let route = self.base.pass(request);
        let (start, end) = (request.offset, request.end());
        let bad = &self.sectors.bad;
        let Some(first) = bad.next(start).filter(|range| range.start < end) else {
            return Ok(route);
        };
        if !self.mends {
            return Err(self.bad(Range { start: first.start.max(start), ..first }));
        }
        // The bad sectors at its ends of which it leaves a part.
        let whole = self.sectors.round_in(start, end);
        for part in [Range { start, end: whole.start.min(end) }, Range { start: whole.end, end }] {
            if part.start < part.end && bad.touches(part.start, part.end) {
                return Err(self.bad(part));
            }
        }
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        self.rewriting.insert(token, whole);
        Ok(route.token(token))
    }

    fn list(&self) -> String {
        let mut text = String::new();
        let ranges = self.sectors.bad.as_slice();
        for Range { start, end } in ranges.iter().take(MAX_LISTED) {
            // A string takes everything.
            let _ = writeln!(text, "{start}:{}", end - start);
        }
        if ranges.len() > MAX_LISTED {
            let _ = writeln!(text, "and {} more", ranges.len() - MAX_LISTED);
        }
        text
    }
}

impl Backend for BadBlocks {
    fn describe() -> Description {
        Description::new(
            "badblocks",
            env!("CARGO_PKG_VERSION"),
            "another disk, some of whose sectors cannot be read until they are rewritten",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::text("badblocks-range", "OFFSET:LENGTH, sectors in this range are bad")
                .repeatable(),
        )
        .parameter(
            Parameter::number("badblocks-count", "so many sectors are bad, by chance", 0, 65536)
                .default("0"),
        )
        .parameter(
            Parameter::probability("badblocks-rate", "the probability that a sector is bad")
                .default("0"),
        )
        .parameter(
            Parameter::number(
                "badblocks-seed",
                "the seed; with the same, the same sectors are bad",
                0,
                i64::MAX,
            )
            .default("other sectors each time"),
        )
        .parameter(Parameter::file(
            "badblocks-mapfile",
            "a map file of GNU ddrescue; what was not rescued is bad",
        ))
        .parameter(
            Parameter::new(
                "badblocks-sector",
                "the length of a sector",
                ParameterType::Size(1, MAX_SECTOR),
            )
            .default("512"),
        )
        .parameter(
            Parameter::boolean("badblocks-mend", "whether bad sectors can be rewritten")
                .default("true"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        Ok(Self {
            base,
            size,
            sectors: Sectors::open(request, size)?,
            mends: request.boolean("badblocks-mend").unwrap_or(true),
            rewriting: BTreeMap::new(),
            next_token: 0,
            request: request.clone(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for BadBlocks {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        match request.operation {
            Operation::Read | Operation::Cache => match self.sectors.bad.next(request.offset) {
                Some(range) if range.start < request.end() => {
                    let start = range.start.max(request.offset);
                    Err(self.bad(Range { start, ..range }))
                }
                _ => Ok(self.base.pass(request)),
            },
            Operation::Write | Operation::Zero => self.rewrite(request),
            Operation::Trim | Operation::Extents => Ok(self.base.pass(request)),
        }
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        if let Some(range) = self.rewriting.remove(&token)
            && results.succeeded()
        {
            self.sectors.bad.remove(range.start, range.end);
        }
        Ok(())
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let end = match operation {
            Operation::Trim | Operation::Extents => self.size,
            _ => self.sectors.bad.next(offset).map_or(self.size, |range| range.start),
        };
        self.base.pass_until(offset, end)
    }
}

impl Control for BadBlocks {
    fn commands(&self) -> Vec<Command> {
        let range = Parameter::text("range", "OFFSET:LENGTH").repeatable().required();
        vec![
            Command::set(Self::describe()),
            Command::new("add", "makes sectors bad").parameter(range.clone()),
            Command::new("remove", "mends sectors").parameter(range),
            Command::new("list", "tells the ranges that are bad"),
        ]
    }

    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error> {
        let ranges = arguments.iter().filter_map(|argument| match &argument.value {
            Value::Text(text) if argument.name == "range" => {
                Some(Range::parse("range", text, self.size))
            }
            _ => None,
        });
        match command {
            "add" => {
                let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
                self.sectors.add(ranges, self.size)?;
            }
            "remove" => {
                for range in ranges.collect::<Result<Vec<_>, _>>()? {
                    let Range { start, end } = self.sectors.round_out(range, self.size);
                    self.sectors.bad.remove(start, end);
                }
            }
            "list" => return Ok(self.list()),
            _ => {
                let request = self.request.changed(arguments);
                *self = Self::open(&request)?;
            }
        }
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(BadBlocks);
memnbd_guest::control!(BadBlocks);

#[cfg(test)]
mod tests;
