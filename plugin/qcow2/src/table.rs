//! The tables of an image: where the bytes of the disk are.

use alloc::format;

use memnbd_formats::Pages;
use memnbd_guest::Error;

use crate::header::{FirstLevel, Header};

/// The bits of an entry that are an offset in the image, a multiple of 512.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Where some bytes of the disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// In the image, at this offset.
    Data(u64),
    /// Nowhere; they are zero.
    Zero,
    /// In the backing file, or else they are zero.
    Unallocated,
    Compressed(Compressed),
}

/// A compressed cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compressed {
    /// The offset of the cluster on the disk.
    pub(crate) cluster: u64,
    /// Where it is in the image.
    pub(crate) offset: u64,
    /// An upper bound of its length there.
    pub(crate) length: u64,
}

/// The tables of an image.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    image: Pages,
    header: Header,
    first_level: FirstLevel,
    /// The size of the disk.
    size: u64,
}

fn corrupt(at: u64, what: impl core::fmt::Display) -> Error {
    Error::EIO.because(format!("the image is corrupt: for byte {at} of the disk, {what}"))
}

impl Table {
    pub(crate) fn new(image: Pages, header: Header, first_level: FirstLevel, size: u64) -> Self {
        Self { image, header, first_level, size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// Returns where the byte at an offset of the disk is, and the number of bytes from there on that
    /// follow each other in the same way, at least one: at most to the end of the disk, and mostly not
    /// beyond the end of the cluster.
    pub(crate) fn find(&mut self, at: u64) -> Result<(Mapping, u64), Error> {
        let covers = self.header.second_level_covers();
        let index = at / covers;
        if at >= self.size || index >= self.first_level.entries {
            return Err(corrupt(at, "there is no entry in the first table"));
        }
        let entry = self.image.be_u64(self.first_level.offset + index * 8)?;
        let second_level = entry & OFFSET;
        if second_level == 0 {
            let length = (covers - at % covers).min(self.size - at);
            return Ok((Mapping::Unallocated, length));
        }
        let cluster = self.cluster();
        if !second_level.is_multiple_of(cluster) || second_level + cluster > self.image.size() {
            return Err(corrupt(
                at,
                format_args!(
                    "the second table is at {second_level}, unaligned or beyond the image, which \
                     has {} bytes",
                    self.image.size()
                ),
            ));
        }
        let index = at % covers / cluster;
        let rest = (cluster - at % cluster).min(self.size - at);
        if self.header.extended {
            let entry = self.image.be_u64(second_level + index * 16)?;
            let subclusters = self.image.be_u64(second_level + index * 16 + 8)?;
            return self.subcluster(at, rest, entry, subclusters);
        }
        let entry = self.image.be_u64(second_level + index * 8)?;
        if entry & COMPRESSED != 0 {
            return Ok((Mapping::Compressed(self.compressed(at, entry)), rest));
        }
        if entry & ZERO != 0 {
            if self.header.version < 3 {
                return Err(corrupt(at, "there is a cluster of zeroes in an image of version 2"));
            }
            return Ok((Mapping::Zero, rest));
        }
        match entry & OFFSET {
            0 => Ok((Mapping::Unallocated, rest)),
            host => self.data(at, host, rest),
        }
    }

    /// Returns where a byte of a cluster in subclusters is.
    fn subcluster(
        &self,
        at: u64,
        rest: u64,
        entry: u64,
        bits: u64,
    ) -> Result<(Mapping, u64), Error> {
        if entry & COMPRESSED != 0 {
            return Ok((Mapping::Compressed(self.compressed(at, entry)), rest));
        }
        let (allocated, zero) = (bits as u32, (bits >> 32) as u32);
        if allocated & zero != 0 {
            return Err(corrupt(at, "a subcluster is both allocated and zero"));
        }
        let host = entry & OFFSET;
        if host == 0 && allocated != 0 {
            return Err(corrupt(at, "a subcluster is allocated, but its cluster is not"));
        }
        let length = self.cluster() / 32;
        let index = at % self.cluster() / length;
        let kind = |index: u64| (allocated >> index & 1, zero >> index & 1);
        let alike = (index..32).take_while(|other| kind(*other) == kind(index)).count() as u64;
        let rest = rest.min((index + alike) * length - at % self.cluster());
        match kind(index) {
            (1, _) => self.data(at, host, rest),
            (_, 1) => Ok((Mapping::Zero, rest)),
            _ => Ok((Mapping::Unallocated, rest)),
        }
    }

    /// Returns where a byte is whose cluster is at `host`. What an image lacks at its end is zero, as in
    /// qemu, which does not write all of the last cluster.
    fn data(&self, at: u64, host: u64, rest: u64) -> Result<(Mapping, u64), Error> {
        let cluster = self.cluster();
        if !host.is_multiple_of(cluster) {
            return Err(corrupt(at, format_args!("the cluster is at {host}, unaligned")));
        }
        let size = self.image.size();
        if host >= size {
            return Err(corrupt(
                at,
                format_args!("the cluster is at {host}, beyond the image, which has {size} bytes"),
            ));
        }
        let place = host + at % cluster;
        match size.checked_sub(place) {
            None | Some(0) => Ok((Mapping::Zero, rest)),
            Some(present) => Ok((Mapping::Data(place), rest.min(present))),
        }
    }

    fn compressed(&self, at: u64, entry: u64) -> Compressed {
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        let length = (sectors + 1) * 512 - offset % 512;
        Compressed { cluster: at - at % self.cluster(), offset, length }
    }
}
