//! Where the parts of the disk are, as the user writes it.

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{Error, OpenRequest, Value, parse_size};

/// The most parameters. Each adds at most two ranges.
const MAX_MAPS: usize = 1024;

/// A part of the disk, and where it is on the device beneath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    /// The offset after the last byte.
    pub(crate) end: u64,
    pub(crate) destination: u64,
}

impl Range {
    /// Returns where a byte of the range is.
    pub(crate) const fn place(&self, offset: u64) -> u64 {
        self.destination + (offset - self.start)
    }
}

/// Returns the ranges that make up a disk of `size` bytes, in order. What is in no parameter is at the
/// same offset on the device beneath. The first parameter that has an offset holds.
///
/// # Errors
///
/// Returns `EINVAL` if the text of a parameter is wrong, or there are too many.
pub(crate) fn parse(request: &OpenRequest, size: u64) -> Result<Vec<Range>, Error> {
    let mut maps = Vec::new();
    for value in request.values("map") {
        let Value::Text(text) = value else { return Err(Error::EINVAL) };
        let Some(range) = parse_range(text) else {
            return Err(Error::EINVAL.because(format!(
                "map must be START-END:DEST, such as 0-511:1M, where END is the last byte and not \
                 before START, and nothing is beyond 2^63-1; {text} is not"
            )));
        };
        maps.push(range);
    }
    if maps.len() > MAX_MAPS {
        return Err(Error::EINVAL.because(format!(
            "map is given {} times; it can be given at most {MAX_MAPS} times",
            maps.len()
        )));
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        // Those before the one that holds could begin later, and then hold from there on.
        let mut end = size;
        let mut destination = at;
        for map in &maps {
            if map.start > at {
                end = end.min(map.start);
            } else if at < map.end {
                end = end.min(map.end);
                destination = map.place(at);
                break;
            }
        }
        ranges.push(Range { start: at, end, destination });
        at = end;
    }
    Ok(ranges)
}

fn parse_range(text: &str) -> Option<Range> {
    const LIMIT: u64 = i64::MAX as u64;
    let (range, destination) = text.split_once(':')?;
    let (start, end) = range.split_once('-')?;
    let (start, last) = (parse_size(start)?, parse_size(end)?);
    let destination = parse_size(destination)?;
    let length = last.checked_sub(start)?.checked_add(1)?;
    let ends = [start, destination].map(|begin| begin.checked_add(length));
    ends.iter().all(|end| end.is_some_and(|end| end <= LIMIT)).then_some(Range {
        start,
        end: start + length,
        destination,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges of these parameters on a disk of 100 bytes.
    fn of(texts: &[&str]) -> Option<Vec<(u64, u64, u64)>> {
        let request = texts.iter().fold(OpenRequest::default(), |request, text| {
            request.with("map", Value::Text((*text).into()))
        });
        let ranges = parse(&request, 100).ok()?;
        Some(ranges.iter().map(|range| (range.start, range.end, range.destination)).collect())
    }

    #[test]
    fn gaps_are_where_they_are() {
        assert_eq!(of(&[]), Some(vec![(0, 100, 0)]));
        assert_eq!(of(&["10-19:50"]), Some(vec![(0, 10, 0), (10, 20, 50), (20, 100, 20)]));
        assert_eq!(of(&["0-99:1k"]), Some(vec![(0, 100, 1024)]));
        assert_eq!(of(&["90-200:0x10"]), Some(vec![(0, 90, 0), (90, 100, 16)]));
        assert_eq!(of(&["100-200:0"]), Some(vec![(0, 100, 0)]));
    }

    #[test]
    fn first_parameter_holds() {
        let expected = vec![(0, 20, 0), (20, 30, 70), (30, 40, 80), (40, 60, 30), (60, 100, 60)];
        assert_eq!(of(&["30-39:80", "20-29:70", "10-59:0", "0-99:0"]).unwrap().len(), 6);
        assert_eq!(of(&["30-39:80", "20-29:70", "40-59:30"]), Some(expected));
        assert_eq!(
            of(&["30-39:80", "20-49:10"]),
            Some(vec![(0, 20, 0), (20, 30, 10), (30, 40, 80), (40, 50, 30), (50, 100, 50)])
        );
        assert_eq!(of(&["0-99:5", "30-39:80"]), Some(vec![(0, 100, 5)]));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "5",
            "1-2",
            "1:2",
            "2-1:0",
            "-1:0",
            "1-:0",
            "1-2:",
            "1-2:x",
            "1-2:3:4",
            "0-9223372036854775807:0",
            "0-1:9223372036854775807",
            "0-18446744073709551615:0",
        ] {
            assert_eq!(of(&[text]), None, "{text}");
        }
        assert_eq!(of(&vec!["1-2:3"; 1024]).unwrap().len(), 3);
        assert_eq!(of(&vec!["1-2:3"; 1025]), None);
    }
}
