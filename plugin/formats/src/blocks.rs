//! Random access to a disk that can only be decoded forwards, from certain points on.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use memnbd_guest::Error;

use crate::Cache;

/// The length of the pieces in which decoded bytes are kept.
const PAGE: u64 = 64 << 10;

/// A compressed disk: where decoding can begin, and how it goes on.
pub trait Decode {
    /// The state of a decoder within a block.
    type Cursor;

    /// Returns the block of the disk that contains an offset: its first byte is one from which the
    /// disk can be decoded, and it does not end beyond the disk.
    fn block(&mut self, offset: u64) -> Range<u64>;

    /// Begins to decode at the first byte of a block.
    ///
    /// # Errors
    ///
    /// Returns `EIO` if the block is damaged, and errors of the device.
    fn start(&mut self, block: &Range<u64>) -> Result<Self::Cursor, Error>;

    /// Decodes the bytes that follow, all of which are within the block.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    fn next(&mut self, cursor: &mut Self::Cursor, buffer: &mut [u8]) -> Result<(), Error>;
}

/// Reads a compressed disk. Decoders stay where they are, for requests that continue, and what was
/// decoded is kept as far as the memory goes.
pub struct BlockReader<D: Decode> {
    decoder: D,
    /// Decoders within blocks, the least recently used first.
    cursors: Vec<Cursor<D>>,
    max_cursors: usize,
    /// What was decoded, by the offset on the disk.
    pages: Cache<u64, Box<[u8]>>,
    /// The most bytes that are decoded for a read that does not need them.
    max_skip: u64,
}

struct Cursor<D: Decode> {
    block: Range<u64>,
    /// The offset on the disk of what comes next.
    position: u64,
    state: D::Cursor,
}

impl<D: Decode> BlockReader<D> {
    /// Returns a reader that keeps up to `memory` bytes of what was decoded, and `max_cursors` decoders.
    /// A read that needs more than `max_skip` bytes before it to be decoded fails; the next one goes on
    /// from there.
    pub fn new(decoder: D, memory: u64, max_cursors: usize, max_skip: u64) -> Self {
        let pages = Cache::new((memory / PAGE) as usize);
        Self { decoder, cursors: Vec::new(), max_cursors: max_cursors.max(1), pages, max_skip }
    }

    /// Returns what decodes.
    pub const fn get(&self) -> &D {
        &self.decoder
    }

    /// Reads the bytes at `offset`, which are within the disk.
    ///
    /// # Errors
    ///
    /// Returns those of the decoder, and `EIO` if too much has to be decoded first.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let block = self.decoder.block(at);
            let start = at - (at - block.start) % PAGE;
            if self.pages.get(&start).is_none() {
                self.decode(&block, start)?;
            }
            let page = self.pages.get(&start).ok_or(Error::EIO)?;
            let within = (at - start) as usize;
            let present = page.get(within..).filter(|present| !present.is_empty());
            let present = present.ok_or(Error::EIO)?;
            let length = rest.len().min(present.len());
            let (part, after) = rest.split_at_mut(length);
            part.copy_from_slice(&present[..length]);
            at += length as u64;
            rest = after;
        }
        Ok(())
    }

    /// Decodes the page at `start`, and all before it to which no decoder has come.
    fn decode(&mut self, block: &Range<u64>, start: u64) -> Result<(), Error> {
        let usable = |cursor: &Cursor<D>| cursor.block == *block && cursor.position <= start;
        let nearest = self.cursors.iter().enumerate().filter(|(_, cursor)| usable(cursor));
        let nearest = nearest.max_by_key(|(_, cursor)| cursor.position).map(|(index, _)| index);
        let mut cursor = match nearest {
            Some(index) => self.cursors.remove(index),
            None => {
                if self.cursors.len() >= self.max_cursors {
                    self.cursors.remove(0);
                }
                let state = self.decoder.start(block)?;
                Cursor { block: block.clone(), position: block.start, state }
            }
        };
        let first = cursor.position;
        // A decoder that failed is dropped.
        while cursor.position <= start {
            if cursor.position - first > self.max_skip {
                let position = cursor.position;
                self.cursors.push(cursor);
                return Err(Error::EIO.because(format!(
                    "what is at byte {start} of the disk is far from where decoding can begin, and \
                     one call decodes only {} bytes; it has come to {position}, from where the next \
                     request goes on",
                    self.max_skip
                )));
            }
            let length = (block.end - cursor.position).min(PAGE) as usize;
            let mut page = match self.pages.make_room() {
                Some(page) if page.len() == length => page,
                _ => vec![0; length].into_boxed_slice(),
            };
            self.decoder.next(&mut cursor.state, &mut page)?;
            self.pages.insert(cursor.position, page);
            cursor.position += length as u64;
        }
        if cursor.position < block.end {
            self.cursors.push(cursor);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk in which each byte is computed from its offset, in blocks of this length.
    struct Counting {
        block: u64,
        size: u64,
        decoded: u64,
    }

    impl Decode for Counting {
        type Cursor = u64;

        fn block(&mut self, offset: u64) -> Range<u64> {
            let start = offset - offset % self.block;
            start..(start + self.block).min(self.size)
        }

        fn start(&mut self, block: &Range<u64>) -> Result<u64, Error> {
            Ok(block.start)
        }

        fn next(&mut self, cursor: &mut u64, buffer: &mut [u8]) -> Result<(), Error> {
            for byte in buffer {
                *byte = byte_at(*cursor);
                *cursor += 1;
                self.decoded += 1;
            }
            Ok(())
        }
    }

    fn byte_at(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9) >> 13) as u8
    }

    #[test]
    fn reads_at_any_place_are_right_and_decode_little_twice() {
        let size = (5 << 20) + 12345;
        let decoder = Counting { block: 1_000_000, size, decoded: 0 };
        let mut reader = BlockReader::new(decoder, 8 << 20, 2, u64::MAX);
        let mut state = 1_u64;
        for _ in 0..300 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = (state >> 33) % size;
            let length = ((state >> 20) % 200_000).min(size - offset) as usize;
            let mut buffer = vec![0; length];
            reader.read(offset, &mut buffer).unwrap();
            let mut bytes = buffer.iter().enumerate();
            assert!(bytes.all(|(at, byte)| *byte == byte_at(offset + at as u64)));
        }
        // All is kept, and decoders go on where they were unless others took their place.
        assert!(reader.get().decoded < 3 * size, "{}", reader.get().decoded);
    }

    #[test]
    fn read_far_within_a_block_fails_and_goes_on_later() {
        let decoder = Counting { block: 10 << 20, size: 10 << 20, decoded: 0 };
        let mut reader = BlockReader::new(decoder, 1 << 20, 1, 3 << 20);
        let mut buffer = [0; 10];
        let results: Vec<bool> =
            (0..4).map(|_| reader.read(8 << 20, &mut buffer).is_ok()).collect();
        assert_eq!(results, [false, false, true, true]);
        assert_eq!(buffer[0], byte_at(8 << 20));
    }
}
