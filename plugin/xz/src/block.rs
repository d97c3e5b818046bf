//! Decompression of a block.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use lzma_rust2::filter::{FilterConfig, FilterType};
use lzma_rust2::{Action, Lzma2Stream};
use memnbd_formats::{Crc, Decode};
use memnbd_guest::{Error, Lower};

use crate::index::{Block, Index, crc32, number};

/// How much of the file is read at once.
const READ: u64 = 64 << 10;

/// The largest dictionary, four times that of `xz -9`.
pub(crate) const MAX_DICTIONARY: u32 = 256 << 20;

/// The lengths of checksums, by their types.
const CHECK_LENGTHS: [u64; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

/// Decompresses blocks.
pub(crate) struct Decoder {
    pub(crate) base: Lower,
    pub(crate) index: Index,
}

/// A decoder in a block.
pub(crate) struct Cursor {
    stream: Lzma2Stream,
    block: Block,
    /// What of the block is not read yet.
    input: Range<u64>,
    bytes: Vec<u8>,
    /// How many of these are used.
    used: usize,
    check: Option<Crc>,
    /// How much content is to come.
    remaining: u64,
}

fn damaged(block: &Block, what: &str) -> Error {
    let at = block.input;
    Error::EIO.because(format!("the xz file is damaged in the block at byte {at}: {what}"))
}

/// What the header of a block says.
struct Chain {
    length: u64,
    dictionary: u32,
    filter: Option<FilterConfig>,
}

/// Parses the header of a block, without its checksum.
fn parse(header: &[u8]) -> Option<Chain> {
    let [size, flags, rest @ ..] = header else { return None };
    let mut rest = rest;
    if flags & 0x3c != 0 {
        return None;
    }
    // What the index says is what counts.
    for flag in [0x40, 0x80] {
        if flags & flag != 0 {
            number(&mut rest)?;
        }
    }
    let mut filter = None;
    let mut dictionary = None;
    for _ in 0..=flags & 3 {
        // The last one decompresses.
        if dictionary.is_some() {
            return None;
        }
        let id = number(&mut rest)?;
        let length = number(&mut rest)?;
        let (properties, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        match (FilterType::try_from(id).ok()?, properties) {
            (FilterType::Lzma2, [bits @ 0..40]) => {
                let size = (2 | u64::from(bits & 1)) << (bits / 2 + 11);
                dictionary = Some(u32::try_from(size).unwrap_or(u32::MAX));
            }
            (FilterType::Lzma2, [40]) => dictionary = Some(u32::MAX),
            (FilterType::Lzma2, _) => return None,
            _ if filter.is_some() => return None,
            (FilterType::Delta, [distance]) => {
                filter = Some(FilterConfig::new_delta(u32::from(*distance) + 1));
            }
            (FilterType::Delta, _) => return None,
            (filter_type, []) => filter = Some(FilterConfig { filter_type, property: 0 }),
            (filter_type, [a, b, c, d]) => {
                let property = u32::from_le_bytes([*a, *b, *c, *d]);
                filter = Some(FilterConfig { filter_type, property });
            }
            _ => return None,
        }
    }
    let is_padding = rest.iter().all(|byte| *byte == 0);
    let length = (u64::from(*size) + 1) * 4;
    dictionary.filter(|_| is_padding).map(|dictionary| Chain { length, dictionary, filter })
}

impl Decoder {
    fn find(&self, offset: u64) -> Option<(Block, Range<u64>)> {
        let next = self.index.blocks.partition_point(|block| block.start <= offset);
        let block = self.index.blocks.get(next.checked_sub(1)?)?;
        let end = self.index.blocks.get(next).map_or(self.index.size, |next| next.start);
        Some((*block, block.start..end))
    }
}

impl Decode for Decoder {
    type Cursor = Cursor;

    fn block(&mut self, offset: u64) -> Range<u64> {
        self.find(offset).map_or(0..self.index.size, |(_, range)| range)
    }

    fn start(&mut self, range: &Range<u64>) -> Result<Cursor, Error> {
        let (block, _) = self.find(range.start).ok_or(Error::EIO)?;
        let mut size = [0; 1];
        self.base.read(block.input, &mut size)?;
        let length = (u64::from(size[0]) + 1) * 4;
        let check_length = CHECK_LENGTHS[usize::from(block.check & 15)];
        if size[0] == 0 || length + check_length >= block.unpadded {
            return Err(damaged(&block, "its header is longer than the block"));
        }
        let mut header = vec![0; length as usize];
        self.base.read(block.input, &mut header)?;
        let Some((header, crc)) = header.split_last_chunk::<4>() else { return Err(Error::EIO) };
        if crc32(header) != u32::from_le_bytes(*crc) {
            return Err(damaged(&block, "the checksum of its header is another"));
        }
        let chain = parse(header).ok_or_else(|| {
            damaged(&block, "its header is wrong, or has filters that are unknown")
        })?;
        let remaining = range.end - range.start;
        // No match is farther than the block is long.
        let dictionary = u64::from(chain.dictionary).min(remaining.max(4096)) as u32;
        if dictionary > MAX_DICTIONARY {
            return Err(damaged(&block, "its dictionary is larger than 256 MiB"));
        }
        let mut stream = Lzma2Stream::new(dictionary);
        stream
            .set_filters(chain.filter.as_slice())
            .map_err(|_| damaged(&block, "it has a filter that is not supported"))?;
        let check = match block.check {
            1 => Some(Crc::crc32()),
            4 => Some(Crc::crc64()),
            _ => None,
        };
        let input = block.input + chain.length..block.input + block.unpadded - check_length;
        Ok(Cursor { stream, block, input, bytes: Vec::new(), used: 0, check, remaining })
    }

    fn next(&mut self, cursor: &mut Cursor, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            if cursor.used == cursor.bytes.len() && !cursor.input.is_empty() {
                let length = (cursor.input.end - cursor.input.start).min(READ);
                cursor.used = 0;
                cursor.bytes.resize(length as usize, 0);
                self.base.read(cursor.input.start, &mut cursor.bytes)?;
                cursor.input.start += length;
            }
            let input = &cursor.bytes[cursor.used..];
            let is_last = cursor.input.is_empty();
            let action = if is_last { Action::Finish } else { Action::Run };
            let processed = cursor.stream.process(input, &mut buffer[filled..], action);
            let Ok(processed) = processed else {
                return Err(damaged(&cursor.block, "it cannot be decompressed"));
            };
            cursor.used += processed.bytes_consumed;
            filled += processed.bytes_produced;
            if processed.bytes_consumed == 0 && processed.bytes_produced == 0 {
                return Err(damaged(&cursor.block, "it ends before its content does"));
            }
        }
        cursor.remaining = cursor.remaining.saturating_sub(filled as u64);
        if let Some(crc) = &mut cursor.check {
            crc.update(buffer);
            if cursor.remaining == 0 {
                let length = CHECK_LENGTHS[usize::from(cursor.block.check & 15)] as usize;
                let mut expected = [0; 8];
                // Padding is before it, and not part of the length of the block.
                let end = cursor.block.input + cursor.block.unpadded.next_multiple_of(4);
                self.base.read(end - length as u64, &mut expected[..length])?;
                if u64::from_le_bytes(expected) != crc.value() {
                    return Err(damaged(&cursor.block, "the checksum of its content is another"));
                }
            }
        }
        Ok(())
    }
}
