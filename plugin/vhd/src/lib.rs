//! A filter that serves the disk in a VHD image of Virtual PC or Hyper-V, read-only. qemu calls the format
//! `vpc`.
//!
//! ```text
//! memnbd-host --filter=vhd file image.vhd
//! ```
//!
//! The image is never changed, and nobody may change it while it is served. Its tables are read in the
//! sandbox of a component: a hostile image costs its own disk at most. The data never enter the component.
//!
//! Fixed and dynamic images are supported. A differencing image has the changes of another one, which the
//! image names; it is refused, and has to be merged with that one first.
//!
//! # The size of the disk
//!
//! An image tells its size, and a geometry of cylinders, heads and sectors, which is often a little less. As
//! in qemu, the size is that of the geometry, unless the image is of a program that does not mean it, such as
//! Hyper-V, Disk2vhd, XenServer, or `qemu-img create -o force_size=on`, or it is the largest geometry.
//!
//! Sectors of a block that the image has are served as they are, also if its bitmap says that they were
//! never written, as in qemu.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod header;

use alloc::format;

use memnbd_formats::Pages;
use memnbd_formats::image::{self, Locate};
use memnbd_guest::{
    Backend, Description, Disk, Error, Filter, Lower, OpenRequest, Operation, Parameter, Place,
    Request, Route, StableRoute,
};

use header::{Blocks, Header};

/// The memory for pages of the table, enough for 8 TiB in blocks of the usual size.
const TABLE: usize = 16 << 20;

/// The entry of a block that the image does not have.
const ABSENT: u32 = u32::MAX;

const SECTOR: u64 = 512;

/// The open disk.
pub struct Vhd {
    base: Lower,
    image: Pages,
    size: u64,
    /// Of a dynamic image.
    blocks: Option<Blocks>,
}

impl Locate for Vhd {
    fn locate(&mut self, at: u64) -> Result<(Place, u64), Error> {
        let Some(blocks) = self.blocks else {
            return Ok((self.base.at(at).into(), self.size - at));
        };
        let (number, within) = (at / blocks.length, at % blocks.length);
        let length = (blocks.length - within).min(self.size - at);
        let entry = self.image.be_u32(blocks.table + number * 4)?;
        if entry == ABSENT {
            return Ok((Place::Hole, length));
        }
        // The bitmap of the block is before its data.
        let offset = u64::from(entry) * SECTOR + blocks.bitmap + within;
        if offset + length > self.image.size() {
            return Err(Error::EIO.because(format!(
                "the image is corrupt: the block for byte {at} of the disk is at sector {entry}, and ends \
                 beyond the image, which has {} bytes",
                self.image.size()
            )));
        }
        Ok((self.base.at(offset).into(), length))
    }
}

impl Backend for Vhd {
    fn describe() -> Description {
        Description::new("vhd", env!("CARGO_PKG_VERSION"), "the disk in a VHD image, read-only")
            .parameter(
                Parameter::device("base", "the device beneath, which has the image")
                    .unshared()
                    .required(),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let mut image = Pages::new(base, TABLE);
        let Header { size, blocks } = Header::read(&mut image)?;
        Ok(Self { base, image, size, blocks })
    }

    fn disk(&self) -> Disk {
        let unit = self.blocks.map_or(512, |blocks| blocks.length.min(2 << 20) as u32);
        image::disk(self.size, [self.base], unit)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        image::read(self, offset, buffer, |_, _, _| Err(Error::EIO))
    }
}

impl Filter for Vhd {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        image::route(self, request)
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let size = self.size;
        image::stable(self, offset, size)
    }
}

memnbd_guest::filter!(Vhd);

#[cfg(test)]
mod tests;
