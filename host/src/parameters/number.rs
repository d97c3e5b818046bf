//! Parsing of whole numbers.

use std::fmt;
use std::ops::RangeInclusive;

/// The rule that the text breaks. The numbers are the ends of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NotANumber(i64, i64),
    NoHexDigits,
    LeadingZero,
    TooSmall(i64),
    TooLarge(i64),
}

/// Parses a whole number in `range`: an optional sign, then decimal digits, or hexadecimal ones
/// after the prefix `0x`. Decimal numbers with a leading zero are rejected, because nbdkit takes
/// them for octal.
pub(super) fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<i64, Reason> {
    let (min, max) = (*range.start(), *range.end());
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
    let (radix, digits) = hexadecimal.map_or((10, rest), |digits| (16, digits));
    if radix == 16 && digits.is_empty() {
        return Err(Reason::NoHexDigits);
    }
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(Reason::NotANumber(min, max));
    }
    if radix == 10 && digits.len() > 1 && digits.starts_with('0') {
        return Err(Reason::LeadingZero);
    }
    // All characters are digits of this radix, so this can only fail on overflow.
    let magnitude = i128::from_str_radix(digits, radix).unwrap_or(i128::MAX);
    let number = if negative { -magnitude } else { magnitude };
    match i64::try_from(number) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ if number < i128::from(min) => Err(Reason::TooSmall(min)),
        _ => Err(Reason::TooLarge(max)),
    }
}

/// Returns a description of a number in `range` for help texts.
pub(super) fn usage(range: &RangeInclusive<i64>) -> String {
    match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) => "NUMBER".into(),
        (i64::MIN, max) => format!("NUMBER (at most {max})"),
        (min, i64::MAX) => format!("NUMBER (at least {min})"),
        (min, max) => format!("NUMBER ({min} to {max})"),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANumber(min, max) => write!(
                f,
                "is not a whole number; right would be one from {min} to {max}, in decimal, or in \
                 hexadecimal with 0x"
            ),
            Self::NoHexDigits => f.write_str("has no digits after 0x; right would be 0x10"),
            Self::LeadingZero => f.write_str(
                "begins with 0, which some take for octal; \
                 leave the zero out, or write 0x for hexadecimal",
            ),
            Self::TooSmall(min) => {
                write!(f, "is less than the smallest number that it takes, {min}")
            }
            Self::TooLarge(max) => {
                write!(f, "is more than the largest number that it takes, {max}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::ParameterType;

    const ALL: RangeInclusive<i64> = i64::MIN..=i64::MAX;

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        for (text, number) in [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("7", 7),
            ("+7", 7),
            ("-7", -7),
            ("0x1F", 31),
            ("0X1f", 31),
            ("-0x1f", -31),
            ("+0x00f", 15),
            ("9223372036854775807", i64::MAX),
            ("0x7fffffffffffffff", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-0x8000000000000000", i64::MIN),
        ] {
            assert_eq!(parse(text, &ALL), Ok(number), "{text}");
        }
        let padded = format!("0x{}1", "0".repeat(1 << 16));
        assert_eq!(parse(&padded, &ALL), Ok(1));
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        let not_a_number = Reason::NotANumber(i64::MIN, i64::MAX);
        let (too_small, too_large) = (Reason::TooSmall(i64::MIN), Reason::TooLarge(i64::MAX));
        let long = "9".repeat(1 << 16);
        for (text, reason) in [
            ("", not_a_number),
            ("-", not_a_number),
            ("+", not_a_number),
            (" 1", not_a_number),
            ("1 ", not_a_number),
            ("1\n", not_a_number),
            ("--1", not_a_number),
            ("+-1", not_a_number),
            ("- 1", not_a_number),
            ("1k", not_a_number),
            ("1.0", not_a_number),
            ("1e3", not_a_number),
            ("1_000", not_a_number),
            ("ff", not_a_number),
            ("0xfg", not_a_number),
            ("0x-1", not_a_number),
            ("0b1", not_a_number),
            ("\u{661}", not_a_number),
            ("\u{ff11}", not_a_number),
            ("0x", Reason::NoHexDigits),
            ("-0x", Reason::NoHexDigits),
            ("010", Reason::LeadingZero),
            ("-08", Reason::LeadingZero),
            ("00", Reason::LeadingZero),
            ("9223372036854775808", too_large),
            ("18446744073709551615", too_large),
            ("18446744073709551616", too_large),
            ("0xffffffffffffffffffffffffffffffffffffffff", too_large),
            (long.as_str(), too_large),
            ("-9223372036854775809", too_small),
            ("-99999999999999999999999999999999999999999999", too_small),
        ] {
            assert_eq!(parse(text, &ALL), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn numbers_outside_the_range_are_refused() {
        assert_eq!(parse("1", &(1..=10)), Ok(1));
        assert_eq!(parse("10", &(1..=10)), Ok(10));
        assert_eq!(parse("0", &(1..=10)), Err(Reason::TooSmall(1)));
        assert_eq!(parse("-1", &(1..=10)), Err(Reason::TooSmall(1)));
        assert_eq!(parse("11", &(1..=10)), Err(Reason::TooLarge(10)));
    }

    #[test]
    fn refusals_quote_the_text_and_say_what_is_right() {
        let kind = ParameterType::Number(1..=10);
        for (text, said) in [
            (
                "1k",
                "\"1k\" is not a whole number; right would be one from 1 to 10, in decimal, or in \
                 hexadecimal with 0x",
            ),
            ("0x", "\"0x\" has no digits after 0x; right would be 0x10"),
            (
                "07",
                "\"07\" begins with 0, which some take for octal; leave the zero out, or write 0x \
                 for hexadecimal",
            ),
            ("0", "\"0\" is less than the smallest number that it takes, 1"),
            ("0x10", "\"0x10\" is more than the largest number that it takes, 10"),
        ] {
            assert_eq!(kind.parse(text).unwrap_err().to_string(), said);
        }
    }
}
