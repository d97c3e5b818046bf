//! A partitioned disk made of files, like nbdkit's plugin `partitioning`. Each file is a partition.
//!
//! The partition table is an MBR, or a GPT if there are more than 4 files or the disk is too large
//! for an MBR; `partition-type` chooses one. `alignment`, `mbr-id` and `type-guid` apply to the
//! files that follow them, and `partition-name` to the next one. The layout and the tables are
//! nbdkit's, with two differences: the partitions of a GPT have the names that `partition-name`
//! gives, and not those of the files, which a component does not learn, and an alignment must be a
//! power of two.
//!
//! ```text
//! memnbd-host partitioning partition-type=gpt partition-name=boot boot.img partition-name=root root.img
//! ```
//!
//! Requests to the partitions are passed on to the files. The table and the gaps between the
//! partitions cannot be changed: a write or zeroing succeeds there if it writes what is there
//! already, and fails with `EIO` otherwise. A trim changes nothing there.
//!
//! # Layout
//!
//! - `config`: the partitions that the arguments describe.
//! - `layout`: where the partitions and tables are on the disk.
//! - `mbr`, `gpt`: the bytes of the tables.
//! - `guid`: GUIDs, as text and as they are stored.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod config;
mod gpt;
mod guid;
mod layout;
mod mbr;
#[cfg(test)]
mod tests;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, OpenRequest, Operation, Parameter,
    ParameterType, Place, Request, Route, StableRoute, ZeroOptions,
};

use config::{Config, TableType};
use layout::{Content, Layout, MAX_ALIGNMENT, Region, SECTOR};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Partitioning {
    config: Config,
    layout: Layout,
}

impl Partitioning {
    /// Returns where a part of a region is.
    fn place(&self, region: &Region, offset: u64, operation: Operation) -> Place {
        match &region.content {
            Content::Partition(index) => {
                self.config.partitions[*index].device.at(offset - region.start).into()
            }
            Content::Table(_) => Place::Own,
            // A write has to be checked, and zeroing may be asked to allocate.
            Content::Gap => match operation {
                Operation::Write | Operation::Zero => Place::Own,
                _ => Place::Hole,
            },
        }
    }

    /// Returns the regions that a range touches, and for each the touched part.
    fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = (&Region, u64, u64)> {
        let end = offset + length;
        self.layout
            .from(offset)
            .iter()
            .take_while(move |region| region.start < end)
            .map(move |region| (region, region.start.max(offset), region.end.min(end)))
    }

    /// Succeeds if the own bytes of a range equal those that `expected` returns for an offset.
    fn check(&self, offset: u64, length: u64, expected: impl Fn(u64) -> u8) -> Result<(), Error> {
        for (region, start, end) in self.parts(offset, length) {
            let (same, message) = match &region.content {
                Content::Partition(_) => return Err(Error::EIO),
                Content::Table(bytes) => (
                    (start..end).all(|at| expected(at) == bytes[(at - region.start) as usize]),
                    "the partition table cannot be changed",
                ),
                Content::Gap => (
                    (start..end).all(|at| expected(at) == 0),
                    "only zeroes can be written between the partitions",
                ),
            };
            if !same {
                return Err(Error::EIO.because(message));
            }
        }
        Ok(())
    }
}

impl Backend for Partitioning {
    fn describe() -> Description {
        Description::new("partitioning", env!("CARGO_PKG_VERSION"), "files as partitions of a disk")
            .parameter(
                Parameter::file("file", "a file, which is the next partition")
                    .writes()
                    .required()
                    .repeatable(),
            )
            .parameter(
                Parameter::choice("partition-type", "the partition table", &["mbr", "dos", "gpt"])
                    .default("mbr, or gpt for more than 4 files or about 2 TiB"),
            )
            .parameter(
                Parameter::new(
                    "alignment",
                    "the alignment of the partitions that follow, a power of two",
                    ParameterType::Size(SECTOR, MAX_ALIGNMENT),
                )
                .repeatable()
                .default("1M"),
            )
            .parameter(
                Parameter::text(
                    "mbr-id",
                    "the MBR type byte of the partitions that follow, or default",
                )
                .repeatable()
                .default("0x83, a Linux file system"),
            )
            .parameter(
                Parameter::text(
                    "type-guid",
                    "the GPT type GUID of the partitions that follow, or default",
                )
                .repeatable()
                .default("0FC63DAF-8483-4772-8E79-3D69D8477DE4, a Linux file system"),
            )
            .parameter(
                Parameter::text("partition-name", "the name of the next partition, in a GPT")
                    .repeatable()
                    .default("none"),
            )
            .bare_parameter("file")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let config = Config::from_request(request)?;
        let layout = Layout::new(&config)?;
        Ok(Self { config, layout })
    }

    fn disk(&self) -> Disk {
        let regions = self.layout.regions();
        let devices = regions.iter().filter_map(|region| match region.content {
            Content::Partition(index) => {
                Some((region.start, self.config.partitions[index].device.geometry()))
            }
            Content::Table(_) | Content::Gap => None,
        });
        let mut disk = Disk::joining(self.layout.size(), devices);
        // So that tables and gaps are whole blocks, too.
        disk.minimum_block = disk.minimum_block.min(SECTOR as u32);
        if self.config.table == TableType::Mbr {
            disk.capabilities |= Capabilities::INTERCHANGEABLE;
        }
        disk
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        for (region, start, end) in self.parts(offset, buffer.len() as u64) {
            let part = &mut buffer[(start - offset) as usize..(end - offset) as usize];
            match &region.content {
                Content::Partition(_) => return Err(Error::EIO),
                Content::Table(bytes) => {
                    let from = (start - region.start) as usize;
                    part.copy_from_slice(&bytes[from..from + part.len()]);
                }
                Content::Gap => part.fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        self.check(offset, data.len() as u64, |at| data[(at - offset) as usize])
    }

    fn zero(&mut self, offset: u64, length: u64, _options: ZeroOptions) -> Result<(), Error> {
        self.check(offset, length, |_| 0)
    }
}

impl Filter for Partitioning {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let mut route = Route::new();
        for (region, start, end) in self.parts(request.offset, request.length) {
            route.push(self.place(region, start, request.operation), end - start);
        }
        Ok(route)
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let region = self.layout.from(offset).first()?;
        Some(StableRoute::new(self.place(region, offset, operation), region.end - offset))
    }
}

memnbd_guest::filter!(Partitioning);
