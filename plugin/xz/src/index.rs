//! The index of a file: where its blocks are, and how long their content is.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_formats::{Crc, Header, Pages};
use memnbd_guest::{Error, MAX_SIZE};

/// The most blocks of a file. Each takes 32 bytes of memory.
const MAX_BLOCKS: u64 = 1 << 20;

/// The longest index of a stream, which has at most 18 bytes for a block.
const MAX_INDEX: u64 = 20 << 20;

/// The most streams of a file, and the most words of padding after one.
const MAX_STREAMS: usize = 4096;
const MAX_PADDING: usize = 1 << 16;

/// A block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where its content begins on the disk.
    pub(crate) start: u64,
    /// Where it begins in the file.
    pub(crate) input: u64,
    /// Its length in the file, without padding.
    pub(crate) unpadded: u64,
    /// The type of the checksum after it.
    pub(crate) check: u8,
}

/// The blocks of a file, in their order, and the size of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) blocks: Vec<Block>,
    pub(crate) size: u64,
    /// The length of the content of the largest block.
    pub(crate) largest: u64,
}

pub(crate) fn refused(message: impl Into<Cow<'static, str>>) -> Error {
    Error::EINVAL.because(message)
}

/// Returns the CRC-32 of bytes.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::crc32();
    crc.update(bytes);
    crc.value() as u32
}

/// Takes a number of a variable length, of at most 63 bits, from the beginning of bytes.
pub(crate) fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // The shortest form is the only one.
            return (*byte != 0 || shift == 0).then_some(number);
        }
    }
    None
}

/// The length and the length of the content of each block of a stream.
type Records = Vec<(u64, u64)>;

impl Index {
    /// Reads the index of all streams of a file, from its end.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if it is damaged or too long.
    pub(crate) fn read(file: &mut Pages) -> Result<Self, Error> {
        let mut streams = Vec::new();
        let mut end = file.size();
        let mut magic = [0; 6];
        if end >= 32 {
            file.read(0, &mut magic)?;
        }
        if magic != *b"\xfd7zXZ\0" {
            return Err(refused("the device has no xz file: it does not begin with \\xfd7zXZ"));
        }
        let mut count = 0;
        while end > 0 {
            let (start, check, records) = stream(file, end, &mut count)?;
            if streams.len() == MAX_STREAMS {
                return Err(refused(format!("the xz file has more than {MAX_STREAMS} streams")));
            }
            streams.push((start, check, records));
            end = start;
        }
        let mut index = Self::default();
        for (start, check, records) in streams.into_iter().rev() {
            let mut input = start + 12;
            for (unpadded, length) in records {
                if length > 0 {
                    index.blocks.push(Block { start: index.size, input, unpadded, check });
                }
                input += unpadded.next_multiple_of(4);
                index.largest = index.largest.max(length);
                let size = index.size.checked_add(length).filter(|size| *size <= MAX_SIZE);
                index.size = size.ok_or_else(|| refused("the disk has more than 2^63-1 bytes"))?;
            }
        }
        Ok(index)
    }
}

/// Reads the index of the stream that ends at an offset. Returns where it begins, the type of its
/// checksums, and its blocks.
fn stream(file: &mut Pages, end: u64, count: &mut u64) -> Result<(u64, u8, Records), Error> {
    let damaged = |what: &str| refused(format!("the xz file is damaged before byte {end}: {what}"));
    let mut end = end;
    let mut padding = 0;
    while end >= 4 && file.le_u32(end - 4)? == 0 {
        end -= 4;
        padding += 1;
        if padding > MAX_PADDING {
            return Err(damaged("there is too much padding"));
        }
    }
    let mut footer = [0; 12];
    let footer_start = end.checked_sub(12).ok_or_else(|| damaged("it is too short"))?;
    file.read(footer_start, &mut footer)?;
    let fields = Header(&footer);
    if fields.bytes(10) != *b"YZ" || fields.le_u32(0) != crc32(&footer[4..10]) {
        return Err(damaged("it does not end with the footer of a stream"));
    }
    let flags: [u8; 2] = fields.bytes(8);
    if flags[0] != 0 || flags[1] > 15 {
        return Err(damaged("the flags of the stream are unknown"));
    }
    let length = (u64::from(fields.le_u32(4)) + 1) * 4;
    if length > MAX_INDEX {
        return Err(damaged("the index is longer than 20 MiB"));
    }
    let index_start = footer_start.checked_sub(length).ok_or_else(|| damaged("it is too short"))?;
    let mut bytes = vec![0; length as usize];
    file.read(index_start, &mut bytes)?;
    let records = records(&bytes, count).ok_or_else(|| damaged("the index is wrong"))?;
    let padded = records.iter().try_fold(0_u64, |sum, (unpadded, _)| {
        sum.checked_add(unpadded.checked_next_multiple_of(4)?)
    });
    let start = padded.and_then(|padded| index_start.checked_sub(padded)?.checked_sub(12));
    let start = start.ok_or_else(|| damaged("the index is for more than there is"))?;
    let mut header = [0; 12];
    file.read(start, &mut header)?;
    let fields = Header(&header);
    let is_header = fields.bytes(0) == *b"\xfd7zXZ\0" && fields.bytes(6) == flags;
    if !is_header || fields.le_u32(8) != crc32(&header[6..8]) {
        return Err(damaged("the stream does not begin where the index says"));
    }
    Ok((start, flags[1], records))
}

fn records(bytes: &[u8], count: &mut u64) -> Option<Records> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    if crc32(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = content.strip_prefix(&[0])?;
    let blocks = number(&mut rest)?;
    *count = count.checked_add(blocks).filter(|count| *count <= MAX_BLOCKS)?;
    let mut records = Vec::new();
    for _ in 0..blocks {
        let unpadded = number(&mut rest).filter(|unpadded| *unpadded >= 5)?;
        records.push((unpadded, number(&mut rest)?));
    }
    (rest.len() < 4 && rest.iter().all(|byte| *byte == 0)).then_some(records)
}
