//! Parts of a disk, as the user writes them.

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{Error, OpenRequest, Value, parse_size};

/// The most ranges that a component takes, after those that touch are merged.
pub const MAX_RANGES: usize = 65536;

/// A range of a disk, at least one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The offset of the first byte.
    pub start: u64,
    /// The offset of the first byte after the range.
    pub end: u64,
}

impl Range {
    /// Parses `OFFSET:LENGTH`, the value of the parameter `name`, and checks that the range lies on a
    /// disk of `size` bytes. Both are sizes.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` with a message that has the rule.
    pub fn parse(name: &str, text: &str, size: u64) -> Result<Self, Error> {
        let parsed = text
            .split_once(':')
            .and_then(|(offset, length)| Some((parse_size(offset)?, parse_size(length)?)));
        let Some((start, length)) = parsed else {
            return Err(Error::EINVAL
                .because(format!("{name} must be OFFSET:LENGTH, such as 1M:4k, not {text}")));
        };
        if length == 0 {
            return Err(Error::EINVAL
                .because(format!("{name}={text} is empty; its length must be at least 1")));
        }
        match start.checked_add(length) {
            Some(end) if end <= size => Ok(Self { start, end }),
            _ => Err(Error::EINVAL.because(format!(
                "{name}={text} ends beyond the device beneath, which has {size} bytes"
            ))),
        }
    }
}

/// Ranges of a disk, in ascending order and apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Returns the ranges of a parameter that can be repeated, on a disk of `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if one of them is wrong, or there are more than [`MAX_RANGES`].
    pub fn from_request(request: &OpenRequest, name: &str, size: u64) -> Result<Self, Error> {
        let mut ranges = Vec::new();
        for value in request.values(name) {
            if let Value::Text(text) = value {
                ranges.push(Range::parse(name, text, size)?);
            }
        }
        Self::new(ranges)
    }

    /// Returns the union of ranges.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if there are more than [`MAX_RANGES`].
    pub fn new(mut ranges: Vec<Range>) -> Result<Self, Error> {
        ranges.retain(|range| range.start < range.end);
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        if ranges.len() > MAX_RANGES {
            return Err(Error::EINVAL.because(format!(
                "there are {} ranges; there can be at most {MAX_RANGES}",
                ranges.len()
            )));
        }
        Ok(Self(ranges))
    }

    /// Returns what of a disk of `size` bytes is in no range.
    #[must_use]
    pub fn complement(&self, size: u64) -> Self {
        let starts = core::iter::once(0).chain(self.0.iter().map(|range| range.end));
        let ends = self.0.iter().map(|range| range.start).chain(core::iter::once(size));
        let gaps = starts.zip(ends).map(|(start, end)| Range { start, end });
        Self(gaps.filter(|gap| gap.start < gap.end).collect())
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the ranges.
    pub fn as_slice(&self) -> &[Range] {
        &self.0
    }

    /// Returns the first range that has bytes at `offset` or after it.
    pub fn next(&self, offset: u64) -> Option<Range> {
        self.0.get(self.0.partition_point(|range| range.end <= offset)).copied()
    }

    /// Returns true if a byte from `start` up to `end` is in a range.
    pub fn touches(&self, start: u64, end: u64) -> bool {
        self.next(start).is_some_and(|range| range.start < end)
    }

    /// Removes the bytes from `start` up to `end`.
    pub fn remove(&mut self, start: u64, end: u64) {
        let first = self.0.partition_point(|range| range.end <= start);
        let last = self.0.partition_point(|range| range.start < end).max(first);
        let Some(touched) = self.0.get(first..last).filter(|touched| !touched.is_empty()) else {
            return;
        };
        let left = Range { start: touched[0].start, end: start };
        let right = Range { start: end, end: touched[touched.len() - 1].end };
        let rest = [left, right].into_iter().filter(|range| range.start < range.end);
        self.0.splice(first..last, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Ranges {
        Ranges::new(pairs.iter().map(|(start, end)| Range { start: *start, end: *end }).collect())
            .unwrap()
    }

    #[test]
    fn ranges_are_an_offset_and_a_length() {
        let parse = |text| {
            Range::parse("bad-range", text, 1 << 40).ok().map(|range| (range.start, range.end))
        };
        assert_eq!(parse("0:1"), Some((0, 1)));
        assert_eq!(parse("1M:4k"), Some((1 << 20, (1 << 20) + 4096)));
        assert_eq!(parse("0x10:0X1f"), Some((16, 47)));
        assert_eq!(parse("2s:1B"), Some((1024, 1025)));
        assert_eq!(parse("0:1T"), Some((0, 1 << 40)));
        for text in
            ["", "1", ":", "1:", ":1", "-1:1", "010:1", "1:1:1", "1x:1", "0x:1", "1kb:1", "1e1:1"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_are_not_empty_and_lie_on_the_disk() {
        for (text, message) in [
            ("5:0", "bad-range=5:0 is empty; its length must be at least 1"),
            ("99:2", "bad-range=99:2 ends beyond the device beneath, which has 100 bytes"),
            ("16e:1", "bad-range must be OFFSET:LENGTH, such as 1M:4k, not 16e:1"),
            ("15e:15e", "bad-range=15e:15e ends beyond the device beneath, which has 100 bytes"),
        ] {
            let error = Range::parse("bad-range", text, 100).unwrap_err();
            assert_eq!(error.message.unwrap(), message);
        }
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let union = ranges(&[(50, 60), (10, 20), (20, 30), (15, 16), (70, 70)]);
        assert_eq!(union, ranges(&[(10, 30), (50, 60)]));
        assert_eq!(union.as_slice().len(), 2);
        assert!(union.touches(29, 30) && union.touches(0, 100) && union.touches(40, 51));
        assert!(!union.touches(30, 50) && !union.touches(60, 100) && !union.touches(0, 10));
        assert_eq!(union.next(30), Some(Range { start: 50, end: 60 }));
        assert_eq!(union.next(60), None);
    }

    #[test]
    fn complement_is_what_is_around_ranges() {
        let some = ranges(&[(10, 20), (30, 40)]);
        assert_eq!(some.complement(50), ranges(&[(0, 10), (20, 30), (40, 50)]));
        assert_eq!(some.complement(40), ranges(&[(0, 10), (20, 30)]));
        assert_eq!(ranges(&[]).complement(7), ranges(&[(0, 7)]));
        assert_eq!(ranges(&[(0, 7)]).complement(7), ranges(&[]));
        assert_eq!(ranges(&[]).complement(0), ranges(&[]));
    }

    #[test]
    fn ranges_are_not_too_many() {
        let apart = |count| {
            Ranges::new((0..count).map(|n| Range { start: n * 2, end: n * 2 + 1 }).collect())
        };
        assert!(apart(MAX_RANGES as u64).is_ok());
        assert!(apart(MAX_RANGES as u64 + 1).is_err());
    }

    #[test]
    fn removed_bytes_leave_what_is_around_them() {
        let whole = ranges(&[(10, 20), (30, 40), (50, 60)]);
        for start in 0..65 {
            for end in start..65 {
                let mut left = whole.clone();
                left.remove(start, end);
                for at in 0..65 {
                    let expected = whole.touches(at, at + 1) && !(start..end).contains(&at);
                    assert_eq!(left.touches(at, at + 1), expected, "{start} {end} {at}");
                }
                assert!(left.as_slice().iter().all(|range| range.start < range.end));
            }
        }
    }
}
