//! What was negotiated.

use super::codes::transmission_flag::*;
use super::error::ProtocolError;
use super::limits::{DEFAULT_MAXIMUM_PAYLOAD, MAX_DRAIN, MAX_PAYLOAD};
use super::reply::ReplyTo;
use super::request::{COMPACT_LEN, EXTENDED_LEN, Request};
use super::style::ReplyStyle;
use crate::block::{BlockSizes, Capabilities, Geometry};

/// What a client asked for and got before transmission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// By STRUCTURED_REPLY or EXTENDED_HEADERS.
    pub style: ReplyStyle,
    /// Whether GO asked for the block sizes: such a client abides by them.
    pub block_sizes: bool,
    /// Whether `base:allocation` was selected for this export.
    pub allocation: bool,
}

/// The transmission phase of one connection: how it speaks, and what it may ask of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub(super) style: ReplyStyle,
    pub(super) allocation: bool,
    pub(super) flags: u16,
    pub(super) size: u64,
    /// Offsets and lengths have none of these bits.
    pub(super) misaligned: u64,
    /// The longest payload of a read or write that is executed.
    pub(super) maximum: u64,
    /// The longest payload that is read at all.
    pub(super) payload_cap: u64,
}

impl Session {
    /// A session on a disk.
    pub fn new(geometry: &Geometry, negotiated: Negotiated) -> Self {
        let sizes = advertised(geometry.block_sizes);
        // A client that was told nothing may count on the defaults; storage sees to the rest.
        let maximum = match negotiated.block_sizes {
            true => sizes.maximum,
            false => sizes.maximum.max(DEFAULT_MAXIMUM_PAYLOAD),
        };
        // With extended headers the spec wants to see the client off ("Request message"), without
        // it wants patience; nobody is sent away for less than the default payload.
        let payload_cap = match negotiated.style {
            ReplyStyle::Extended => u64::from(maximum.max(DEFAULT_MAXIMUM_PAYLOAD)),
            ReplyStyle::Simple | ReplyStyle::Structured => MAX_DRAIN,
        };
        Self {
            style: negotiated.style,
            allocation: negotiated.allocation,
            flags: transmission_flags(geometry.capabilities, negotiated),
            size: geometry.size,
            misaligned: match negotiated.block_sizes {
                true => u64::from(sizes.minimum) - 1,
                false => 0,
            },
            maximum: u64::from(maximum),
            payload_cap,
        }
    }

    /// The length of every request header.
    #[inline]
    pub fn header_len(&self) -> usize {
        match self.style {
            ReplyStyle::Extended => EXTENDED_LEN,
            ReplyStyle::Simple | ReplyStyle::Structured => COMPACT_LEN,
        }
    }

    /// Reads a request header from the first [`Self::header_len`] bytes.
    #[inline]
    pub fn parse(&self, header: &[u8]) -> Result<Request, ProtocolError> {
        match self.style {
            ReplyStyle::Extended => Request::parse_extended(header),
            ReplyStyle::Simple | ReplyStyle::Structured => Request::parse_compact(header),
        }
    }

    /// Where the reply to a request goes.
    #[inline]
    pub fn reply_to(&self, request: &Request) -> ReplyTo {
        ReplyTo::new(self.style, request)
    }

    /// Which headers replies have.
    pub fn style(&self) -> ReplyStyle {
        self.style
    }

    /// What the client was told: bits of [`super::codes::transmission_flag`].
    pub fn transmission_flags(&self) -> u16 {
        self.flags
    }

    /// The longest payload of a read or write that is admitted, in bytes.
    pub fn maximum_payload(&self) -> u32 {
        u32::try_from(self.maximum).unwrap_or(MAX_PAYLOAD)
    }
}

/// The block sizes that clients are told: those of the disk, with payloads that we are willing to
/// take.
pub(super) fn advertised(sizes: BlockSizes) -> BlockSizes {
    BlockSizes {
        minimum: sizes.minimum,
        preferred: sizes.preferred.min(MAX_PAYLOAD),
        maximum: sizes.maximum.min(MAX_PAYLOAD),
    }
}

/// The spec's "Transmission flags" of a disk. A bit is set only for what a request may use.
fn transmission_flags(capabilities: Capabilities, negotiated: Negotiated) -> u16 {
    let Capabilities { writable, flush, fua, trim, zero, .. } = capabilities;
    let Capabilities { fast_zero, cache, multi_conn, rotational, .. } = capabilities;
    let extended = negotiated.style == ReplyStyle::Extended;
    [
        (true, HAS_FLAGS),
        (!writable, READ_ONLY),
        (flush, SEND_FLUSH),
        (fua, SEND_FUA),
        (rotational, ROTATIONAL),
        (writable && trim, SEND_TRIM),
        (writable && zero, SEND_WRITE_ZEROES),
        (negotiated.style != ReplyStyle::Simple, SEND_DF),
        (multi_conn, CAN_MULTI_CONN),
        (cache, SEND_CACHE),
        (writable && zero && fast_zero, SEND_FAST_ZERO),
        (extended && negotiated.allocation, BLOCK_STATUS_PAYLOAD),
    ]
    .into_iter()
    .filter(|(offered, _)| *offered)
    .fold(0, |flags, (_, flag)| flags | flag)
}
