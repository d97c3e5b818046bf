//! How long a disk or a snapshot stays.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The longest time, 365 days, in seconds.
const LONGEST: u64 = 365 * 24 * 60 * 60;

/// The units, with their seconds, from the longest.
const UNITS: [(char, u64); 4] = [('d', 24 * 60 * 60), ('h', 60 * 60), ('m', 60), ('s', 1)];

/// The most digits of a number.
const MAX_DIGITS: usize = 9;

/// How times are written.
const RULE: &str = "it is a whole number and s, m, h or d, from 1s to 365d, as in 90s";

/// A time to live, in whole seconds: `90s`, `10m`, `8h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ttl(u64);

impl Ttl {
    pub(super) fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// Checks the limits of the time, which its spelling does not say.
    pub(crate) fn check(self) -> Result<(), String> {
        match self.0 {
            1..=LONGEST => Ok(()),
            _ => Err(format!("ttl {self}: {RULE}")),
        }
    }
}

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let short: String = text.chars().take(32).collect();
            format!("{short:?}: {RULE}")
        };
        let unit = |&(unit, seconds): &(char, u64)| Some((text.strip_suffix(unit)?, seconds));
        let (digits, seconds) = UNITS.iter().find_map(unit).ok_or_else(wrong)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        let number = digits.parse::<u64>().ok();
        let number = number.filter(|_| plain && digits.len() <= MAX_DIGITS).ok_or_else(wrong)?;
        Ok(Self(number * seconds))
    }
}

/// In the longest unit of which the time is a whole number.
impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |&&(_, seconds): &&(char, u64)| self.0.is_multiple_of(seconds);
        let (unit, seconds) = UNITS.iter().find(divides).copied().unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for Ttl {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A time: a whole number and s, m, h or d, from 1s to 365d"))
            .pattern(Some("^[1-9][0-9]{0,8}[smhd]$"))
            .examples(["90s"]);
        schema.into()
    }
}

impl ToSchema for Ttl {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_are_shown_in_the_longest_one() {
        for (text, seconds, shown) in [
            ("1s", 1, "1s"),
            ("90s", 90, "90s"),
            ("60s", 60, "1m"),
            ("90m", 5400, "90m"),
            ("24h", 86_400, "1d"),
            ("365d", LONGEST, "365d"),
        ] {
            let ttl: Ttl = text.parse().unwrap();
            assert_eq!((ttl.0, ttl.to_string().as_str()), (seconds, shown));
            assert_eq!(ttl.check(), Ok(()));
            assert_eq!(serde_json::to_value(ttl).unwrap(), shown);
        }
        for text in
            ["", "s", "0s", "01s", "+1s", "1", "1 s", "1.5h", "-1s", "1w", "1ms", "1234567890s"]
        {
            let error = text.parse::<Ttl>().unwrap_err();
            assert!(error.contains(RULE), "{text}: {error}");
        }
        for text in ["366d", "999999999d", "31536001s"] {
            let ttl: Ttl = text.parse().unwrap();
            assert!(ttl.check().unwrap_err().contains("from 1s to 365d"), "{text}");
        }
    }
}
