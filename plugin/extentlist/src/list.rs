//! The list of extents, a text whose lines are an offset, a length and a type.

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{Error, Status, parse_size};

/// The longest text, in bytes.
pub(crate) const MAX_TEXT: u64 = 8 << 20;

/// A range of the disk that has one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    /// The offset after the last byte.
    pub(crate) end: u64,
    pub(crate) status: Status,
}

/// Parses a list. Returns the ranges that are in it, in the order of their offsets.
///
/// # Errors
///
/// Returns `EINVAL` with the number of the line that is wrong, or the place where two ranges overlap.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Range>, Error> {
    let mut ranges = Vec::new();
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1_u64..) {
        let line = core::str::from_utf8(line).ok();
        let parsed = line.and_then(|line| match line.trim() {
            // The last one, or an empty one.
            "" => Some(None),
            line => parse_line(line).map(Some),
        });
        let Some(range) = parsed else {
            return Err(Error::EINVAL.because(format!(
                "line {number} of the list of extents must be an offset, a length and possibly a \
                 type, which is 0 to 3, hole, zero, or hole,zero, such as: 1M 64k hole,zero"
            )));
        };
        if let Some(range) = range.filter(|range| range.start < range.end) {
            ranges.try_reserve(1).map_err(|_| Error::ENOMEM)?;
            ranges.push(range);
        }
    }
    ranges.sort_unstable_by_key(|range| range.start);
    for pair in ranges.windows(2) {
        if pair[0].end > pair[1].start {
            return Err(Error::EINVAL.because(format!(
                "two extents of the list overlap at {}; each byte may be in one",
                pair[1].start
            )));
        }
    }
    Ok(ranges)
}

fn parse_line(line: &str) -> Option<Range> {
    let mut words = line.split_ascii_whitespace();
    let (start, length) = (parse_size(words.next()?)?, parse_size(words.next()?)?);
    let mut status = Status::DATA;
    for word in words.next().unwrap_or("0").split(',') {
        match word {
            "hole" => status.hole = true,
            "zero" => status.zero = true,
            number => {
                let bits: u8 = number.parse().ok().filter(|bits| *bits < 4)?;
                status.hole |= bits & 1 != 0;
                status.zero |= bits & 2 != 0;
            }
        }
    }
    let end = start.checked_add(length)?;
    words.next().is_none().then_some(Range { start, end, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_an_offset_a_length_and_a_type() {
        let text =
            b"0 1M\n 1M\t9M  hole,zero \n\n20M 1 zero,hole\n30M 1k hole\n40M 2k zero\n50M 1 3\n\
                     60M 1 1\r\n70M 1 2\n80M 0\n90M 1 0";
        let ranges = parse(text).unwrap();
        let statuses: Vec<_> =
            ranges.iter().map(|range| (range.start >> 20, range.status)).collect();
        let (hole, zero) = (Status { hole: true, zero: false }, Status { hole: false, zero: true });
        assert_eq!(
            statuses,
            [
                (0, Status::DATA),
                (1, Status::HOLE),
                (20, Status::HOLE),
                (30, hole),
                (40, zero),
                (50, Status::HOLE),
                (60, hole),
                (70, zero),
                (90, Status::DATA),
            ]
        );
        assert_eq!(ranges[1].end, 10 << 20);
        assert_eq!(parse(b""), Ok(vec![]));
    }

    #[test]
    fn order_does_not_matter_and_overlaps_are_refused() {
        let ranges = parse(b"100 10\n0 50\n50 50 3\n").unwrap();
        let starts: Vec<u64> = ranges.iter().map(|range| range.start).collect();
        assert_eq!(starts, [0, 50, 100]);
        let error = parse(b"100 10\n0 50\n49 1\n").unwrap_err();
        assert!(error.message.unwrap().contains("overlap at 49"));
    }

    #[test]
    fn wrong_lines_are_told_by_their_numbers() {
        for text in [
            &b"x 1"[..],
            b"1",
            b"1 x",
            b"1 1 4",
            b"1 1 -1",
            b"1 1 holes",
            b"1 1 hole zero",
            b"1 1 hole,",
            b"16e 1",
            b"15e 15e",
            b"\xff 1",
        ] {
            let text = [b"0 1\n", text, b"\n"].concat();
            let message = parse(&text).unwrap_err().message.unwrap();
            assert!(message.starts_with("line 2 of the list"), "{message}");
        }
    }
}
