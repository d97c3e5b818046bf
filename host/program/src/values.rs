//! Parsers for option values: sizes and times in the syntax of nbdkit, and others.

use std::time::Duration;

use memnbd::parameters::{ParameterType, Value, parse_duration};

/// Parses a size in bytes, as it is parsed for components, but up to 2^64-1.
///
/// # Errors
///
/// Returns a message for the user if `text` is not a size.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match ParameterType::Size(0..=u64::MAX).parse(text) {
        Ok(Value::Size(size)) => Ok(size),
        Ok(other) => unreachable!("{other:?} is no size"),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a time greater than 0; see [`seconds_or_zero`].
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match seconds_or_zero(text)? {
        Duration::ZERO => Err("it must be more than 0 seconds".into()),
        duration => Ok(duration),
    }
}

/// Parses a time, in seconds unless it has a unit.
pub(super) fn seconds_or_zero(text: &str) -> Result<Duration, String> {
    // A day is longer than any test takes, and far below the range of timers.
    const DAY: Duration = Duration::from_secs(86400);
    match parse_duration(text).map_err(|error| error.to_string())? {
        duration if duration <= DAY => Ok(duration),
        _ => Err("it must be between 0 and 86400 seconds".into()),
    }
}

/// Parses a mask of handshake flags, in decimal or, with the prefix `0x`, in hexadecimal.
pub(super) fn mask(text: &str) -> Result<u16, String> {
    let mask = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    mask.map_err(|_| "not a mask; flags are 1, 2 and their sum 3".into())
}

/// Parses a name that can be part of a log line.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("a name is not empty and has no control characters".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{mask, seconds, seconds_or_zero, size};

    #[test]
    fn sizes_have_one_suffix_of_either_case() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("7b"), Ok(7));
        assert_eq!(size("3S"), Ok(1536));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(size("15e"), Ok(15 << 60));
        assert_eq!(size("0x10"), Ok(16));
        assert_eq!(size("0X1bk"), Ok(0x1b << 10));
        for bad in [
            "",
            "k",
            "-1",
            "1.5G",
            "2GiB",
            "1kb",
            "16e",
            "1 k",
            "0x",
            "0xk",
            "00x1",
            "010",
            "18446744073709551616",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_are_seconds_unless_they_have_a_unit() {
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(seconds_or_zero("0"), Ok(Duration::ZERO));
        for bad in ["", "0", "ms", "-1", "1h", "nan", "inf", "86401", "1e400"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn masks_are_decimal_or_hexadecimal() {
        assert_eq!(mask("3"), Ok(3));
        assert_eq!(mask("0xffff"), Ok(0xffff));
        for bad in ["", "0x", "-1", "65536", "0x10000", "all"] {
            assert!(mask(bad).is_err(), "{bad:?}");
        }
    }
}
