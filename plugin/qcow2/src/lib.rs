//! A filter that serves the disk in a qcow2 image, read-only, like nbdkit's filter `qcow2dec`, which is
//! also a name of it.
//!
//! ```text
//! memnbd-host --filter=qcow2 file image.qcow2
//! ```
//!
//! The image is never changed, and nobody may change it while it is served. It is decoded in the
//! sandbox of a component: a hostile image costs its own disk at most. The data of clusters that are
//! not compressed never enter the component.
//!
//! Versions 2 and 3 are supported, with clusters of any size, compressed with zlib or zstd, with
//! subclusters, and with internal snapshots. Images that are encrypted, have their data in another
//! file, are marked as corrupt, were not closed, or have unknown incompatible features are refused.
//!
//! # Parameters
//!
//! `backing` is the export from which the clusters come that the image does not have. An image with a
//! backing file is refused without it: the name of the file in the image is that of whoever made the
//! image, and is never opened. What is beyond the end of the backing disk is zero.
//!
//! ```text
//! memnbd-host --export below=file,below.raw --export image=file,above.qcow2 \
//!             --export disk=qcow2,base=image,backing=below
//! ```
//!
//! `snapshot` is the name or the identifier of an internal snapshot, which is served instead of the
//! current state.
//!
//! # Differences from nbdkit
//!
//! nbdkit has no backing files, snapshots or subclusters. What lies beyond the end of a truncated
//! image fails with EIO, where qemu returns zeroes, except for the last cluster, which need not be
//! complete.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod codec;
mod header;
mod snapshot;
mod table;

use alloc::format;
use alloc::vec::Vec;

use memnbd_formats::Pages;
use memnbd_formats::image::{self, Locate};
use memnbd_guest::{
    Backend, Description, Disk, Error, Filter, Lower, OpenRequest, Operation, Parameter, Place,
    Request, Route, StableRoute,
};

use codec::Codec;
use header::Header;
use table::{Compressed, Mapping, Table};

/// The memory for pages of tables, enough for 128 GiB in clusters of the usual size.
const TABLES: usize = 16 << 20;

/// The open disk.
pub struct Qcow2 {
    base: Lower,
    backing: Option<Backing>,
    table: Table,
    codec: Codec,
}

/// The disk of which the image has the changes.
#[derive(Clone, Copy, Debug)]
struct Backing {
    device: Lower,
    size: u64,
}

/// Returns the backing disk, which the user and the image have to agree about.
fn backing(request: &OpenRequest, header: &Header) -> Result<Option<Backing>, Error> {
    let device = request.device("backing");
    match (&header.backing, device) {
        (None, None) => Ok(None),
        (Some(_), Some(device)) => Ok(Some(Backing { device, size: device.geometry().size })),
        (None, Some(_)) => {
            Err(Error::EINVAL.because("the image has no backing file; leave backing out"))
        }
        (Some(name), None) => {
            let format = match &header.backing_format {
                Some(format) => format!("in the format {format:?}"),
                None => "in a format of which it says nothing".into(),
            };
            Err(Error::EINVAL.because(format!(
                "the image has the backing file {name:?} {format}; its content has to be another \
                 export, which backing names"
            )))
        }
    }
}

impl Qcow2 {
    /// Returns where bytes are that were found in the tables, and how many of them.
    fn place(&self, at: u64, mapping: Mapping, length: u64) -> (Place, u64) {
        match mapping {
            Mapping::Data(offset) => (self.base.at(offset).into(), length),
            Mapping::Zero => (Place::Hole, length),
            Mapping::Compressed(_) => (Place::Own, length),
            Mapping::Unallocated => match self.backing.map(|it| (it, it.size.saturating_sub(at))) {
                None | Some((_, 0)) => (Place::Hole, length),
                Some((backing, present)) => (backing.device.at(at).into(), length.min(present)),
            },
        }
    }

    /// Reads bytes that are not compressed.
    fn read_plain(&self, place: Place, buffer: &mut [u8]) -> Result<(), Error> {
        match place {
            Place::Lower(location) => location.device.read(location.offset, buffer),
            Place::Hole => {
                buffer.fill(0);
                Ok(())
            }
            Place::Own => Err(Error::EIO),
        }
    }
}

impl Backend for Qcow2 {
    fn describe() -> Description {
        Description::new("qcow2", env!("CARGO_PKG_VERSION"), "the disk in a qcow2 image, read-only")
            .parameter(
                Parameter::device("base", "the device beneath, which has the image")
                    .unshared()
                    .required(),
            )
            .parameter(
                Parameter::device("backing", "the disk that the image has the changes of")
                    .unshared()
                    .default("none; an image with a backing file is refused"),
            )
            .parameter(
                Parameter::text("snapshot", "the name or identifier of the snapshot to serve")
                    .default("the current state"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let mut image = Pages::new(base, TABLES);
        let header = Header::read(&mut image)?;
        let backing = backing(request, &header)?;
        let (first_level, size) = match request.text("snapshot") {
            Some(name) => snapshot::find(&mut image, &header, name)?,
            None => (header.first_level, header.size),
        };
        let codec = Codec::new(header.compression, base, 1 << header.cluster_bits);
        let table = Table::new(image, header, first_level, size);
        Ok(Self { base, backing, table, codec })
    }

    fn disk(&self) -> Disk {
        let beneath = core::iter::once(self.base).chain(self.backing.map(|it| it.device));
        image::disk(self.table.size(), beneath, self.table.cluster() as u32)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let end = offset + buffer.len() as u64;
        let mut pieces = Vec::new();
        let mut compressed: Vec<Compressed> = Vec::new();
        let mut at = offset;
        while at < end {
            let (mapping, length) = self.table.find(at)?;
            let (place, length) = self.place(at, mapping, length.min(end - at));
            if let Mapping::Compressed(cluster) = mapping {
                compressed.push(cluster);
            }
            pieces.push((mapping, place, length));
            at += length;
        }
        let mut next = &compressed[..];
        let mut at = offset;
        let mut rest = buffer;
        for (mapping, place, length) in pieces {
            let (part, after) = rest.split_at_mut(length as usize);
            match mapping {
                Mapping::Compressed(cluster) => {
                    next = next.get(1..).unwrap_or_default();
                    self.codec.read(cluster, next, at - cluster.cluster, part)?;
                }
                _ => self.read_plain(place, part)?,
            }
            at += length;
            rest = after;
        }
        Ok(())
    }
}

impl Locate for Qcow2 {
    fn locate(&mut self, at: u64) -> Result<(Place, u64), Error> {
        let (mapping, length) = self.table.find(at)?;
        Ok(self.place(at, mapping, length))
    }
}

impl Filter for Qcow2 {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        image::route(self, request)
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let size = self.table.size();
        image::stable(self, offset, size)
    }
}

memnbd_guest::filter!(Qcow2);

#[cfg(test)]
mod tests;
