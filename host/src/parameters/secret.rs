//! Passwords and keys, which are not shown in messages and logs.

use std::fmt;
use std::sync::Arc;

/// The longest secret, in bytes.
pub const MAX_SECRET: usize = 64 << 10;

/// A password or a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    source: SecretSource,
    bytes: Option<Arc<[u8]>>,
}

/// Where a secret is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// It was given itself.
    Text(String),
    /// It is the first line of the file at this path.
    File(String),
    /// It is the first line that this file descriptor gives, which the process inherited.
    Descriptor(i32),
}

/// The rule that a text breaks. The text is not quoted: it may be a mistyped secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NoPath,
    Descriptor,
    Long,
}

impl Secret {
    /// Parses nbdkit's notation of passwords: `+PATH`, `-FD`, or else the secret itself. One that begins
    /// with a plus or a minus has to come from a file.
    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let source = match text.as_bytes().first() {
            Some(b'+') if text.len() == 1 => return Err(Reason::NoPath),
            Some(b'+') => SecretSource::File(text[1..].to_owned()),
            Some(b'-') => {
                let digits = &text[1..];
                let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
                let number = digits.parse().ok().filter(|&number: &i32| is_number && number > 2);
                SecretSource::Descriptor(number.ok_or(Reason::Descriptor)?)
            }
            _ if text.len() > MAX_SECRET => return Err(Reason::Long),
            _ => SecretSource::Text(text.to_owned()),
        };
        let bytes = match &source {
            SecretSource::Text(text) => Some(text.as_bytes().into()),
            SecretSource::File(_) | SecretSource::Descriptor(_) => None,
        };
        Ok(Self { source, bytes })
    }

    /// Returns where the secret is.
    pub fn source(&self) -> &SecretSource {
        &self.source
    }

    /// Sets the bytes that its source gave.
    pub fn set(&mut self, bytes: Arc<[u8]>) {
        self.bytes = Some(bytes);
    }

    /// Returns true if the bytes are known.
    pub fn is_known(&self) -> bool {
        self.bytes.is_some()
    }

    /// Returns the bytes, or none at all while they are not known.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Descriptor(number) => f.debug_tuple("Descriptor").field(number).finish(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPath => f.write_str("the path is missing; right would be +PATH")?,
            Self::Descriptor => f.write_str(
                "a minus is followed by the number of an inherited file descriptor, at least 3, as in -3",
            )?,
            Self::Long => {
                return write!(f, "the secret is too long, at most {MAX_SECRET} bytes are possible");
            }
        }
        f.write_str("; a secret that begins with + or - comes from a file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation_is_that_of_nbdkit() {
        let source = |text| Secret::parse(text).map(|secret| secret.source);
        assert_eq!(source("a b"), Ok(SecretSource::Text("a b".into())));
        assert_eq!(source(""), Ok(SecretSource::Text("".into())));
        assert_eq!(source("+/a b"), Ok(SecretSource::File("/a b".into())));
        assert_eq!(source("-3"), Ok(SecretSource::Descriptor(3)));
        assert_eq!(source("+"), Err(Reason::NoPath));
        for text in ["-", "-2", "-x", "-+3", "--3", "-99999999999"] {
            assert_eq!(source(text), Err(Reason::Descriptor), "{text}");
        }
        assert_eq!(source(&"x".repeat(MAX_SECRET + 1)), Err(Reason::Long));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::parse("hunter2").unwrap();
        assert_eq!(secret.bytes(), b"hunter2");
        assert_eq!(format!("{secret:?}"), "Text(..)");
    }

    #[test]
    fn bytes_come_later_from_a_file() {
        let mut secret = Secret::parse("+key").unwrap();
        assert!(!secret.is_known());
        secret.set((*b"k").into());
        assert_eq!(secret.bytes(), b"k");
    }
}
