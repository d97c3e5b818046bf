//! Content that is computed from the offset, 8 bytes at a time.
//!
//! A disk with such content has no state: a write can only be checked against the content, which
//! exposes clients that read or write at wrong offsets.

mod seed;

pub use seed::Seed;

use crate::Error;

/// Fills `bytes` with the content at `offset`. `word` returns the 8 bytes at an offset that is a
/// multiple of 8.
pub fn fill(bytes: &mut [u8], offset: u64, word: impl Fn(u64) -> [u8; 8]) {
    let head = bytes.len().min(offset.wrapping_neg() as usize % 8);
    let (unaligned, rest) = bytes.split_at_mut(head);
    fill_within_word(unaligned, offset, &word);
    let mut offset = offset + head as u64;
    let (words, tail) = rest.as_chunks_mut();
    for bytes in words {
        *bytes = word(offset);
        // The last word of the largest disk may be the last one below 2^63.
        offset += 8;
    }
    fill_within_word(tail, offset, &word);
}

/// Fills bytes that lie within one word.
fn fill_within_word(bytes: &mut [u8], offset: u64, word: impl Fn(u64) -> [u8; 8]) {
    if bytes.is_empty() {
        return;
    }
    let at = offset as usize % 8;
    bytes.copy_from_slice(&word(offset & !7)[at..at + bytes.len()]);
}

/// Succeeds if `data` equals the content at `offset`. `fill` fills bytes with the content at an
/// offset.
///
/// # Errors
///
/// Returns `EIO` for the first difference.
pub fn check(data: &[u8], offset: u64, fill: impl Fn(&mut [u8], u64)) -> Result<(), Error> {
    let mut expected = [0; 512];
    let mut offset = offset;
    for data in data.chunks(expected.len()) {
        let expected = &mut expected[..data.len()];
        fill(expected, offset);
        if data != expected {
            return Err(Error::EIO.because("the data differ from the content of the disk"));
        }
        offset += data.len() as u64;
    }
    Ok(())
}

/// Returns one of the numbers that the generator SplitMix64 gives with `seed`, counted from 0. They
/// are fast to compute and not cryptographically secure.
pub const fn random_at(seed: u64, index: u64) -> u64 {
    let state = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_SIZE;

    fn word(offset: u64) -> [u8; 8] {
        assert!(offset.is_multiple_of(8));
        random_at(7, offset / 8).to_le_bytes()
    }

    fn byte(offset: u64) -> u8 {
        word(offset & !7)[offset as usize % 8]
    }

    #[test]
    fn any_offset_and_length_give_the_bytes_of_the_whole() {
        for start in [0, 1 << 32, (1 << 40) - 20, MAX_SIZE - 80] {
            for offset in start..start + 20 {
                for length in 0..60 {
                    let mut bytes = vec![0xa5; length];
                    fill(&mut bytes, offset, word);
                    let expected: Vec<u8> = (offset..offset + length as u64).map(byte).collect();
                    assert_eq!(bytes, expected, "{offset} {length}");
                }
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_an_error() {
        let content = |bytes: &mut [u8], offset| fill(bytes, offset, word);
        for offset in [0, 3, 509, MAX_SIZE - 1500] {
            let mut bytes = vec![0; 1500];
            content(&mut bytes, offset);
            assert_eq!(check(&bytes, offset, content), Ok(()));
            assert!(check(&bytes, offset + 8, content).is_err());
            for at in 0..bytes.len() {
                bytes[at] ^= 0x10;
                assert!(check(&bytes, offset, content).is_err(), "{offset} {at}");
                bytes[at] ^= 0x10;
            }
        }
    }

    /// The first outputs of the reference implementation, with seed 1234567.
    #[test]
    fn numbers_are_those_of_splitmix64() {
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random_at(1_234_567, 0), random_at(1_234_567, 1)], expected);
    }
}
