//! Parsing of human-readable sizes, in nbdkit's notation.

use std::fmt;
use std::ops::RangeInclusive;

use super::{ValueError, error};
use crate::block::MAX_SIZE;

/// The largest size that can be parsed, in bytes.
const MAX: u64 = u64::MAX;

/// Parses a size: a number, either decimal or hexadecimal with the prefix `0x`, and an optional
/// suffix in upper or lower case: `b` (bytes), `s` (sectors of 512 bytes), or `k`, `m`, `g`, `t`,
/// `p`, `e` (powers of 1024).
///
/// In a hexadecimal number `b` and `e` are digits. Decimal numbers with a leading zero are
/// rejected, because releases of nbdkit disagree on whether they are octal.
///
/// # Errors
///
/// Returns an error if `text` is not a size, or if the size is larger than [`MAX_SIZE`].
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    parse(text, &(0..=MAX_SIZE))
        .map_err(|reason| ValueError::new(text, error::Reason::Size(reason)))
}

/// The rule that the text breaks. The numbers are the ends of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Empty,
    Negative(u64),
    NotANumber,
    NoHexDigits,
    LeadingZero,
    Fraction,
    UnknownSuffix,
    LongSuffix,
    TooSmall(u64),
    TooLarge(u64),
}

/// Parses a size in `range`; see [`parse_size`].
pub(super) fn parse(text: &str, range: &RangeInclusive<u64>) -> Result<u64, Reason> {
    let (min, max) = (*range.start(), *range.end());
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.starts_with('-') {
        return Err(Reason::Negative(min));
    }
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (radix, rest) = hexadecimal.map_or((10, text), |digits| (16, digits));
    let end = rest.find(|c: char| !c.is_digit(radix)).unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    if digits.is_empty() {
        return Err(if radix == 16 { Reason::NoHexDigits } else { Reason::NotANumber });
    }
    if radix == 10 && digits.len() > 1 && digits.starts_with('0') {
        return Err(Reason::LeadingZero);
    }
    let unit = unit(suffix)?;
    // All characters are digits of this radix, so this can only fail on overflow.
    let number = u64::from_str_radix(digits, radix).ok();
    match number.and_then(|number| number.checked_mul(unit)) {
        Some(size) if size < min => Err(Reason::TooSmall(min)),
        Some(size) if size <= max => Ok(size),
        _ => Err(Reason::TooLarge(max)),
    }
}

fn unit(suffix: &str) -> Result<u64, Reason> {
    let mut letters = suffix.chars().map(|c| c.to_ascii_lowercase());
    let unit = match letters.next() {
        None | Some('b') => 1,
        Some('s') => 512,
        Some('k') => 1 << 10,
        Some('m') => 1 << 20,
        Some('g') => 1 << 30,
        Some('t') => 1 << 40,
        Some('p') => 1 << 50,
        Some('e') => 1 << 60,
        Some('.' | ',') => return Err(Reason::Fraction),
        Some(_) => return Err(Reason::UnknownSuffix),
    };
    match letters.next() {
        None => Ok(unit),
        Some(_) => Err(Reason::LongSuffix),
    }
}

/// Returns a description of a size in `range` for help texts.
pub(super) fn usage(range: &RangeInclusive<u64>) -> String {
    match (*range.start(), *range.end()) {
        (0, MAX_SIZE..) => "SIZE".into(),
        (0, max) => format!("SIZE (at most {})", short(max)),
        (min, MAX_SIZE..) => format!("SIZE (at least {})", short(min)),
        (min, max) => format!("SIZE ({} to {})", short(min), short(max)),
    }
}

/// Returns a size with the largest suffix that leaves a whole number.
fn short(size: u64) -> String {
    let suffixes = [(60, 'E'), (50, 'P'), (40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    match suffixes.into_iter().find(|(shift, _)| size != 0 && size.trailing_zeros() >= *shift) {
        Some((shift, suffix)) => format!("{}{suffix}", size >> shift),
        None => size.to_string(),
    }
}

/// Returns a size with a suffix and in bytes, or in bytes alone if it has no suffix.
fn long(size: u64) -> String {
    match (short(size), size.to_string()) {
        (short, bytes) if short == bytes => bytes,
        (short, bytes) => format!("{short} ({bytes})"),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("is empty; give a number of bytes, or one like 512M or 2G"),
            Self::Negative(min) => write!(f, "is negative; the smallest size is {}", long(min)),
            Self::NotANumber => f.write_str("is not a number; right would be 1048576, 512M or 2G"),
            Self::NoHexDigits => f.write_str("has no digits after 0x; right would be 0x100000"),
            Self::LeadingZero => f.write_str(
                "begins with 0, which some take for octal; \
                 leave the zero out, or write 0x for hexadecimal",
            ),
            Self::Fraction => {
                f.write_str("is not a whole number; use a smaller unit: 1536M rather than 1.5G")
            }
            Self::UnknownSuffix => f.write_str("has an unknown suffix; known are b k m g t p e s"),
            Self::LongSuffix => {
                f.write_str("has more than a one-letter suffix; known are b k m g t p e s")
            }
            Self::TooSmall(min) => {
                write!(f, "is less than the smallest size that it takes, {}", long(min))
            }
            Self::TooLarge(MAX_SIZE) => {
                write!(f, "is too large; the largest size is {MAX_SIZE} (2^63-1)")
            }
            Self::TooLarge(MAX) => write!(f, "is too large; the largest size is {MAX} (2^64-1)"),
            Self::TooLarge(max) => {
                write!(f, "is more than the largest size that it takes, {}", long(max))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::ParameterType;

    #[test]
    fn sizes_are_numbers_with_one_suffix() {
        for (text, size) in [
            ("0", 0),
            ("0k", 0),
            ("1", 1),
            ("123456789", 123_456_789),
            ("5b", 5),
            ("5B", 5),
            ("3s", 3 * 512),
            ("3S", 3 * 512),
            ("1k", 1 << 10),
            ("1K", 1 << 10),
            ("1m", 1 << 20),
            ("2G", 2 << 30),
            ("1t", 1 << 40),
            ("1P", 1 << 50),
            ("7e", 7 << 60),
            ("0x0", 0),
            ("0x10", 16),
            ("0X10", 16),
            ("0x010", 16),
            ("0xfFk", 255 << 10),
            ("0x10M", 16 << 20),
            ("9223372036854775807", MAX_SIZE),
            ("0x7fffffffffffffff", MAX_SIZE),
            ("8388607t", 8_388_607 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn b_and_e_are_digits_of_hexadecimal_numbers() {
        assert_eq!(parse_size("0x1b"), Ok(0x1b));
        assert_eq!(parse_size("0x1E"), Ok(0x1e));
        assert_eq!(parse_size("0x1bk"), Ok(0x1b << 10));
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        let long = "9".repeat(1 << 16);
        let too_large = Reason::TooLarge(MAX_SIZE);
        for (text, reason) in [
            ("", Reason::Empty),
            ("-1", Reason::Negative(0)),
            ("-", Reason::Negative(0)),
            (" 1", Reason::NotANumber),
            ("+1", Reason::NotANumber),
            ("k", Reason::NotANumber),
            ("lots", Reason::NotANumber),
            ("\u{661}", Reason::NotANumber),
            ("\u{ff11}", Reason::NotANumber),
            ("\t", Reason::NotANumber),
            ("0x", Reason::NoHexDigits),
            ("0xk", Reason::NoHexDigits),
            ("0x-1", Reason::NoHexDigits),
            ("010", Reason::LeadingZero),
            ("00", Reason::LeadingZero),
            ("08", Reason::LeadingZero),
            ("00x10", Reason::LeadingZero),
            ("1.5G", Reason::Fraction),
            ("1,5G", Reason::Fraction),
            ("2X", Reason::UnknownSuffix),
            ("1 ", Reason::UnknownSuffix),
            ("1 G", Reason::UnknownSuffix),
            ("1_000", Reason::UnknownSuffix),
            ("1\u{3bc}", Reason::UnknownSuffix),
            ("1\u{212a}", Reason::UnknownSuffix),
            ("0b1", Reason::LongSuffix),
            ("1kb", Reason::LongSuffix),
            ("1KiB", Reason::LongSuffix),
            ("1k\0", Reason::LongSuffix),
            ("9223372036854775808", too_large),
            ("18446744073709551616", too_large),
            ("99999999999999999999999999", too_large),
            (long.as_str(), too_large),
            ("8e", too_large),
            ("16e", too_large),
            ("0x8000000000000000", too_large),
        ] {
            assert_eq!(
                parse_size(text),
                Err(ValueError::new(text, error::Reason::Size(reason))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn sizes_outside_the_range_are_refused() {
        let range = 512..=2 << 30;
        assert_eq!(parse("1s", &range), Ok(512));
        assert_eq!(parse("2G", &range), Ok(2 << 30));
        assert_eq!(parse("511", &range), Err(Reason::TooSmall(512)));
        assert_eq!(parse("2147483649", &range), Err(Reason::TooLarge(2 << 30)));
        assert_eq!(parse("99e", &range), Err(Reason::TooLarge(2 << 30)));
        assert_eq!(parse("-1", &range), Err(Reason::Negative(512)));
    }

    #[test]
    fn ranges_may_reach_beyond_the_largest_disk() {
        assert_eq!(parse("8e", &(0..=u64::MAX)), Ok(1 << 63));
        assert_eq!(parse("18446744073709551615", &(0..=u64::MAX)), Ok(u64::MAX));
        assert_eq!(parse("0xffffffffffffffff", &(0..=u64::MAX)), Ok(u64::MAX));
        for text in ["16e", "18446744073709551616", "0x10000000000000000"] {
            assert_eq!(parse(text, &(0..=u64::MAX)), Err(Reason::TooLarge(u64::MAX)), "{text}");
        }
    }

    #[test]
    fn refusals_quote_the_text_and_say_what_is_right() {
        let kind = |min, max| ParameterType::Size(min..=max);
        let cut = format!("{}1X", "0".repeat(100));
        for (kind, text, said) in [
            (
                kind(0, MAX_SIZE),
                "2X",
                r#""2X" has an unknown suffix; known are b k m g t p e s"#.to_owned(),
            ),
            (
                kind(0, MAX_SIZE),
                "8e",
                r#""8e" is too large; the largest size is 9223372036854775807 (2^63-1)"#.into(),
            ),
            (
                kind(0, u64::MAX),
                "16e",
                r#""16e" is too large; the largest size is 18446744073709551615 (2^64-1)"#.into(),
            ),
            (kind(0, MAX_SIZE), "-1", r#""-1" is negative; the smallest size is 0"#.into()),
            (
                kind(1024, MAX_SIZE),
                "-1",
                r#""-1" is negative; the smallest size is 1K (1024)"#.into(),
            ),
            (
                kind(0, 2 << 30),
                "3G",
                r#""3G" is more than the largest size that it takes, 2G (2147483648)"#.into(),
            ),
            (
                kind(0, 1000),
                "1001",
                r#""1001" is more than the largest size that it takes, 1000"#.into(),
            ),
            (
                kind(512, 2 << 30),
                "1",
                r#""1" is less than the smallest size that it takes, 512"#.into(),
            ),
            (
                kind(0, MAX_SIZE),
                "",
                r#""" is empty; give a number of bytes, or one like 512M or 2G"#.into(),
            ),
            (
                kind(0, MAX_SIZE),
                "1\u{1b}",
                r#""1\u{1b}" has an unknown suffix; known are b k m g t p e s"#.into(),
            ),
            (
                kind(0, MAX_SIZE),
                &cut,
                format!(
                    "\"{}\"... begins with 0, which some take for octal; leave the zero out, or \
                     write 0x for hexadecimal",
                    "0".repeat(60)
                ),
            ),
        ] {
            assert_eq!(kind.parse(text).unwrap_err().to_string(), said);
        }
    }
}
