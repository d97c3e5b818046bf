//! Parsers for option data.

use std::collections::BTreeSet;

use super::codes::{BASE_ALLOCATION, BASE_WILDCARD, InfoType, OptionReplyType};
use super::contexts::{BITMAP_WILDCARD, ContextName, QEMU_WILDCARD};
use super::limits::{MAX_QUERIES, MAX_STRING};

/// Why the data of an option was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// A length extends past the end of the data.
    Short,
    /// Bytes are left over after the data.
    Trailing,
    /// A string is longer than [`MAX_STRING`].
    LongString,
    /// A string is not UTF-8 or contains NUL.
    NotText,
    /// More than [`MAX_QUERIES`] queries.
    ManyQueries,
}

impl Malformed {
    /// Returns the option reply type that reports this.
    pub(super) fn reply_type(self) -> OptionReplyType {
        match self {
            Self::ManyQueries => OptionReplyType::ERR_TOO_BIG,
            _ => OptionReplyType::ERR_INVALID,
        }
    }

    /// Returns a human-readable message.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Short => "the option data ends too early",
            Self::Trailing => "the option data has trailing bytes",
            Self::LongString => "a string is longer than 4096 bytes",
            Self::NotText => "a string is not UTF-8 or contains NUL",
            Self::ManyQueries => "too many queries",
        }
    }
}

/// The data of an INFO or GO option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InfoRequest {
    pub(super) name: String,
    pub(super) wanted: Wanted,
}

/// Which information a client wants besides NBD_INFO_EXPORT, which is always sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: bool,
    pub(super) description: bool,
    pub(super) block_size: bool,
}

impl InfoRequest {
    pub(super) fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { rest: data };
        let name = reader.string()?.to_owned();
        let count = reader.u16()?;
        let mut wanted = Wanted::default();
        for _ in 0..count {
            match InfoType(reader.u16()?) {
                InfoType::NAME => wanted.name = true,
                InfoType::DESCRIPTION => wanted.description = true,
                InfoType::BLOCK_SIZE => wanted.block_size = true,
                _ => {}
            }
        }
        reader.end()?;
        Ok(Self { name, wanted })
    }
}

/// The data of a LIST_META_CONTEXT or SET_META_CONTEXT option.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ContextRequest {
    pub(super) name: String,
    /// Whether there are no queries, which in LIST_META_CONTEXT asks for all contexts.
    pub(super) all: bool,
    /// Whether the wildcard of the namespace `base` is among the queries.
    pub(super) wildcard: bool,
    /// Whether that of the namespace `qemu` is.
    pub(super) qemu_wildcard: bool,
    /// Whether that of the dirty bitmaps is.
    pub(super) bitmap_wildcard: bool,
    /// Whether `base:allocation` is among the queries.
    pub(super) allocation: bool,
    /// The other contexts that are among the queries, whether or not they exist.
    pub(super) others: BTreeSet<ContextName>,
}

impl ContextRequest {
    pub(super) fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { rest: data };
        let name = reader.string()?.to_owned();
        let count = reader.u32()?;
        let mut request = Self { name, all: count == 0, ..Self::default() };
        // A query takes at least four bytes, so a count that the data cannot hold is malformed, not
        // too big.
        if count as usize > reader.rest.len() / 4 {
            return Err(Malformed::Short);
        }
        if count > MAX_QUERIES {
            return Err(Malformed::ManyQueries);
        }
        for _ in 0..count {
            let query = reader.string()?;
            request.wildcard |= query == BASE_WILDCARD;
            request.qemu_wildcard |= query == QEMU_WILDCARD;
            request.bitmap_wildcard |= query == BITMAP_WILDCARD;
            request.allocation |= query == BASE_ALLOCATION;
            request.others.extend(ContextName::parse(query));
        }
        reader.end()?;
        Ok(request)
    }
}

/// Parses the data of EXPORT_NAME, which is nothing but the name of the export.
pub(super) fn export_name(data: &[u8]) -> Result<String, Malformed> {
    string(data).map(str::to_owned)
}

/// Validates a string (spec: "Conventions").
fn string(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > MAX_STRING {
        return Err(Malformed::LongString);
    }
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Malformed::NotText),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(front)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let (front, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*front))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let (front, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*front))
    }

    fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()?;
        string(self.take(usize::try_from(length).map_err(|_| Malformed::Short)?)?)
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.rest {
            [] => Ok(()),
            _ => Err(Malformed::Trailing),
        }
    }
}
