//! The footer of an image, and the header of a dynamic one: what they say, and whether the image can be
//! read.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec;

use memnbd_formats::{Header as Fields, Pages};
use memnbd_guest::{Error, MAX_SIZE};

use crate::SECTOR;

/// The length of a footer, and that of the header of a dynamic image.
const FOOTER: usize = 512;
const HEADER: usize = 1024;

/// The types of images.
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// What they begin with, and where their checksums are.
const COOKIE: [u8; 8] = *b"conectix";
const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
const CHECKSUM: usize = 64;
const HEADER_CHECKSUM: usize = 36;

/// The longest block. They have 2 MiB, or else 512 KiB.
const MAX_BLOCK: u64 = 1 << 30;

/// The programs whose geometry does not count.
const EXACT: [[u8; 4]; 5] = [*b"win ", *b"qem2", *b"d2v ", *b"tap\0", *b"CTXS"];

/// The largest geometry: disks that have it are mostly larger.
const MAX_GEOMETRY: u64 = 65535 * 16 * 255;

/// What an image says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The size of the disk.
    pub(crate) size: u64,
    /// Of a dynamic image.
    pub(crate) blocks: Option<Blocks>,
}

/// The blocks of a dynamic image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// The length of a block, without its bitmap.
    pub(crate) length: u64,
    /// The length of its bitmap.
    pub(crate) bitmap: u64,
    /// Where the table of blocks is.
    pub(crate) table: u64,
}

fn refused(message: impl Into<Cow<'static, str>>) -> Error {
    Error::EINVAL.because(message)
}

/// Returns true if the checksum of a footer or header is right: the complement of the sum of the other bytes.
fn is_intact(bytes: &[u8], at: usize) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
    let other = sum(bytes) - sum(&bytes[at..at + 4]);
    Fields(bytes).be_u32(at) == !other
}

impl Header {
    /// Reads the footer of an image, or the copy of it at the beginning, and the header.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` with the reason if the image is not supported, or damaged.
    pub(crate) fn read(image: &mut Pages) -> Result<Self, Error> {
        let footer = footer(image)?;
        let fields = Fields(&footer);
        if !is_intact(&footer, CHECKSUM) {
            return Err(refused("the VHD image is damaged: the checksum of its footer is another"));
        }
        let version = fields.be_u32(12);
        if version >> 16 != 1 {
            return Err(refused(format!(
                "the VHD image has the version {}.{}, and only 1.x is supported",
                version >> 16,
                version & 0xffff
            )));
        }
        let sectors =
            u64::from(fields.be_u16(56)) * u64::from(fields.u8(58)) * u64::from(fields.u8(59));
        let is_exact = EXACT.contains(&fields.bytes(28)) || sectors == MAX_GEOMETRY;
        let size = if is_exact { fields.be_u64(48) } else { sectors * SECTOR };
        if size > MAX_SIZE {
            return Err(refused("the VHD image has a disk of more than 2^63-1 bytes"));
        }
        match fields.be_u32(60) {
            FIXED if size > image.size().saturating_sub(FOOTER as u64) => {
                Err(refused(format!("the VHD image ends before its disk, which has {size} bytes")))
            }
            FIXED => Ok(Self { size, blocks: None }),
            DYNAMIC => Ok(Self { size, blocks: Some(dynamic(image, fields.be_u64(16), size)?) }),
            DIFFERENCING => Err(differencing(image, fields.be_u64(16))),
            other => Err(refused(format!(
                "the VHD image has the type {other}; fixed (2) and dynamic (3) images are supported"
            ))),
        }
    }
}

/// Returns the footer at the end, or the copy at the beginning that all but fixed images have. In a fixed
/// image the beginning is that of the disk, so that whoever wrote to the disk chose it.
fn footer(image: &mut Pages) -> Result<[u8; FOOTER], Error> {
    let mut footer = [0; FOOTER];
    if let Some(end) = image.size().checked_sub(FOOTER as u64) {
        for at in [end, 0] {
            image.read(at, &mut footer)?;
            let fields = Fields(&footer);
            if fields.bytes(0) == COOKIE && (at == end || fields.be_u32(60) != FIXED) {
                return Ok(footer);
            }
        }
    }
    Err(refused(
        "the device has no VHD image: neither its first nor its last 512 bytes begin with conectix",
    ))
}

/// Reads the header of a dynamic image, which has its disk in blocks.
fn dynamic(image: &mut Pages, at: u64, size: u64) -> Result<Blocks, Error> {
    let mut header = vec![0; HEADER];
    image.read(at, &mut header)?;
    let fields = Fields(&header);
    if fields.bytes(0) != HEADER_COOKIE || !is_intact(&header, HEADER_CHECKSUM) {
        return Err(refused(format!(
            "the VHD image is damaged: there is no header with the right checksum at byte {at}"
        )));
    }
    let (table, entries) = (fields.be_u64(16), u64::from(fields.be_u32(28)));
    let length = u64::from(fields.be_u32(32));
    if !length.is_power_of_two() || !(SECTOR..=MAX_BLOCK).contains(&length) {
        return Err(refused(format!(
            "the VHD image has blocks of {length} bytes; they must have a power of two from 512 bytes to \
             1 GiB"
        )));
    }
    if entries * length < size {
        return Err(refused(format!(
            "the VHD image is damaged: its table is for {} bytes, and the disk has {size}",
            entries * length
        )));
    }
    let needed = size.div_ceil(length) * 4;
    if table.checked_add(needed).is_none_or(|end| end > image.size()) {
        return Err(refused("the VHD image is damaged: its table ends beyond the image"));
    }
    let bitmap = (length / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    Ok(Blocks { length, bitmap, table })
}

/// Returns the error of an image that has the changes of another one, with the name of that.
fn differencing(image: &mut Pages, at: u64) -> Error {
    let mut name = [0; 512];
    let read = at.checked_add(64).map(|at| image.read(at, &mut name));
    let (pairs, _) = name.as_chunks::<2>();
    let units = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).take_while(|unit| *unit != 0);
    let name: String = char::decode_utf16(units).map(|char| char.unwrap_or('\u{fffd}')).collect();
    let name = if let Some(Ok(())) = read { name } else { String::new() };
    refused(format!(
        "the VHD image has the changes of another one, {name:?}, which is not supported; merge them first"
    ))
}
