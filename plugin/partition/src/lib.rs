//! A filter that serves a partition of another disk, like nbdkit's filter `partition`.
//!
//! `partition` is its number, counted from 1. Without it the name of the export is the number, and
//! the empty name stands for the first partition. So this serves all partitions of an image, which
//! clients can list:
//!
//! ```text
//! memnbd-host --export '*=file,filter=partition,disk.img'
//! ```
//!
//! Tables are MBR, with primary and logical partitions, and GPT, both in sectors of 512 bytes. In an
//! MBR, the primary partitions have the numbers 1 to 4 and the logical ones those from 5 on. The table
//! is read once, when the disk is opened.
//!
//! # Differences from nbdkit
//!
//! The checksums of a GPT are verified, and the copy at the end is used if the first header is damaged.
//! Boot records of an extended partition may be in any order; there may be up to 1024. Those without a
//! partition have no number, as in Linux.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod gpt;
mod mbr;
mod table;

use alloc::format;
use alloc::string::{String, ToString};

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Level, Listed, ListedExport, Listing,
    Lower, OpenRequest, Operation, Parameter, Request, Route, StableRoute, log,
};

use table::Table;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Partition {
    base: Lower,
    start: u64,
    length: u64,
    description: String,
}

/// Returns the number of the partition that a request asks for, or `None` for the first.
fn number(request: &OpenRequest) -> Result<Option<u32>, Error> {
    if let Some(number) = request.number("partition") {
        // Checked by the host.
        return Ok(Some(number as u32));
    }
    let name = request.export_name.as_str();
    if name.is_empty() {
        return Ok(None);
    }
    let is_number = !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    let number = name.parse().ok().filter(|_| is_number);
    number.map(Some).ok_or_else(|| {
        Error::EINVAL.because(format!(
            "give partition=N; without it the name of the export is the number of a partition, \
             which {name:?} is not"
        ))
    })
}

impl Backend for Partition {
    fn describe() -> Description {
        Description::new("partition", env!("CARGO_PKG_VERSION"), "a partition of another disk")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
            .parameter(
                Parameter::number(
                    "partition",
                    "the number of the partition, counted from 1",
                    1,
                    u32::MAX.into(),
                )
                .default("the name of the export, or else the first"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let number = number(request)?;
        let table = Table::read(base)?;
        let found = match number {
            Some(number) => table.find(number)?,
            None => match table.partitions.first() {
                Some(first) => first,
                None => table.find(1)?,
            },
        };
        let description = format!("partition {} of the {}", found.number, table.kind.name());
        Ok(Self { base, start: found.start, length: found.length, description })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        // The largest power of two that divides all three.
        let divisors = u64::from(disk.minimum_block) | self.start | self.length;
        Disk {
            size: self.length,
            minimum_block: 1 << divisors.trailing_zeros(),
            capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE,
            description: self.description.clone().into(),
            ..disk
        }
    }
}

impl Filter for Partition {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(Route::lower(self.base.at(self.start + request.offset), request.length))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let length = self.length.checked_sub(offset).filter(|length| *length > 0)?;
        Some(StableRoute::new(self.base.at(self.start + offset), length))
    }
}

impl Listing for Partition {
    fn exports(request: &OpenRequest) -> Result<Listed, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let table = Table::read(base)?;
        for defect in table.defects.iter().filter_map(|defect| defect.message.as_deref()) {
            log(Level::Warn, defect);
        }
        let only = request.number("partition");
        let partitions = table.partitions.iter();
        let exports = partitions.map(|partition| ListedExport {
            name: partition.number.to_string(),
            description: format!(
                "partition {} of the {}, {} bytes, {}",
                partition.number,
                table.kind.name(),
                partition.length,
                if partition.label.is_empty() { "without a name" } else { &partition.label }
            ),
        });
        // With the parameter, all names stand for one partition.
        let exports =
            exports.filter(|export| only.is_none_or(|number| number.to_string() == export.name));
        let exports: alloc::vec::Vec<_> = exports.collect();
        let default = exports.first().map(|export| export.name.clone());
        Ok(Listed { exports, default })
    }
}

memnbd_guest::filter!(Partition);
memnbd_guest::listing!(Partition);

#[cfg(test)]
mod tests;
