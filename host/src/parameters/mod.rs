//! The parameters of a component or a filter: their types, their values, and the words of a command
//! line that assign the values.
//!
//! The notations are nbdkit's. The module is pure: it does not know what a parameter is for, who
//! declares it or who receives the value, and it reads no file, clock or environment. The caller
//! removes the words that are meant for the host.

mod arguments;
mod duration;
mod error;
mod number;
mod output_file;
mod probability;
mod secret;
mod size;

use std::ops::RangeInclusive;

pub use arguments::{ArgumentError, is_name, key_value, parse_arguments};
pub use duration::parse_duration;
pub use error::{ValueError, nearest};
pub use output_file::{OutputFile, assign_outputs, outputs};
pub use secret::{MAX_SECRET, Secret, SecretSource};
pub use size::parse_size;

use error::Reason;

/// A parameter that can be given as KEY=VALUE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The key: an ASCII letter, then ASCII letters, digits, `-` and `_`.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// The type of its value.
    pub kind: ParameterType,
    /// True if the parameter has to be given.
    pub required: bool,
    /// True if the parameter can be given several times; its values keep their order.
    pub repeatable: bool,
    /// The value that is assumed if the parameter is not given, as text for people.
    pub default: Option<String>,
}

/// A parameter's name with a value that was given for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// The name of the parameter.
    pub name: String,
    /// A value of the parameter's type.
    pub value: Value,
}

/// The type of a parameter: the texts that it accepts, and the value that they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// Any text, even an empty one.
    Text,
    /// One of these texts, of which there is at least one. Case is significant.
    Choice(Vec<String>),
    /// True (`1`, `true`, `t`, `yes`, `y`, `on`) or false (`0`, `false`, `f`, `no`, `n`, `off`), in
    /// upper or lower case.
    Boolean,
    /// A whole number in this range: an optional sign, then decimal digits, or hexadecimal ones
    /// after the prefix `0x`.
    Number(RangeInclusive<i64>),
    /// A number of bytes in this range, in the notation of [`parse_size`].
    Size(RangeInclusive<u64>),
    /// A time in the notation of [`parse_duration`].
    Duration,
    /// A number from 0 to 1: a fraction (`0.1`, `1e-3`), a percentage (`10%`), or a ratio (`1:100`,
    /// `1/100`).
    Probability,
    /// The name of an export, possibly empty.
    Device(Link),
    /// The path of a file.
    File(Link),
    /// A password or a key, in the notation of [`Secret::parse`].
    Secret,
    /// The path of a file to write to. What the file has is kept if the boolean parameter of this name
    /// is true.
    Output(Option<String>),
}

/// How the receiver of a parameter uses the device that it names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// It writes to it.
    pub writes: bool,
    /// It relies on a content that nobody changes but itself.
    pub unshared: bool,
    /// If no device is named, it gets an empty one of its own.
    pub scratch: bool,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The value of a [`ParameterType::Text`] or a [`ParameterType::Choice`].
    Text(String),
    /// The value of a [`ParameterType::Boolean`].
    Boolean(bool),
    /// The value of a [`ParameterType::Number`], in its range.
    Number(i64),
    /// The value of a [`ParameterType::Size`] in bytes, in its range.
    Size(u64),
    /// The value of a [`ParameterType::Duration`] in nanoseconds, at most 2^63-1.
    Duration(u64),
    /// The value of a [`ParameterType::Probability`]: finite, from 0 to 1.
    Probability(f64),
    /// The value of a [`ParameterType::Device`]. An empty name with [`Link::scratch`] stands for a new
    /// device.
    Device(String, Link),
    /// The value of a [`ParameterType::File`].
    File(String, Link),
    /// The value of a [`ParameterType::Secret`].
    Secret(Secret),
    /// The value of a [`ParameterType::Output`].
    Output(OutputFile),
}

impl Value {
    /// Returns true if the value is a device, of an export or a file.
    pub fn is_device(&self) -> bool {
        self.link().is_some()
    }

    /// Returns true if the value stands for a new device.
    pub fn is_scratch(&self) -> bool {
        matches!(self, Self::Device(name, link) if link.scratch && name.is_empty())
    }

    /// Returns how the device is used, if the value is one.
    pub fn link(&self) -> Option<Link> {
        match self {
            Self::Device(_, link) | Self::File(_, link) => Some(*link),
            _ => None,
        }
    }
}

impl ParameterType {
    /// Parses a value of this type.
    ///
    /// # Errors
    ///
    /// Returns an error if `text` is not in the notation of this type or is out of its range.
    pub fn parse(&self, text: &str) -> Result<Value, ValueError> {
        let value = match self {
            Self::Text => Ok(Value::Text(text.to_owned())),
            &Self::Device(link) => Ok(Value::Device(text.to_owned(), link)),
            &Self::File(link) => Ok(Value::File(text.to_owned(), link)),
            Self::Output(append) => Ok(Value::Output(OutputFile::new(text, append.as_deref()))),
            // The error quotes no secret.
            Self::Secret => {
                return Secret::parse(text)
                    .map(Value::Secret)
                    .map_err(|reason| ValueError::new("", Reason::Secret(reason)));
            }
            Self::Choice(choices) => choose(text, choices).map(Value::Text),
            Self::Boolean => boolean(text).map(Value::Boolean),
            Self::Number(range) => {
                number::parse(text, range).map(Value::Number).map_err(Reason::Number)
            }
            Self::Size(range) => size::parse(text, range).map(Value::Size).map_err(Reason::Size),
            Self::Duration => duration::parse(text).map(Value::Duration).map_err(Reason::Duration),
            Self::Probability => {
                probability::parse(text).map(Value::Probability).map_err(Reason::Probability)
            }
        };
        value.map_err(|reason| ValueError::new(text, reason))
    }

    /// Returns how the device is used, if the type is one of devices.
    pub fn link(&self) -> Option<Link> {
        match self {
            Self::Device(link) | Self::File(link) => Some(*link),
            _ => None,
        }
    }

    /// Returns a description of the value for help texts. It can follow `KEY=` or "the value is".
    pub fn usage(&self) -> String {
        match self {
            Self::Text => "TEXT".into(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            Self::Boolean => "true|false".into(),
            Self::Number(range) => number::usage(range),
            Self::Size(range) => size::usage(range),
            Self::Duration => "DURATION".into(),
            Self::Probability => "PROBABILITY".into(),
            Self::Device(_) => "EXPORT".into(),
            Self::File(_) | Self::Output(_) => "PATH".into(),
            Self::Secret => "+PATH, -FD or TEXT".into(),
        }
    }
}

fn choose(text: &str, choices: &[String]) -> Result<String, Reason> {
    match choices.iter().any(|choice| choice == text) {
        true => Ok(text.to_owned()),
        false => Err(Reason::NoSuchChoice {
            nearest: error::nearest(text, choices.iter().map(String::as_str)).map(str::to_owned),
            choices: choices.to_vec(),
        }),
    }
}

fn boolean(text: &str) -> Result<bool, Reason> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(Reason::NotABoolean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MAX_SIZE;

    fn refusal(kind: &ParameterType, text: &str) -> String {
        kind.parse(text).unwrap_err().to_string()
    }

    #[test]
    fn any_text_is_a_text() {
        for text in ["", " ", "a=b", "\u{e4}\n"] {
            assert_eq!(ParameterType::Text.parse(text), Ok(Value::Text(text.into())));
        }
    }

    #[test]
    fn choices_are_exact() {
        let kind = ParameterType::Choice(vec!["sparse".into(), "zstd".into()]);
        assert_eq!(kind.parse("zstd"), Ok(Value::Text("zstd".into())));
        for (text, said) in [
            (
                "Sparse",
                r#""Sparse" is not a choice (did you mean "sparse"?); right would be sparse, zstd"#,
            ),
            ("malloc", r#""malloc" is not a choice; right would be sparse, zstd"#),
            ("", r#""" is not a choice; right would be sparse, zstd"#),
            (
                "zstd ",
                r#""zstd " is not a choice (did you mean "zstd"?); right would be sparse, zstd"#,
            ),
        ] {
            assert_eq!(refusal(&kind, text), said);
        }
    }

    #[test]
    fn booleans_are_words_of_any_case() {
        for text in ["1", "true", "T", "yes", "Y", "on", "ON", "tRuE"] {
            assert_eq!(ParameterType::Boolean.parse(text), Ok(Value::Boolean(true)), "{text}");
        }
        for text in ["0", "false", "F", "no", "N", "off", "OFF", "fAlSe"] {
            assert_eq!(ParameterType::Boolean.parse(text), Ok(Value::Boolean(false)), "{text}");
        }
        for text in ["", " 1", "1 ", "01", "2", "-1", "yess", "o", "\u{661}", "\u{212a}"] {
            assert!(ParameterType::Boolean.parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            refusal(&ParameterType::Boolean, "maybe"),
            "\"maybe\" is neither true nor false; right would be true, yes, on or 1, or false, no, \
             off or 0"
        );
    }

    #[test]
    fn usage_describes_the_value() {
        for (kind, usage) in [
            (ParameterType::Text, "TEXT"),
            (ParameterType::Choice(vec!["a".into(), "b".into(), "c".into()]), "one of a, b, c"),
            (ParameterType::Boolean, "true|false"),
            (ParameterType::Number(1..=10), "NUMBER (1 to 10)"),
            (ParameterType::Number(i64::MIN..=i64::MAX), "NUMBER"),
            (ParameterType::Number(i64::MIN..=-1), "NUMBER (at most -1)"),
            (ParameterType::Number(0..=i64::MAX), "NUMBER (at least 0)"),
            (ParameterType::Size(0..=MAX_SIZE), "SIZE"),
            (ParameterType::Size(0..=u64::MAX), "SIZE"),
            (ParameterType::Size(0..=2 << 30), "SIZE (at most 2G)"),
            (ParameterType::Size(512..=MAX_SIZE), "SIZE (at least 512)"),
            (ParameterType::Size(4096..=1 << 20), "SIZE (4K to 1M)"),
            (ParameterType::Duration, "DURATION"),
            (ParameterType::Probability, "PROBABILITY"),
            (ParameterType::Device(Link::default()), "EXPORT"),
            (ParameterType::File(Link::default()), "PATH"),
            (ParameterType::Secret, "+PATH, -FD or TEXT"),
            (ParameterType::Output(None), "PATH"),
        ] {
            assert_eq!(kind.usage(), usage);
        }
    }

    #[test]
    fn each_type_has_its_value() {
        for (kind, text, value) in [
            (ParameterType::Number(-5..=5), "-0x5", Value::Number(-5)),
            (ParameterType::Size(0..=u64::MAX), "15e", Value::Size(15 << 60)),
            (ParameterType::Duration, "1.5ms", Value::Duration(1_500_000)),
            (ParameterType::Probability, "1:4", Value::Probability(0.25)),
        ] {
            assert_eq!(kind.parse(text), Ok(value));
        }
    }
}
