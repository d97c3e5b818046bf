//! Parsing of human-readable sizes, in nbdkit's notation.

use core::fmt;

/// The largest disk, in bytes: NBD clients store offsets in signed 64-bit integers.
pub const MAX_SIZE: u64 = i64::MAX as u64;

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
pub fn parse_size(text: &str) -> Result<u64, SizeError<'_>> {
    parse(text).map_err(|reason| SizeError { text, reason })
}

/// The error for text that is not a valid size. Its `Display` output quotes the text and says what
/// would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeError<'a> {
    text: &'a str,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Empty,
    Negative,
    NotANumber,
    NoHexDigits,
    LeadingZero,
    Fraction,
    UnknownSuffix,
    LongSuffix,
    TooLarge,
}

fn parse(text: &str) -> Result<u64, Reason> {
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.starts_with('-') {
        return Err(Reason::Negative);
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
    let number = u64::from_str_radix(digits, radix).map_err(|_| Reason::TooLarge)?;
    number.checked_mul(unit).filter(|size| *size <= MAX_SIZE).ok_or(Reason::TooLarge)
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

impl fmt::Display for SizeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, reason } = self;
        write!(f, "{text:?} ")?;
        match reason {
            Reason::Empty => {
                f.write_str("is empty; give a number of bytes, or one like 512M or 2G")
            }
            Reason::Negative => f.write_str("is negative; the smallest size is 0"),
            Reason::NotANumber => {
                f.write_str("is not a number; right would be 1048576, 512M or 2G")
            }
            Reason::NoHexDigits => f.write_str("has no digits after 0x; right would be 0x100000"),
            Reason::LeadingZero => f.write_str(
                "begins with 0, which some take for octal; \
                 leave the zero out, or write 0x for hexadecimal",
            ),
            Reason::Fraction => {
                f.write_str("is not a whole number; use a smaller unit: 1536M rather than 1.5G")
            }
            Reason::UnknownSuffix => {
                f.write_str("has an unknown suffix; known are b k m g t p e s")
            }
            Reason::LongSuffix => {
                f.write_str("has more than a one-letter suffix; known are b k m g t p e s")
            }
            Reason::TooLarge => {
                write!(f, "is too large; the largest size is {MAX_SIZE} (2^63-1)")
            }
        }
    }
}

impl core::error::Error for SizeError<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (text, reason) in [
            ("", Reason::Empty),
            ("-1", Reason::Negative),
            ("-", Reason::Negative),
            (" 1", Reason::NotANumber),
            ("+1", Reason::NotANumber),
            ("k", Reason::NotANumber),
            ("lots", Reason::NotANumber),
            ("\u{661}", Reason::NotANumber),
            ("0x", Reason::NoHexDigits),
            ("0xk", Reason::NoHexDigits),
            ("0x-1", Reason::NoHexDigits),
            ("010", Reason::LeadingZero),
            ("00", Reason::LeadingZero),
            ("08", Reason::LeadingZero),
            ("00x10", Reason::LeadingZero),
            ("1.5G", Reason::Fraction),
            ("2X", Reason::UnknownSuffix),
            ("1 ", Reason::UnknownSuffix),
            ("1 G", Reason::UnknownSuffix),
            ("1_000", Reason::UnknownSuffix),
            ("1\u{3bc}", Reason::UnknownSuffix),
            ("0b1", Reason::LongSuffix),
            ("1kb", Reason::LongSuffix),
            ("1KiB", Reason::LongSuffix),
            ("1k\0", Reason::LongSuffix),
            ("9223372036854775808", Reason::TooLarge),
            ("18446744073709551616", Reason::TooLarge),
            ("99999999999999999999999999", Reason::TooLarge),
            ("8e", Reason::TooLarge),
            ("16e", Reason::TooLarge),
            ("0x8000000000000000", Reason::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(SizeError { text, reason }), "{text:?}");
        }
    }

    #[test]
    fn refusals_quote_the_text_and_say_what_is_right() {
        let said = |text| std::format!("size: {}", parse_size(text).unwrap_err());
        assert_eq!(said("2X"), r#"size: "2X" has an unknown suffix; known are b k m g t p e s"#);
        assert_eq!(
            said("8e"),
            r#"size: "8e" is too large; the largest size is 9223372036854775807 (2^63-1)"#
        );
        assert_eq!(said("-1"), r#"size: "-1" is negative; the smallest size is 0"#);
    }
}
