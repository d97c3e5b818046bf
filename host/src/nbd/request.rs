//! The headers of requests.

use super::codes::{CommandCode, magic};
use super::error::ProtocolError;

/// The length of a compact request header.
pub(super) const COMPACT_LEN: usize = 28;

/// The length of an extended request header.
pub(super) const EXTENDED_LEN: usize = 32;

/// The length of the longest request header.
pub const MAX_HEADER_LEN: usize = EXTENDED_LEN;

/// A request as it came over the wire. Nothing in it is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`super::codes::command_flag`], and others.
    pub flags: u16,
    /// What is asked for.
    pub command: CommandCode,
    /// Chosen by the client, repeated in every reply.
    pub cookie: u64,
    /// Where on the disk.
    pub offset: u64,
    /// Of the span or of the payload.
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

    /// The two headers differ in their magic and in the length, which comes last.
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
