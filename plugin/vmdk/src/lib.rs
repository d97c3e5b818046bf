//! A filter that serves the disk in a VMDK image of VMware, read-only.
//!
//! ```text
//! memnbd-host --filter=vmdk file image.vmdk
//! ```
//!
//! The image is never changed, and nobody may change it while it is served. It is decoded in the sandbox of
//! a component: a hostile image costs its own disk at most. The data of grains that are not compressed never
//! enter the component.
//!
//! Images in one file are supported: those of the types `monolithicSparse` and `streamOptimized`, the latter
//! with its grains compressed, and its directory at the beginning or at the end. Where the image is a text
//! that describes other files, as with the type `monolithicFlat`, it is refused, for only one file is there:
//! a flat file of the disk can be served as it is. An image that has the changes of another one, its parent, is
//! refused, too.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod codec;
mod descriptor;
mod header;

use alloc::format;

use memnbd_formats::Pages;
use memnbd_formats::image::{self, Locate};
use memnbd_guest::{
    Backend, Description, Disk, Error, Filter, Lower, OpenRequest, Operation, Parameter, Place,
    Request, Route, StableRoute,
};

use codec::Codec;
use header::Header;

/// The memory for pages of tables, enough for 256 GiB in grains of the usual size.
const TABLES: usize = 16 << 20;

const SECTOR: u64 = 512;

/// The open disk.
pub struct Vmdk {
    base: Lower,
    image: Pages,
    header: Header,
    codec: Codec,
}

/// Where a grain is in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grain {
    /// Nowhere; its bytes are zero, and so are those of all grains up to an offset of the disk.
    Absent(u64),
    At(u64),
}

impl Vmdk {
    /// Returns where the grain is that has an offset of the disk.
    fn find(&mut self, at: u64) -> Result<Grain, Error> {
        let header = self.header;
        let covers = header.grain * header.per_table;
        let entry = self.image.le_u32(header.directory + at / covers * 4)?;
        if entry == 0 {
            return Ok(Grain::Absent((at / covers + 1).saturating_mul(covers)));
        }
        let number = at % covers / header.grain;
        let entry = self.image.le_u32(u64::from(entry) * SECTOR + number * 4)?;
        if entry == 0 || (entry == 1 && header.has_zero_grains) {
            return Ok(Grain::Absent((at / header.grain + 1) * header.grain));
        }
        Ok(Grain::At(u64::from(entry) * SECTOR))
    }

    /// Reads a part of a grain that is compressed.
    fn read_compressed(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let Grain::At(offset) = self.find(at)? else { return Err(Error::EIO) };
        let within = at % self.header.grain;
        let start = at - within;
        let needed = self.header.grain.min(self.header.size - start);
        self.codec.read(offset, start, needed as usize, within as usize, buffer)
    }
}

impl Locate for Vmdk {
    fn locate(&mut self, at: u64) -> Result<(Place, u64), Error> {
        let offset = match self.find(at)? {
            Grain::Absent(end) => return Ok((Place::Hole, end.min(self.header.size) - at)),
            Grain::At(offset) => offset,
        };
        let within = at % self.header.grain;
        let length = (self.header.grain - within).min(self.header.size - at);
        if self.header.is_compressed {
            return Ok((Place::Own, length));
        }
        if offset + within + length > self.image.size() {
            return Err(Error::EIO.because(format!(
                "the image is corrupt: the grain for byte {at} of the disk is at {offset}, and ends beyond \
                 the image, which has {} bytes",
                self.image.size()
            )));
        }
        Ok((self.base.at(offset + within).into(), length))
    }
}

impl Backend for Vmdk {
    fn describe() -> Description {
        Description::new("vmdk", env!("CARGO_PKG_VERSION"), "the disk in a VMDK image, read-only")
            .parameter(
                Parameter::device("base", "the device beneath, which has the image")
                    .unshared()
                    .required(),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let mut image = Pages::new(base, TABLES);
        let header = Header::read(&mut image)?;
        let codec = Codec::new(base, header.grain, header.has_markers);
        Ok(Self { base, image, header, codec })
    }

    fn disk(&self) -> Disk {
        image::disk(self.header.size, [self.base], self.header.grain.min(2 << 20) as u32)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        image::read(self, offset, buffer, Self::read_compressed)
    }
}

impl Filter for Vmdk {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        image::route(self, request)
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let size = self.header.size;
        image::stable(self, offset, size)
    }
}

memnbd_guest::filter!(Vmdk);

#[cfg(test)]
mod tests;
