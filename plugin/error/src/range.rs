//! The ranges in which requests fail, as the user writes them.

use alloc::format;

use memnbd_guest::{Error, parse_size};

/// A range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The offset of the first byte.
    pub(crate) start: u64,
    /// The offset of the first byte after the range.
    pub(crate) end: u64,
}

impl Range {
    /// Parses `OFFSET:LENGTH`, both of which are sizes, and checks that the range lies on a disk of
    /// `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` with a message that has the rule.
    pub(crate) fn parse(text: &str, size: u64) -> Result<Self, Error> {
        let parsed = text
            .split_once(':')
            .and_then(|(offset, length)| Some((parse_size(offset)?, parse_size(length)?)));
        let Some((start, length)) = parsed else {
            return Err(Error::EINVAL
                .because(format!("error-range must be OFFSET:LENGTH, such as 1M:4k, not {text}")));
        };
        if length == 0 {
            return Err(Error::EINVAL
                .because(format!("error-range={text} is empty; its length must be at least 1")));
        }
        match start.checked_add(length) {
            Some(end) if end <= size => Ok(Self { start, end }),
            _ => Err(Error::EINVAL.because(format!(
                "error-range={text} ends beyond the device beneath, which has {size} bytes"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_an_offset_and_a_length() {
        let parse = |text| Range::parse(text, 1 << 40).ok().map(|range| (range.start, range.end));
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
            ("5:0", "error-range=5:0 is empty; its length must be at least 1"),
            ("99:2", "error-range=99:2 ends beyond the device beneath, which has 100 bytes"),
            (
                "0xffffffffffffffff:1",
                "error-range=0xffffffffffffffff:1 ends beyond the device beneath, which has 100 \
                 bytes",
            ),
            ("5", "error-range must be OFFSET:LENGTH, such as 1M:4k, not 5"),
        ] {
            assert_eq!(Range::parse(text, 100).unwrap_err().message.unwrap(), message);
        }
    }
}
