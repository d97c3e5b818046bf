//! The header of an image: what it says, and whether the image can be read.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec;

use memnbd_formats::{Header as Fields, Pages};
use memnbd_guest::{Error, MAX_SIZE};

use crate::SECTOR;
use crate::descriptor::{BEGINNING, Descriptor, MAX_LENGTH};

const MAGIC: [u8; 4] = *b"KDMV";

/// The flags.
const NEWLINES: u32 = 1;
const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;

/// The place of the directory if it is at the end, and that of the header there, before the end.
const AT_END: u64 = u64::MAX;
const FOOTER: u64 = 1024;

/// The longest grain, and the longest one that is compressed. They have 64 KiB.
const MAX_GRAIN: u64 = 1 << 30;
const MAX_COMPRESSED: u64 = 4 << 20;

/// The most entries of a table.
const MAX_TABLE: u64 = 512;

/// The types of images that are in one file.
const TYPES: [&str; 2] = ["monolithicSparse", "streamOptimized"];

/// What an image says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The size of the disk.
    pub(crate) size: u64,
    /// The length of a grain.
    pub(crate) grain: u64,
    /// The entries of a table of grains.
    pub(crate) per_table: u64,
    /// Where the directory of the tables is.
    pub(crate) directory: u64,
    /// Entries of 1 are for grains of zeroes.
    pub(crate) has_zero_grains: bool,
    pub(crate) is_compressed: bool,
    /// The length of a compressed grain is before it.
    pub(crate) has_markers: bool,
}

fn refused(message: impl Into<Cow<'static, str>>) -> Error {
    Error::EINVAL.because(message)
}

impl Header {
    /// Reads the header of an image, and the text that describes it.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` with the reason if the image is not supported, or damaged.
    pub(crate) fn read(image: &mut Pages) -> Result<Self, Error> {
        let mut header = [0; SECTOR as usize];
        let present = image.size().min(SECTOR) as usize;
        image.read(0, &mut header[..present])?;
        if header.starts_with(BEGINNING) {
            return Err(description_only(image)?);
        }
        let fields = Fields(&header);
        if present < header.len() || fields.bytes(0) != MAGIC {
            return Err(refused("the device has no VMDK image: it does not begin with KDMV"));
        }
        check_descriptor(image, fields.le_u64(28), fields.le_u64(36))?;
        if fields.le_u64(56) != AT_END {
            return Self::parse(fields, image.size());
        }
        let mut footer = [0; SECTOR as usize];
        if let Some(at) = image.size().checked_sub(FOOTER) {
            image.read(at, &mut footer)?;
        }
        let fields = Fields(&footer);
        if fields.bytes(0) != MAGIC || fields.le_u64(56) == AT_END {
            return Err(refused(
                "the VMDK image is damaged: its directory is to be at the end, and there is none",
            ));
        }
        Self::parse(fields, image.size())
    }

    fn parse(fields: Fields<'_>, image: u64) -> Result<Self, Error> {
        let version = fields.le_u32(4);
        if !(1..=3).contains(&version) {
            return Err(refused(format!(
                "the VMDK image has the version {version}, and only 1 to 3 are supported"
            )));
        }
        let flags = fields.le_u32(8);
        if flags & NEWLINES != 0 && fields.bytes(73) != *b"\n \r\n" {
            return Err(refused(
                "the VMDK image is damaged: its newlines were changed, as by a transfer of text",
            ));
        }
        let (capacity, grain) = (fields.le_u64(12), fields.le_u64(20));
        let size = capacity.checked_mul(SECTOR).filter(|size| *size <= MAX_SIZE);
        let size =
            size.ok_or_else(|| refused("the VMDK image has a disk of more than 2^63-1 bytes"))?;
        let is_compressed = flags & COMPRESSED != 0;
        let method = fields.le_u16(77);
        if is_compressed && method != 1 {
            return Err(refused(format!(
                "the VMDK image is compressed by the method {method}, and only deflate (1) is supported"
            )));
        }
        let longest = if is_compressed { MAX_COMPRESSED } else { MAX_GRAIN };
        if !grain.is_power_of_two() || grain > longest / SECTOR {
            return Err(refused(format!(
                "the VMDK image has grains of {grain} sectors; they must have a power of two of up to {}",
                longest / SECTOR
            )));
        }
        let grain = grain * SECTOR;
        let per_table = u64::from(fields.le_u32(44));
        if !(1..=MAX_TABLE).contains(&per_table) {
            return Err(refused(format!(
                "the VMDK image has tables of {per_table} entries; they must have 1 to {MAX_TABLE}"
            )));
        }
        let directory = fields.le_u64(56).checked_mul(SECTOR);
        let length = size.div_ceil(grain * per_table).saturating_mul(4);
        let end = directory.and_then(|directory| directory.checked_add(length));
        let directory = directory.filter(|_| end.is_some_and(|end| end <= image));
        Ok(Self {
            size,
            grain,
            per_table,
            directory: directory.ok_or_else(|| {
                refused("the VMDK image is damaged: its directory ends beyond the image")
            })?,
            has_zero_grains: flags & ZERO_GRAINS != 0,
            is_compressed,
            has_markers: flags & MARKERS != 0,
        })
    }
}

/// Checks by the text in an image that it is whole.
fn check_descriptor(image: &mut Pages, sector: u64, sectors: u64) -> Result<(), Error> {
    let start = sector.saturating_mul(SECTOR).min(image.size());
    let length = sectors.saturating_mul(SECTOR).min(MAX_LENGTH).min(image.size() - start);
    let mut text = vec![0; length as usize];
    image.read(start, &mut text)?;
    let descriptor = Descriptor::parse(&text);
    let create_type = descriptor.create_type;
    if sector == 0 || descriptor.is_empty {
        return Err(refused(
            "the VMDK image is one of several files of a disk, and has no description; convert the disk to \
             one file, as by `qemu-img convert -O vmdk`",
        ));
    }
    if let Some(parent) = descriptor.parent {
        return Err(refused(format!(
            "the VMDK image has the changes of another one, {parent:?}, which is not supported; merge them \
             first, as by `qemu-img convert -O vmdk`"
        )));
    }
    if !TYPES.iter().any(|known| create_type.eq_ignore_ascii_case(known)) {
        return Err(refused(format!(
            "the VMDK image has the type {create_type:?}, and only monolithicSparse and streamOptimized are \
             supported, which are in one file"
        )));
    }
    Ok(())
}

/// Returns the error of a text without an image.
fn description_only(image: &mut Pages) -> Result<Error, Error> {
    let mut text = vec![0; image.size().min(MAX_LENGTH) as usize];
    image.read(0, &mut text)?;
    let Descriptor { create_type, extent, .. } = Descriptor::parse(&text);
    Ok(refused(format!(
        "the device has the description of a VMDK image of the type {create_type:?}, whose disk is in other \
         files, such as {extent:?}; serve a FLAT file as it is, or convert the image to one file, as by \
         `qemu-img convert -O vmdk`"
    )))
}
