//! The transmission phase as it was negotiated.

use super::codes::transmission_flag::*;
use super::contexts::Contexts;
use super::error::ProtocolError;
use super::limits::{DEFAULT_MAXIMUM_PAYLOAD, MAX_DRAIN, MAX_PAYLOAD};
use super::reply::ReplyTo;
use super::request::{COMPACT_LEN, EXTENDED_LEN, Request};
use super::style::ReplyStyle;
use crate::block::{BlockSizes, Capabilities, Geometry};

/// What a client negotiated before transmission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The style of replies, by STRUCTURED_REPLY or EXTENDED_HEADERS.
    pub style: ReplyStyle,
    /// Whether GO requested the block sizes: such a client has to respect them.
    pub block_sizes: bool,
    /// The metadata contexts that were selected for this export.
    pub contexts: Contexts,
}

/// The transmission phase of one connection: the style of its messages, and what may be requested
/// from its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub(super) style: ReplyStyle,
    pub(super) contexts: Contexts,
    pub(super) flags: u16,
    pub(super) size: u64,
    /// The bits that must not be set in offsets and lengths.
    pub(super) misaligned: u64,
    /// The longest payload, in bytes, of a read or write that is executed.
    pub(super) maximum: u64,
    /// The longest payload, in bytes, that is read at all.
    pub(super) payload_cap: u64,
}

impl Session {
    /// Creates a session for a disk.
    pub fn new(geometry: &Geometry, negotiated: Negotiated) -> Self {
        let sizes = advertised(geometry.block_sizes);
        // A client that did not get the block sizes may rely on the defaults; storage handles what
        // the disk itself does not take.
        let maximum = match negotiated.block_sizes {
            true => sizes.maximum,
            false => sizes.maximum.max(DEFAULT_MAXIMUM_PAYLOAD),
        };
        // If a payload is too long, the spec wants the client disconnected with extended headers
        // ("Request message"), and without them the payload read where possible. No client is
        // disconnected for less than the default payload.
        let payload_cap = match negotiated.style {
            ReplyStyle::Extended => u64::from(maximum.max(DEFAULT_MAXIMUM_PAYLOAD)),
            ReplyStyle::Simple | ReplyStyle::Structured => MAX_DRAIN,
        };
        Self {
            style: negotiated.style,
            contexts: negotiated.contexts,
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

    /// Returns the length of a request header, in bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        match self.style {
            ReplyStyle::Extended => EXTENDED_LEN,
            ReplyStyle::Simple | ReplyStyle::Structured => COMPACT_LEN,
        }
    }

    /// Parses a request header from the first [`Self::header_len`] bytes.
    ///
    /// # Errors
    ///
    /// Returns [`ProtocolError::RequestTruncated`] if there are fewer bytes, and
    /// [`ProtocolError::RequestMagic`] if the magic number is wrong.
    #[inline]
    pub fn parse(&self, header: &[u8]) -> Result<Request, ProtocolError> {
        match self.style {
            ReplyStyle::Extended => Request::parse_extended(header),
            ReplyStyle::Simple | ReplyStyle::Structured => Request::parse_compact(header),
        }
    }

    /// Returns the encoder for the reply to a request.
    #[inline]
    pub fn reply_to(&self, request: &Request) -> ReplyTo {
        ReplyTo::new(self.style, request)
    }

    /// Returns the negotiated style of replies.
    pub fn style(&self) -> ReplyStyle {
        self.style
    }

    /// Returns the advertised transmission flags: bits of [`super::codes::transmission_flag`].
    pub fn transmission_flags(&self) -> u16 {
        self.flags
    }

    /// Returns the longest payload of a read or write that is admitted, in bytes.
    pub fn maximum_payload(&self) -> u32 {
        u32::try_from(self.maximum).unwrap_or(MAX_PAYLOAD)
    }
}

/// Returns the block sizes that are advertised to clients: those of the disk, limited to the
/// payloads that the server accepts.
pub(super) fn advertised(sizes: BlockSizes) -> BlockSizes {
    BlockSizes {
        minimum: sizes.minimum,
        preferred: sizes.preferred.min(MAX_PAYLOAD),
        maximum: sizes.maximum.min(MAX_PAYLOAD),
    }
}

/// Returns the transmission flags for a disk (spec: "Transmission flags"). A flag is set only if
/// requests may use what it stands for.
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
        (extended && !negotiated.contexts.is_empty(), BLOCK_STATUS_PAYLOAD),
    ]
    .into_iter()
    .filter(|(offered, _)| *offered)
    .fold(0, |flags, (_, flag)| flags | flag)
}
