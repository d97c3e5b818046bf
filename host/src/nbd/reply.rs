//! Encodes the replies of the transmission phase.

use super::codes::{ALLOCATION_ID, ChunkType, command_flag, errno, magic, reply_flag, state_flag};
use super::limits::MAX_TEXT;
use super::read::{Piece, Run, Runs};
use super::request::Request;
use super::style::ReplyStyle;
use super::text::cut;
use crate::block::{ErrorCode, Extent, Extents, Span, Status};

/// The longest extent of a 32-bit descriptor that leaves whatever follows aligned to any minimum
/// block size.
const MAX_SHORT_EXTENT: u64 = 0xffff_0000;

/// Encodes the reply to one request, in the negotiated style.
///
/// Answer each request with exactly one of [`Self::success`], [`Self::error`], [`Self::error_at`],
/// [`Self::block_status`], or the runs of a read. All of them append to `out`, and nothing else
/// allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    cookie: u64,
    offset: u64,
    style: ReplyStyle,
    df: bool,
}

impl ReplyTo {
    #[inline]
    pub(super) fn new(style: ReplyStyle, request: &Request) -> Self {
        Self {
            cookie: request.cookie,
            offset: request.offset,
            style,
            df: request.flags & command_flag::DF != 0,
        }
    }

    /// Returns the cookie of the request.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Returns the offset of the request.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the style of the reply.
    pub fn style(&self) -> ReplyStyle {
        self.style
    }

    /// Returns whether a read must be answered with at most one content chunk (DF).
    pub fn do_not_fragment(&self) -> bool {
        self.df
    }

    /// Returns whether the reply to a read is always a single run, whatever the disk returns.
    pub fn is_one_run(&self) -> bool {
        self.style == ReplyStyle::Simple || self.df
    }

    /// Splits the reply to a read of `span`, which consists of `pieces`, into runs: one for each
    /// long hole and for the data between them if the client can take that, otherwise a single one.
    ///
    /// The pieces should add up to the length of the span. If they are shorter, the rest counts as
    /// a hole; if they are longer, the excess is ignored. The reply is thus valid whatever the disk
    /// returned.
    pub fn runs<I>(&self, span: Span, pieces: I) -> Runs<I::IntoIter>
    where
        I: IntoIterator<Item = Piece>,
        I::IntoIter: Clone,
    {
        let pieces = pieces.into_iter();
        match self.style {
            ReplyStyle::Simple => Runs::one_of_data(span, pieces),
            _ if self.df => Runs::one(span, pieces),
            _ => Runs::new(span, pieces),
        }
    }

    /// Appends the complete reply to a request that succeeded and returns no content.
    #[inline]
    pub fn success(&self, out: &mut Vec<u8>) {
        match self.style {
            ReplyStyle::Simple | ReplyStyle::Structured => self.simple(0, out),
            ReplyStyle::Extended => self.chunk(reply_flag::DONE, ChunkType::NONE, 0, out),
        }
    }

    /// Appends the complete reply to a request that failed, or the end of the reply if content was
    /// sent before. As much of `text` is sent as the spec recommends, and none of it in simple
    /// replies.
    pub fn error(&self, error: ErrorCode, text: &str, out: &mut Vec<u8>) {
        if self.style == ReplyStyle::Simple {
            return self.simple(errno(error), out);
        }
        let text = cut(text, MAX_TEXT);
        self.chunk(reply_flag::DONE, ChunkType::ERROR, 6 + text.len() as u64, out);
        put_error(error, text, out);
    }

    /// Like [`Self::error`], but includes the offset at which the error occurred. `place` must lie
    /// within the request and after all content that was sent.
    pub fn error_at(&self, error: ErrorCode, text: &str, place: u64, out: &mut Vec<u8>) {
        if self.style == ReplyStyle::Simple {
            return self.simple(errno(error), out);
        }
        let text = cut(text, MAX_TEXT);
        self.chunk(reply_flag::DONE, ChunkType::ERROR_OFFSET, 14 + text.len() as u64, out);
        put_error(error, text, out);
        out.extend_from_slice(&place.to_be_bytes());
    }

    /// Appends the header of a run. The data follows it; a hole has none.
    ///
    /// The last run is marked as such and ends the reply: all of its bytes must be available, for
    /// no error can be reported any more.
    #[inline]
    pub fn run(&self, run: &Run, out: &mut Vec<u8>) {
        let done = if run.last { reply_flag::DONE } else { 0 };
        match self.style {
            ReplyStyle::Simple => self.simple(0, out),
            _ if run.hole => {
                self.chunk(done, ChunkType::OFFSET_HOLE, 12, out);
                out.extend_from_slice(&run.span.offset.to_be_bytes());
                // A read is no longer than the maximum payload, which fits into 32 bits.
                out.extend_from_slice(&(run.span.length as u32).to_be_bytes());
            }
            _ => {
                self.chunk(done, ChunkType::OFFSET_DATA, 8 + run.span.length, out);
                out.extend_from_slice(&run.span.offset.to_be_bytes());
            }
        }
    }

    /// Appends the complete reply to a BLOCK_STATUS for `span` in `base:allocation`: the known
    /// extents from its beginning. If there are none, all of the span is reported as data, which is
    /// always safe.
    pub fn block_status(&self, span: Span, extents: &Extents, out: &mut Vec<u8>) {
        self.context_status(ALLOCATION_ID, true, span, extents, out);
    }

    /// Appends the part of the reply to a BLOCK_STATUS for `span` that is about the context with
    /// this id. The reply has one for each context, and ends with the `last`. If no extents are
    /// known, the status is what is always safe.
    pub fn context_status<S: State>(
        &self,
        id: u32,
        last: bool,
        span: Span,
        extents: &Extents<S>,
        out: &mut Vec<u8>,
    ) {
        let unknown = [Extent { length: span.length, status: S::UNKNOWN }];
        let extents = match extents.as_slice() {
            [] => &unknown,
            extents => extents,
        };
        let done = if last { reply_flag::DONE } else { 0 };
        match self.style {
            ReplyStyle::Extended => self.long_extents(id, done, extents, out),
            ReplyStyle::Simple | ReplyStyle::Structured => {
                self.short_extents(id, done, extents, out);
            }
        }
    }

    fn long_extents<S: State>(
        &self,
        id: u32,
        flags: u16,
        extents: &[Extent<S>],
        out: &mut Vec<u8>,
    ) {
        let length = 8 + 16 * extents.len() as u64;
        out.reserve(32 + length as usize);
        self.chunk(flags, ChunkType::BLOCK_STATUS_EXT, length, out);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&(extents.len() as u32).to_be_bytes());
        for extent in extents {
            out.extend_from_slice(&extent.length.to_be_bytes());
            out.extend_from_slice(&u64::from(extent.status.bits()).to_be_bytes());
        }
    }

    /// An extent whose length does not fit into 32 bits is shortened, and is the last one.
    fn short_extents<S: State>(
        &self,
        id: u32,
        flags: u16,
        extents: &[Extent<S>],
        out: &mut Vec<u8>,
    ) {
        let fitting =
            extents.iter().take_while(|extent| extent.length <= u64::from(u32::MAX)).count();
        let extents = &extents[..extents.len().min(fitting + 1)];
        let length = 4 + 8 * extents.len() as u64;
        out.reserve(20 + length as usize);
        self.chunk(flags, ChunkType::BLOCK_STATUS, length, out);
        out.extend_from_slice(&id.to_be_bytes());
        for extent in extents {
            let length = u32::try_from(extent.length).unwrap_or(MAX_SHORT_EXTENT as u32);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&extent.status.bits().to_be_bytes());
        }
    }

    #[inline]
    fn simple(&self, error: u32, out: &mut Vec<u8>) {
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&magic::SIMPLE_REPLY.to_be_bytes());
        header[4..8].copy_from_slice(&error.to_be_bytes());
        header[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&header);
    }

    /// Appends the header of a chunk. The length is bounded by the maximum payload and thus fits
    /// into 32 bits.
    #[inline]
    fn chunk(&self, flags: u16, kind: ChunkType, length: u64, out: &mut Vec<u8>) {
        let mut header = [0; 32];
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.0.to_be_bytes());
        header[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        if self.style == ReplyStyle::Extended {
            header[0..4].copy_from_slice(&magic::EXTENDED_REPLY.to_be_bytes());
            header[16..24].copy_from_slice(&self.offset.to_be_bytes());
            header[24..32].copy_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&header);
        } else {
            header[0..4].copy_from_slice(&magic::STRUCTURED_REPLY.to_be_bytes());
            header[16..20].copy_from_slice(&(length as u32).to_be_bytes());
            out.extend_from_slice(&header[..20]);
        }
    }
}

fn put_error(error: ErrorCode, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&errno(error).to_be_bytes());
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The status of an extent in a metadata context.
pub trait State: Copy + PartialEq {
    /// What is reported where nothing is known.
    const UNKNOWN: Self;

    /// Returns the status as it is on the wire.
    fn bits(self) -> u32;
}

/// That of `base:allocation`.
impl State for Status {
    const UNKNOWN: Self = Self::DATA;

    fn bits(self) -> u32 {
        let hole = if self.hole { state_flag::HOLE } else { 0 };
        let zero = if self.zero { state_flag::ZERO } else { 0 };
        hole | zero
    }
}

/// That of QEMU's contexts, in which 1 is allocated in the uppermost disk, or dirty.
impl State for u32 {
    const UNKNOWN: Self = 1;

    fn bits(self) -> u32 {
        self
    }
}
