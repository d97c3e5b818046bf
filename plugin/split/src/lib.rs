//! A disk that is the concatenation of files, like nbdkit's plugin `split`.
//!
//! The files follow each other in the order in which they are given. All requests are passed on to
//! the files; those that span several files are divided. The disk can be written, trimmed and so on
//! if all files can be.
//!
//! Unlike nbdkit's, this disk trims and zeroes files without writing zeroes, and files can be block
//! devices.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, MAX_PARTS, MAX_SIZE,
    OpenRequest, Operation, Parameter, Request, Route, StableRoute, Value,
};

/// A file of the disk.
#[derive(Clone, Copy, Debug)]
struct Part {
    device: Lower,
    /// The offset of its first byte on the disk.
    start: u64,
    /// The offset after its last byte.
    end: u64,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Split {
    /// The files, which follow each other. Empty ones are among them.
    parts: Vec<Part>,
    size: u64,
}

impl Split {
    /// Returns the files from `offset` on, without empty ones.
    fn from(&self, offset: u64) -> impl Iterator<Item = &Part> {
        let first = self.parts.partition_point(|part| part.end <= offset);
        self.parts[first..].iter().filter(|part| part.start < part.end)
    }
}

impl Backend for Split {
    fn describe() -> Description {
        Description::new("split", env!("CARGO_PKG_VERSION"), "several files, one after the other")
            .parameter(
                Parameter::file("file", "a file; the next one follows it")
                    .writes()
                    .required()
                    .repeatable(),
            )
            .bare_parameter("file")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut size = 0_u64;
        for value in request.values("file") {
            let Value::Device(device) = *value else { return Err(Error::EINVAL) };
            let start = size;
            size = start
                .checked_add(device.geometry().size)
                .filter(|size| *size <= MAX_SIZE)
                .ok_or_else(|| {
                    let count = parts.len() + 1;
                    Error::EINVAL.because(format!(
                        "the first {count} files together have more than {MAX_SIZE} bytes, the \
                         size of the largest disk"
                    ))
                })?;
            parts.push(Part { device, start, end: size });
        }
        if parts.is_empty() {
            return Err(Error::EINVAL.because("give at least one file"));
        }
        // A request for the whole disk is divided into as many parts.
        if parts.len() > MAX_PARTS {
            let count = parts.len();
            return Err(Error::EINVAL
                .because(format!("{count} files are given; a disk has at most {MAX_PARTS}")));
        }
        Ok(Self { parts, size })
    }

    fn disk(&self) -> Disk {
        let parts = self.parts.iter().map(|part| (part.start, part.device.geometry()));
        let mut disk = Disk::joining(self.size, parts);
        disk.capabilities |= Capabilities::INTERCHANGEABLE;
        disk
    }
}

impl Filter for Split {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let mut route = Route::new();
        for part in self.from(request.offset).take_while(|part| part.start < request.end()) {
            let start = part.start.max(request.offset);
            let length = part.end.min(request.end()) - start;
            route.push(part.device.at(start - part.start), length);
        }
        Ok(route)
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let part = self.from(offset).next()?;
        Some(StableRoute::new(part.device.at(offset - part.start), part.end - offset))
    }
}

memnbd_guest::filter!(Split);

#[cfg(test)]
mod tests;
