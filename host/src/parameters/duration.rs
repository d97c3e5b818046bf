//! Parsing of human-readable times, in nbdkit's notation.

use std::fmt;
use std::time::Duration;

use super::{ValueError, error};

/// The longest time, in nanoseconds: it fits a signed 64-bit integer.
const MAX: u64 = i64::MAX as u64;

/// Parses a time: a decimal number, whole or with a fraction, and an optional unit: `s` (seconds,
/// as without a unit), `ms`, `us` (also with the letter mu) or `ns`. The result is rounded to whole
/// nanoseconds.
///
/// # Errors
///
/// Returns an error if `text` is not a time, or if the time is longer than 2^63-1 nanoseconds,
/// which is 292 years.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    match parse(text) {
        Ok(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        Err(reason) => Err(ValueError::new(text, error::Reason::Duration(reason))),
    }
}

/// The rule that the text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Empty,
    Negative,
    NotANumber,
    UnknownUnit,
    TooLong,
}

/// Parses a time into nanoseconds; see [`parse_duration`].
pub(super) fn parse(text: &str) -> Result<u64, Reason> {
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.starts_with('-') {
        return Err(Reason::Negative);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(Reason::NotANumber);
    }
    // A unit is 10 to the power of `places` nanoseconds.
    let places = match unit {
        "" | "s" => 9,
        "ms" => 6,
        // The Greek letter, which nbdkit's manual has, and the micro sign, which keyboards have.
        "us" | "\u{3bc}s" | "\u{b5}s" => 3,
        "ns" => 0,
        _ => return Err(Reason::UnknownUnit),
    };
    // The decimal point moves by text: a floating point number has fewer digits than 2^63-1.
    let (kept, rest) = fraction.split_at(places.min(fraction.len()));
    // All characters are digits, so this can only fail on overflow.
    let nanoseconds: Option<u64> = format!("0{whole}{kept:0<places$}").parse().ok();
    let carry = u64::from(rest.starts_with(['5', '6', '7', '8', '9']));
    let rounded = nanoseconds.and_then(|nanoseconds| nanoseconds.checked_add(carry));
    rounded.filter(|nanoseconds| *nanoseconds <= MAX).ok_or(Reason::TooLong)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty; give a number of seconds, or one like 1.5s or 20ms",
            Self::Negative => "is negative; the shortest time is 0",
            Self::NotANumber => "is not a number; right would be 2, 1.5s or 20ms",
            Self::UnknownUnit => "has an unknown unit; known are s ms us ns",
            Self::TooLong => {
                "is too long; the longest time is 9223372036.854775807s (2^63-1 nanoseconds)"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_unless_they_have_a_unit() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("0ns", 0),
            ("2", 2_000_000_000),
            ("007", 7_000_000_000),
            ("1.2", 1_200_000_000),
            ("1.2s", 1_200_000_000),
            (".5", 500_000_000),
            ("5.", 5_000_000_000),
            ("5.s", 5_000_000_000),
            ("120ms", 120_000_000),
            ("1.2ms", 1_200_000),
            ("1.2us", 1_200),
            ("1.2\u{3bc}s", 1_200),
            ("1.2\u{b5}s", 1_200),
            ("120\u{3bc}s", 120_000),
            ("1ns", 1),
            ("0.000000001", 1),
            ("86401", 86_401_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(nanoseconds), "{text}");
        }
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn times_are_rounded_to_nanoseconds() {
        for (text, nanoseconds) in [
            ("0.4ns", 0),
            (".5ns", 1),
            ("1.5ns", 2),
            ("1.49999999999999999999999ns", 1),
            ("0.0000000014", 1),
            ("0.0000000015", 2),
            ("0.9999999999", 1_000_000_000),
            ("0.1234567us", 123),
        ] {
            assert_eq!(parse(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn longest_time_is_exact() {
        for text in ["9223372036.854775807", "9223372036854775807ns", "9223372036854775807.4ns"] {
            assert_eq!(parse(text), Ok(MAX), "{text}");
        }
        let long = "9".repeat(1 << 16);
        for text in [
            "9223372036.854775808",
            "9223372036854775807.5ns",
            "9223372036854775808ns",
            "18446744073709551615ns",
            "18446744073709551615.9ns",
            "18446744073709551616ns",
            "18446744073709551616",
            &long,
        ] {
            assert_eq!(parse(text), Err(Reason::TooLong), "{text}");
        }
        assert_eq!(parse(&format!("{}1", "0".repeat(1 << 16))), Ok(1_000_000_000));
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", Reason::Empty),
            ("-1", Reason::Negative),
            ("-0", Reason::Negative),
            ("+1", Reason::NotANumber),
            (".", Reason::NotANumber),
            (".s", Reason::NotANumber),
            ("1.2.3", Reason::NotANumber),
            ("..1", Reason::NotANumber),
            ("ms", Reason::NotANumber),
            ("soon", Reason::NotANumber),
            ("nan", Reason::NotANumber),
            ("inf", Reason::NotANumber),
            ("infinity", Reason::NotANumber),
            (" 1", Reason::NotANumber),
            ("\u{661}s", Reason::NotANumber),
            ("1h", Reason::UnknownUnit),
            ("1m", Reason::UnknownUnit),
            ("1d", Reason::UnknownUnit),
            ("1S", Reason::UnknownUnit),
            ("1Ms", Reason::UnknownUnit),
            ("1 s", Reason::UnknownUnit),
            ("1s ", Reason::UnknownUnit),
            ("1\n", Reason::UnknownUnit),
            ("1s2ms", Reason::UnknownUnit),
            ("1,5", Reason::UnknownUnit),
            ("1e3", Reason::UnknownUnit),
            ("1e400", Reason::UnknownUnit),
            ("0x10", Reason::UnknownUnit),
            ("1\u{661}", Reason::UnknownUnit),
        ] {
            assert_eq!(parse(text), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn refusals_quote_the_text_and_say_what_is_right() {
        for (text, said) in [
            ("", r#""" is empty; give a number of seconds, or one like 1.5s or 20ms"#),
            ("-1", r#""-1" is negative; the shortest time is 0"#),
            ("soon\0", r#""soon\0" is not a number; right would be 2, 1.5s or 20ms"#),
            ("1h", r#""1h" has an unknown unit; known are s ms us ns"#),
            (
                "9999999999",
                "\"9999999999\" is too long; the longest time is 9223372036.854775807s \
                 (2^63-1 nanoseconds)",
            ),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), said);
        }
    }
}
