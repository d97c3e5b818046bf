//! Detection of zeroes, used on every page that is partly zeroed or whose extent is requested.

/// Returns whether all bytes are zero. It stops at the first block that contains a nonzero byte,
/// and scans zeroes at memory speed.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<16>();
    blocks.iter().all(|block| any_bits(block) == 0)
        && any_bits(words) == 0
        && rest.iter().all(|byte| *byte == 0)
}

/// Returns the bits that are set in any of the words. It has no branches, so that the words are
/// loaded in parallel.
fn any_bits(words: &[[u8; 8]]) -> u64 {
    words.iter().fold(0, |bits, word| bits | u64::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_byte_anywhere_is_seen() {
        let mut bytes = [0; 3 * 128 + 17];
        assert!(is_zero(&bytes));
        assert!(is_zero(&[]));
        for at in 0..bytes.len() {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            assert!(is_zero(&bytes[..at]) && is_zero(&bytes[at + 1..]), "{at}");
            bytes[at] = 0;
        }
    }
}
