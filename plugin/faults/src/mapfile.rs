//! Map files of GNU ddrescue, which say what of a disk could be read.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{Error, Lower};

use crate::{Range, Ranges};

/// The longest map file, in bytes.
const MAX_TEXT: u64 = 8 << 20;

/// The states of blocks: not tried, not trimmed, not scraped, bad, and rescued.
const STATES: [&str; 5] = ["?", "*", "/", "-", RESCUED];
const RESCUED: &str = "+";

/// Reads a map file. Returns the ranges of a disk of `size` bytes that were rescued.
///
/// # Errors
///
/// Returns `EINVAL` if the file is too long, or with the number of a line that is wrong.
pub fn rescued(file: Lower, size: u64) -> Result<Ranges, Error> {
    let length = file.geometry().size;
    if length > MAX_TEXT {
        return Err(Error::EINVAL
            .because(format!("the map file has {length} bytes; it may have at most {MAX_TEXT}")));
    }
    let mut text = vec![0; length as usize];
    if length > 0 {
        file.read(0, &mut text)?;
    }
    parse(&text, size)
}

/// Parses a map. The first line that is no comment has the state of ddrescue, and each that follows has
/// the position, the length and the state of a block.
fn parse(text: &[u8], size: u64) -> Result<Ranges, Error> {
    let mut ranges = Vec::new();
    let mut is_first = true;
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1_u64..) {
        let line = core::str::from_utf8(line).map(str::trim).unwrap_or("not UTF-8");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if core::mem::take(&mut is_first) {
            continue;
        }
        let Some((start, end, state)) = parse_block(line) else {
            return Err(Error::EINVAL.because(format!(
                "line {number} of the map file must be a position, a length and a state, which is \
                 one of {}, such as: 0x00100000 0x00000200 -",
                STATES.join(" ")
            )));
        };
        if state == RESCUED {
            ranges.try_reserve(1).map_err(|_| Error::ENOMEM)?;
            ranges.push(Range { start: start.min(size), end: end.min(size) });
        }
    }
    Ranges::new(ranges)
}

fn parse_block(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (start, length) = (parse_number(words.next()?)?, parse_number(words.next()?)?);
    let state = words.next().filter(|state| STATES.contains(state))?;
    let end = start.checked_add(length)?;
    words.next().is_none().then_some((start, end, state))
}

/// Parses a number as C does: hexadecimal, octal, or decimal.
fn parse_number(text: &str) -> Option<u64> {
    let (radix, digits) = if let Some(digits) = text.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = text.strip_prefix("0X") {
        (16, digits)
    } else if text.len() > 1 && text.starts_with('0') {
        (8, &text[1..])
    } else {
        (10, text)
    };
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

#[cfg(test)]
mod tests {
    use memnbd_guest::{Capabilities, testing};

    use super::*;

    const MAP: &[u8] = b"# Mapfile. Created by GNU ddrescue version 1.27
# current_pos  current_status  current_pass
0x00120000     ?               1
#      pos        size  status
0x00000000  0x00117000  +
0x00117000  0x00000200  -
0x00117200  4096\t/
010  010  *
0x00118200  0x00001000  +
0x00119200  0x10000000  ?
";

    #[test]
    fn rescued_blocks_are_those_with_a_plus() {
        let ranges = parse(MAP, 1 << 40).unwrap();
        let expected = [(0, 0x117000), (0x118200, 0x119200)];
        let pairs: Vec<_> =
            ranges.as_slice().iter().map(|range| (range.start, range.end)).collect();
        assert_eq!(pairs, expected);
        assert_eq!(parse(MAP, 0x100).unwrap().as_slice(), [Range { start: 0, end: 0x100 }]);
        assert!(parse(b"", 100).unwrap().is_empty());
        assert!(parse(b"0 +\n", 100).unwrap().is_empty(), "that is the state of ddrescue");
    }

    #[test]
    fn wrong_lines_are_told_by_their_numbers() {
        for line in [
            &b"0x0 0x1"[..],
            b"0x0 0x1 +x",
            b"0x0 0x1 ! ",
            b"0x0 -1 +",
            b"+1 1 +",
            b"0x 1 +",
            b"09 1 +",
            b"0x0 0x1 + +",
            b"0xffffffffffffffff 1 +",
            b"\xff\xff",
        ] {
            let text = [b"0 ?\n0 1 +\n", line, b"\n"].concat();
            let message = parse(&text, 100).unwrap_err().message.unwrap();
            assert!(message.starts_with("line 3 of the map file must be"), "{message}");
        }
    }

    #[test]
    fn files_are_not_too_long() {
        let file = testing::device(MAX_TEXT + 1, Capabilities::NONE);
        assert!(rescued(file, 100).unwrap_err().message.unwrap().ends_with("at most 8388608"));
        let empty = testing::device(0, Capabilities::NONE);
        assert!(rescued(empty, 100).unwrap().is_empty());
    }
}
