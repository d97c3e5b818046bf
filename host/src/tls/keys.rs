//! Pre-shared keys: a file of lines `identity:key`, as `psktool` writes it.
//!
//! The key is hexadecimal. An identity that begins with `#` is hexadecimal, too; any other line
//! that begins with `#` is a comment. Keys never appear in messages.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, FileError};

/// The longest key, in bytes: the most that OpenSSL accepts.
const MAX_KEY: usize = 256;

/// The longest identity, in bytes: the most that OpenSSL accepts.
const MAX_IDENTITY: usize = 256;

/// A key file in which keys are looked up.
#[derive(Debug)]
pub(super) struct Keys {
    file: PathBuf,
    /// The identity of the first entry.
    pub(super) first: Vec<u8>,
}

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum Lookup {
    /// The identity has a key.
    Found { identity: String, length: usize },
    /// There is no such identity.
    Unknown { identity: String },
    /// The file can no longer be used.
    Failed(Arc<KeysError>),
}

/// What is wrong with a key file.
#[derive(Debug)]
pub enum KeysError {
    /// The file cannot be read.
    File(FileError),
    /// A line is malformed.
    Line {
        /// The line number, counted from 1.
        number: usize,
        /// What is wrong.
        problem: Problem,
    },
    /// The file contains no keys.
    Empty,
}

/// What is wrong with a line of a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no colon.
    NoColon,
    /// There is nothing before the colon.
    NoIdentity,
    /// The identity is too long.
    LongIdentity,
    /// There is nothing after the colon.
    NoKey,
    /// What follows the colon is not made of pairs of hexadecimal digits.
    NotHexadecimal,
    /// The key is too long.
    LongKey,
}

impl From<FileError> for KeysError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Line { number, problem } => write!(f, "line {number}: {problem}"),
            Self::Empty => f.write_str("there are no keys in it; psktool makes some"),
        }
    }
}

impl std::error::Error for KeysError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str("there is no colon; it should read user:hexkey"),
            Self::NoIdentity => f.write_str("there is no user before the colon"),
            Self::LongIdentity => write!(f, "the user has more than {MAX_IDENTITY} bytes"),
            Self::NoKey => f.write_str("there is no key after the colon"),
            Self::NotHexadecimal => {
                f.write_str("the key is not made of pairs of hexadecimal digits")
            }
            Self::LongKey => write!(f, "the key has more than {MAX_KEY} bytes"),
        }
    }
}

impl Keys {
    /// Reads the file to check that it is valid.
    pub(super) fn new(file: &Path) -> Result<Self, KeysError> {
        // The server may change its working directory.
        let file = std::path::absolute(file).map_err(FileError::from)?;
        let mut first = None;
        for entry in entries(&files::read_secret(&file)?) {
            let Entry { identity, .. } = entry?;
            first.get_or_insert(identity);
        }
        Ok(Self { file, first: first.ok_or(KeysError::Empty)? })
    }

    /// Looks up the key of an identity in the current content of the file, and copies it to the
    /// front of `key`. If an identity occurs more than once, the first line counts.
    pub(super) fn look_up(&self, identity: &[u8], key: &mut [u8]) -> Lookup {
        let name = String::from_utf8_lossy(identity).into_owned();
        match self.find(identity) {
            Ok(Some(found)) => {
                // OpenSSL has room for MAX_KEY bytes.
                let length = found.len().min(key.len());
                key[..length].copy_from_slice(&found[..length]);
                Lookup::Found { identity: name, length }
            }
            Ok(None) => Lookup::Unknown { identity: name },
            Err(error) => Lookup::Failed(Arc::new(error)),
        }
    }

    fn find(&self, identity: &[u8]) -> Result<Option<Vec<u8>>, KeysError> {
        for entry in entries(&files::read_secret(&self.file)?) {
            let entry = entry?;
            if entry.identity == identity {
                return Ok(Some(entry.key));
            }
        }
        Ok(None)
    }
}

impl Lookup {
    /// Returns the length of the key in bytes, or zero if there is no key.
    pub(super) fn key_length(&self) -> usize {
        match self {
            Self::Found { length, .. } => *length,
            Self::Unknown { .. } | Self::Failed(_) => 0,
        }
    }
}

/// A line with a key.
struct Entry {
    identity: Vec<u8>,
    key: Vec<u8>,
}

/// Returns the entries of a file.
fn entries(text: &[u8]) -> impl Iterator<Item = Result<Entry, KeysError>> {
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    lines.filter_map(|(index, line)| {
        let entry = entry(line.trim_ascii())?;
        Some(entry.map_err(|problem| KeysError::Line { number: index + 1, problem }))
    })
}

/// Parses a line. Returns `None` if it is blank or a comment.
fn entry(line: &[u8]) -> Option<Result<Entry, Problem>> {
    if line.is_empty() {
        return None;
    }
    // The key contains no colon; the identity may contain some.
    let colon = line.iter().rposition(|&byte| byte == b':');
    let (identity, key) = match (colon, line) {
        (None, [b'#', ..]) => return None,
        (None, _) => return Some(Err(Problem::NoColon)),
        (Some(colon), _) => (&line[..colon], &line[colon + 1..]),
    };
    let identity = match identity {
        [b'#', digits @ ..] => bytes(digits)?,
        _ => identity.to_vec(),
    };
    let Some(key) = bytes(key) else { return Some(Err(Problem::NotHexadecimal)) };
    let problem = match (identity.len(), key.len()) {
        (0, _) => Problem::NoIdentity,
        (_, 0) => Problem::NoKey,
        (length, _) if length > MAX_IDENTITY => Problem::LongIdentity,
        (_, length) if length > MAX_KEY => Problem::LongKey,
        _ => return Some(Ok(Entry { identity, key })),
    };
    Some(Err(problem))
}

/// Decodes pairs of hexadecimal digits. Returns `None` if there is anything else.
fn bytes(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs.iter().map(|&[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8)).collect()
}
