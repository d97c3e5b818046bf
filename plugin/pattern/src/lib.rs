//! A component whose disk contains its own offsets: every 8-byte word, at an offset that is a
//! multiple of 8, holds that offset as a big-endian number.
//!
//! Nothing is stored. A write succeeds if the data equals what the disk already holds, and fails
//! with `eio` otherwise. This exposes reads and writes at wrong offsets, anywhere on a disk of any
//! size. `zero` and `trim` are not supported, as neither could do anything.
//!
//! [`fill`] and [`matches()`] are plain code that is tested natively; the exports exist only on
//! wasm32.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(target_arch = "wasm32")]
mod abi;

/// Fills `bytes` with the content of the disk at `offset`.
pub fn fill(bytes: &mut [u8], offset: u64) {
    let head = bytes.len().min(offset.wrapping_neg() as usize % 8);
    let (unaligned, rest) = bytes.split_at_mut(head);
    fill_within_word(unaligned, offset);
    let mut offset = offset + head as u64;
    let (words, tail) = rest.as_chunks_mut();
    for word in words {
        *word = offset.to_be_bytes();
        // The last word of the largest disk may be the last one below 2^63.
        offset += 8;
    }
    fill_within_word(tail, offset);
}

/// Returns whether `bytes` equal the content of the disk at `offset`.
pub fn matches(bytes: &[u8], offset: u64) -> bool {
    let mut expected = [0; 512];
    let mut offset = offset;
    for block in bytes.chunks(expected.len()) {
        let expected = &mut expected[..block.len()];
        fill(expected, offset);
        if block != expected {
            return false;
        }
        offset += block.len() as u64;
    }
    true
}

/// Fills bytes that lie within one word.
fn fill_within_word(bytes: &mut [u8], offset: u64) {
    let word = (offset & !7).to_be_bytes();
    let at = offset as usize % 8;
    bytes.copy_from_slice(&word[at..at + bytes.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u64 = i64::MAX as u64;

    fn byte(offset: u64) -> u8 {
        (offset & !7).to_be_bytes()[offset as usize % 8]
    }

    fn held(offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xa5; length];
        fill(&mut bytes, offset);
        bytes
    }

    #[test]
    fn words_hold_their_offset() {
        assert_eq!(held(0, 16), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
        assert_eq!(
            held(0x0123_4567_89ab_cde8, 8),
            [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xe8]
        );
        assert_eq!(held(0x1238 + 6, 4), [0x12, 0x38, 0, 0]);
    }

    #[test]
    fn any_offset_and_length_give_the_bytes_of_the_whole() {
        for start in [0, 1 << 32, (1 << 40) - 20, LARGEST - 80] {
            for offset in start..start + 20 {
                for length in 0..60 {
                    let expected: Vec<u8> = (offset..offset + length as u64).map(byte).collect();
                    assert_eq!(held(offset, length), expected, "{offset} {length}");
                }
            }
        }
    }

    #[test]
    fn last_byte_of_the_largest_disk_is_there() {
        assert_eq!(held(LARGEST - 1, 1), [0xff]);
        assert_eq!(held(LARGEST - 7, 7), [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], LARGEST - 7));
    }

    #[test]
    fn one_wrong_byte_is_no_match() {
        for offset in [0, 3, 509, LARGEST - 1500] {
            let mut bytes = held(offset, 1500);
            assert!(matches(&bytes, offset));
            assert!(!matches(&bytes, offset + 8));
            for at in 0..bytes.len() {
                bytes[at] ^= 0x10;
                assert!(!matches(&bytes, offset), "{offset} {at}");
                bytes[at] ^= 0x10;
            }
        }
    }
}
