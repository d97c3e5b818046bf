//! A filter that moves parts of another disk, like nbdkit's filter `map`.
//!
//! `map=START-END:DEST` says that the bytes from `START` to `END`, both included, are those of the disk
//! beneath from `DEST` on. It can be repeated; the first that has an offset holds. All other bytes are
//! at the same offset beneath. This exchanges the first two sectors:
//!
//! ```text
//! memnbd-host --filter=map file disk.img map=0-511:512 map=512-1023:0
//! ```
//!
//! `map-size` is the size of the disk, by default that of the disk beneath. Requests for bytes that
//! would be after the end of the disk beneath fail with EIO.
//!
//! Several parts of the disk can be at one place. All requests are divided and passed on; those that
//! change two such parts at once go through this component, in pieces of 1 MiB, from the lowest offset
//! on.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod ranges;

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute, ZeroOptions,
};

use ranges::Range;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Map {
    base: Lower,
    /// The size of the device beneath.
    available: u64,
    size: u64,
    /// All of the disk.
    ranges: Vec<Range>,
}

/// A part of a request.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    place: u64,
    length: u64,
}

impl Map {
    /// Returns the parts of a range of the disk, in order.
    fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = Part> {
        let first = self.ranges.partition_point(|range| range.end <= offset);
        let end = offset + length;
        let touched = self.ranges[first..].iter().take_while(move |range| range.start < end);
        touched.map(move |range| {
            let offset = range.start.max(offset);
            let length = range.end.min(end) - offset;
            Part { offset, place: range.place(offset), length }
        })
    }

    /// Succeeds if a part is on the device beneath.
    fn check(&self, part: Part) -> Result<Part, Error> {
        if part.place + part.length <= self.available {
            return Ok(part);
        }
        Err(Error::EIO.because(format!(
            "{} bytes at {} would be at {} of the device beneath, which has {} bytes",
            part.length, part.offset, part.place, self.available
        )))
    }

    /// Calls a function with each part of a range.
    fn each(
        &self,
        offset: u64,
        length: u64,
        mut call: impl FnMut(Part) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.parts(offset, length).try_for_each(|part| call(self.check(part)?))
    }
}

/// Returns true if two parts of a route are at one place.
fn overlap(parts: &[Part]) -> bool {
    let mut places: Vec<(u64, u64)> = parts.iter().map(|part| (part.place, part.length)).collect();
    places.sort_unstable();
    places.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
}

impl Backend for Map {
    fn describe() -> Description {
        Description::new("map", env!("CARGO_PKG_VERSION"), "another disk, with its parts elsewhere")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
            .parameter(
                Parameter::text("map", "START-END:DEST, these bytes are at DEST beneath")
                    .repeatable(),
            )
            .parameter(
                Parameter::size("map-size", "the size of the disk")
                    .default("that of the device beneath"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let available = base.geometry().size;
        let size = request.size("map-size").unwrap_or(available);
        Ok(Self { base, available, size, ranges: ranges::parse(request, size)? })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        let bounds = self.ranges.iter();
        let bounds = bounds.fold(self.size, |all, one| all | one.start | one.end | one.destination);
        let divisors = u64::from(disk.minimum_block) | bounds;
        Disk {
            size: self.size,
            minimum_block: 1 << divisors.trailing_zeros(),
            capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE,
            ..disk
        }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.each(offset, buffer.len() as u64, |part| {
            let at = (part.offset - offset) as usize;
            self.base.read(part.place, &mut buffer[at..at + part.length as usize])
        })
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        self.each(offset, data.len() as u64, |part| {
            let at = (part.offset - offset) as usize;
            self.base.write(part.place, &data[at..at + part.length as usize], fua)
        })
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        self.each(offset, length, |part| self.base.zero(part.place, part.length, options))
    }

    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        self.each(offset, length, |part| self.base.trim(part.place, part.length, fua))
    }
}

impl Filter for Map {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let mut route = Route::new();
        let mut parts = Vec::new();
        for part in self.parts(request.offset, request.length) {
            match self.check(part) {
                // What is known so far is an answer, too.
                Err(_) if request.operation == Operation::Extents && !parts.is_empty() => break,
                checked => parts.push(checked?),
            }
            route.push(self.base.at(part.place), part.length);
        }
        if request.operation.changes() && overlap(&parts) {
            return Ok(Route::new().segment(Place::Own, request.length));
        }
        Ok(route)
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let length = self.size.checked_sub(offset)?;
        let part = self.check(self.parts(offset, length).next()?).ok()?;
        Some(StableRoute::new(self.base.at(part.place), part.length))
    }
}

memnbd_guest::filter!(Map);

#[cfg(test)]
mod tests;
