//! Request headers.

use super::codes::{CommandCode, magic};
use super::error::ProtocolError;

/// The length of a compact request header, in bytes.
pub(super) const COMPACT_LEN: usize = 28;

/// The length of an extended request header, in bytes.
pub(super) const EXTENDED_LEN: usize = 32;

/// The length of the longest request header, in bytes.
pub const MAX_HEADER_LEN: usize = EXTENDED_LEN;

/// A request as received from the client. None of it has been validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`super::codes::command_flag`], and possibly unknown ones.
    pub flags: u16,
    /// The requested command.
    pub command: CommandCode,
    /// Chosen by the client and repeated in every reply to the request.
    pub cookie: u64,
    /// The offset on the disk, in bytes.
    pub offset: u64,
    /// The length of the span or of the payload, in bytes.
    pub length: u64,
}

impl Request {
    #[inline]
    pub(super) fn parse_compact(header: &[u8]) -> Result<Self, ProtocolError> {
        Self::parse::<COMPACT_LEN>(header, magic::REQUEST, |header| u32_at(header, 24).into())
    }

    #[inline]
    pub(super) fn parse_extended(header: &[u8]) -> Result<Self, ProtocolError> {
        Self::parse::<EXTENDED_LEN>(header, magic::EXTENDED_REQUEST, |header| u64_at(header, 24))
    }

    /// Parses either header. They differ in the magic number and in the length, which comes last.
    #[inline]
    fn parse<const N: usize>(
        header: &[u8],
        expected: u32,
        length: impl FnOnce(&[u8; N]) -> u64,
    ) -> Result<Self, ProtocolError> {
        let Some(header) = header.first_chunk::<N>() else {
            return Err(ProtocolError::RequestTruncated { length: header.len() });
        };
        let magic = u32_at(header, 0);
        if magic != expected {
            return Err(ProtocolError::RequestMagic { magic });
        }
        Ok(Self {
            flags: u16_at(header, 4),
            command: CommandCode(u16_at(header, 6)),
            cookie: u64_at(header, 8),
            offset: u64_at(header, 16),
            length: length(header),
        })
    }
}

#[inline]
fn u16_at<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

#[inline]
fn u32_at<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[inline]
fn u64_at<const N: usize>(header: &[u8; N], at: usize) -> u64 {
    u64::from(u32_at(header, at)) << 32 | u64::from(u32_at(header, at + 4))
}
