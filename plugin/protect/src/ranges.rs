//! The protected ranges, as the user writes them.

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{Error, OpenRequest, Value, parse_size};

/// The most protected ranges. A request is divided into at most twice as many parts, and one.
const MAX_RANGES: usize = 1024;

/// A range that must not change, at least one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    /// The offset after the last byte.
    pub(crate) end: u64,
}

/// Returns the ranges of a request, on a disk of `size` bytes, in ascending order and apart from each
/// other.
///
/// # Errors
///
/// Returns `EINVAL` if the text of one is wrong, or there are too many.
pub(crate) fn parse(request: &OpenRequest, size: u64) -> Result<Vec<Range>, Error> {
    let mut ranges = Vec::new();
    for value in request.values("protect") {
        let Value::Text(text) = value else { return Err(Error::EINVAL) };
        let (complement, range) = match text.strip_prefix('~') {
            Some(rest) => (true, parse_range(rest)),
            None => (false, parse_range(text)),
        };
        let Some((start, end)) = range else {
            return Err(Error::EINVAL.because(format!(
                "protect must be START-END or ~START-END, such as 0-0x1bd, where END is the last \
                 byte and not before START; {text} is not"
            )));
        };
        if complement {
            ranges.extend([Range { start: 0, end: start }, Range { start: end, end: size }]);
        } else {
            ranges.push(Range { start, end });
        }
    }
    for range in &mut ranges {
        range.end = range.end.min(size);
    }
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut apart: Vec<Range> = Vec::new();
    for range in ranges {
        match apart.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => apart.push(range),
        }
    }
    if apart.len() > MAX_RANGES {
        return Err(Error::EINVAL.because(format!(
            "{} ranges are protected; there can be at most {MAX_RANGES}",
            apart.len()
        )));
    }
    Ok(apart)
}

/// Parses the offsets of the first and the last byte. Returns the first, and the one after the last.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.split_once('-')?;
    let start = if start.is_empty() { 0 } else { parse_size(start)? };
    let end = if end.is_empty() { u64::MAX } else { parse_size(end)?.saturating_add(1) };
    (start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges of these parameters on a disk of 1000 bytes.
    fn of(texts: &[&str]) -> Option<Vec<(u64, u64)>> {
        let request = texts.iter().fold(OpenRequest::default(), |request, text| {
            request.with("protect", Value::Text((*text).into()))
        });
        let ranges = parse(&request, 1000).ok()?;
        Some(ranges.iter().map(|range| (range.start, range.end)).collect())
    }

    #[test]
    fn ranges_have_a_first_and_a_last_byte() {
        assert_eq!(of(&[]), Some(vec![]));
        assert_eq!(of(&["0-0x1bd"]), Some(vec![(0, 446)]));
        assert_eq!(of(&["5-5"]), Some(vec![(5, 6)]));
        assert_eq!(of(&["-99"]), Some(vec![(0, 100)]));
        assert_eq!(of(&["100-"]), Some(vec![(100, 1000)]));
        assert_eq!(of(&["-"]), Some(vec![(0, 1000)]));
        assert_eq!(of(&["999-5000"]), Some(vec![(999, 1000)]));
        assert_eq!(of(&["1000-5000"]), Some(vec![]));
        assert_eq!(of(&["0-18446744073709551615"]), Some(vec![(0, 1000)]));
        assert_eq!(of(&["2s-2047"]), Some(vec![]));
        for text in ["", "5", "6-5", "x-5", "5-x", "~", "~~1-2", "1-2-3", "-1-2", "010-20"] {
            assert_eq!(of(&[text]), None, "{text}");
        }
    }

    #[test]
    fn complement_is_what_is_around_a_range() {
        assert_eq!(of(&["~100-199"]), Some(vec![(0, 100), (200, 1000)]));
        assert_eq!(of(&["~-199"]), Some(vec![(200, 1000)]));
        assert_eq!(of(&["~100-"]), Some(vec![(0, 100)]));
        assert_eq!(of(&["~-"]), Some(vec![]));
        assert_eq!(of(&["~2000-3000"]), Some(vec![(0, 1000)]));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(of(&["50-59", "10-19", "20-29", "15-16"]), Some(vec![(10, 30), (50, 60)]));
        assert_eq!(of(&["~10-19", "12-13"]), Some(vec![(0, 10), (12, 14), (20, 1000)]));
        assert_eq!(of(&["10-99", "20-29"]), Some(vec![(10, 100)]));
    }

    #[test]
    fn ranges_are_not_too_many() {
        let texts: Vec<String> = (0..1025_u64).map(|n| format!("{}-{}", n * 2, n * 2)).collect();
        let request = texts.iter().fold(OpenRequest::default(), |request, text| {
            request.with("protect", Value::Text(text.clone()))
        });
        assert_eq!(parse(&request, 2048).map(|ranges| ranges.len()), Ok(1024));
        assert!(parse(&request, 5000).is_err());
    }
}
