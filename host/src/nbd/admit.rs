//! Admission of requests: the only place that decides whether a request is executed.

use super::codes::{CommandCode, command_flag, transmission_flag};
use super::contexts::Contexts;
use super::error::ProtocolError;
use super::limits::MAX_EXTENTS;
use super::request::Request;
use super::session::Session;
use super::style::ReplyStyle;
use crate::block::{Command, ErrorCode, Span};
use std::fmt;

/// The length of the beginning of the payload by which BLOCK_STATUS selects contexts: the effect
/// length. Ids of contexts follow, of [`ID_LEN`] bytes each.
const EFFECT_LEN: usize = 8;

/// The length of the id of a context.
const ID_LEN: usize = 4;

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The number of payload bytes that follow the header. They are the data of an admitted write,
    /// are to be passed to [`Session::admit_filter`], or are to be read and discarded.
    pub payload: u64,
    /// The decision.
    pub verdict: Verdict,
}

/// The decision on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Execute the command. A write has [`Admission::payload`] bytes of data.
    Execute(Command),
    /// Report the status of a span in several metadata contexts, or in one that is not
    /// `base:allocation`. With that alone, the verdict is [`Self::Execute`].
    Describe {
        /// The span to describe.
        span: Span,
        /// The maximum number of extents for each context, at least one.
        limit: usize,
        /// The contexts.
        contexts: Contexts,
    },
    /// Read the payload, which is a few bytes long, and call [`Session::admit_filter`].
    Filter,
    /// Reply with an error.
    Refuse {
        /// The error.
        error: ErrorCode,
        /// The reason. Its [`fmt::Display`] is the message of the error reply.
        reason: Refusal,
    },
    /// Send the outstanding replies and close the connection. The request itself has no reply.
    Disconnect,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The spec defines no such command.
    UnknownCommand,
    /// The command is known, but the export does not offer it.
    NotOffered,
    /// A flag is unknown, was not offered, or does not apply to this command.
    Flags,
    /// The disk is read-only.
    ReadOnly,
    /// The length is zero.
    Empty,
    /// The request extends past the end of the disk.
    BeyondEnd,
    /// The request is not aligned to the minimum block size that was advertised to the client.
    Misaligned,
    /// The request is longer than the maximum payload.
    TooLong,
    /// A flush has a nonzero offset or length.
    ReservedFields,
    /// No metadata context was selected for this export.
    NoContext,
    /// The payload of BLOCK_STATUS is malformed, repeats a context, or names one that was not
    /// selected.
    Filter,
}

impl Refusal {
    /// Returns a human-readable message.
    pub fn text(self) -> &'static str {
        match self {
            Self::UnknownCommand => "unknown command",
            Self::NotOffered => "the export does not offer this command",
            Self::Flags => "command flags that the export does not offer for this command",
            Self::ReadOnly => "the export is read-only",
            Self::Empty => "the length is zero",
            Self::BeyondEnd => "the request reaches beyond the end of the export",
            Self::Misaligned => "offset or length is not a multiple of the minimum block size",
            Self::TooLong => "the request is longer than the maximum payload",
            Self::ReservedFields => "a flush has neither offset nor length",
            Self::NoContext => "no metadata context is selected for this export",
            Self::Filter => "the payload does not list selected metadata contexts, each once",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Session {
    /// Decides whether a request is executed, by what was negotiated.
    ///
    /// # Errors
    ///
    /// Returns [`ProtocolError::PayloadTooLong`] if the payload is longer than the server is
    /// willing to read. The connection cannot continue then (spec: "Size constraints").
    #[inline]
    pub fn admit(&self, request: &Request) -> Result<Admission, ProtocolError> {
        if request.command == CommandCode::DISC {
            return Ok(Admission { payload: 0, verdict: Verdict::Disconnect });
        }
        let payload = match self.style {
            // With extended headers a write must have PAYLOAD_LEN, but QEMU's client omits the
            // flag. The data follows all the same.
            _ if request.command == CommandCode::WRITE => request.length,
            ReplyStyle::Extended if has(request.flags, command_flag::PAYLOAD_LEN) => request.length,
            _ => 0,
        };
        if payload > self.payload_cap {
            return Err(ProtocolError::PayloadTooLong {
                command: request.command,
                length: payload,
                limit: self.payload_cap,
            });
        }
        let verdict = self.judge(request).unwrap_or_else(|verdict| verdict);
        Ok(Admission { payload, verdict })
    }

    /// Decides on a request for which [`Self::admit`] returned [`Verdict::Filter`], by its payload:
    /// an effect length of 64 bits and context ids of 32 bits (spec: NBD_CMD_BLOCK_STATUS).
    pub fn admit_filter(&self, request: &Request, payload: &[u8]) -> Verdict {
        let Some((length, ids)) = payload.split_first_chunk::<EFFECT_LEN>() else {
            return inval(Refusal::Filter);
        };
        let (ids, rest) = ids.as_chunks::<ID_LEN>();
        let mut contexts = Contexts::default();
        for id in ids.iter().map(|id| u32::from_be_bytes(*id)) {
            if !self.contexts.contains(id) || contexts.contains(id) {
                return inval(Refusal::Filter);
            }
            contexts = contexts.with(id);
        }
        if contexts.is_empty() || !rest.is_empty() {
            return inval(Refusal::Filter);
        }
        let request = Request { length: u64::from_be_bytes(*length), ..*request };
        self.judge_block_status(&request, contexts).unwrap_or_else(|verdict| verdict)
    }

    /// Decides on a request. `Err` is only an early return: both variants hold a verdict.
    #[inline]
    fn judge(&self, request: &Request) -> Result<Verdict, Verdict> {
        use CommandCode as C;
        self.check_flags(request)?;
        let fua = has(request.flags, command_flag::FUA);
        let command = match request.command {
            C::READ => {
                let span = self.span(request, ErrorCode::Inval)?;
                if span.length > self.maximum {
                    return Err(self.read_too_long());
                }
                Command::Read { span }
            }
            C::WRITE => {
                self.check_writable()?;
                let span = self.span(request, ErrorCode::NoSpc)?;
                if span.length > self.maximum {
                    return Err(inval(Refusal::TooLong));
                }
                Command::Write { span, fua }
            }
            C::FLUSH => {
                self.check_offered(transmission_flag::SEND_FLUSH)?;
                if request.offset != 0 || request.length != 0 {
                    return Err(inval(Refusal::ReservedFields));
                }
                Command::Flush
            }
            C::TRIM => {
                self.check_writable()?;
                self.check_offered(transmission_flag::SEND_TRIM)?;
                Command::Trim { span: self.span(request, ErrorCode::Inval)?, fua }
            }
            C::CACHE => {
                self.check_offered(transmission_flag::SEND_CACHE)?;
                Command::Cache { span: self.span(request, ErrorCode::Inval)? }
            }
            C::WRITE_ZEROES => {
                self.check_writable()?;
                self.check_offered(transmission_flag::SEND_WRITE_ZEROES)?;
                Command::Zero {
                    span: self.span(request, ErrorCode::NoSpc)?,
                    fua,
                    keep_allocated: has(request.flags, command_flag::NO_HOLE),
                    fast: has(request.flags, command_flag::FAST_ZERO),
                }
            }
            C::BLOCK_STATUS if has(request.flags, command_flag::PAYLOAD_LEN) => {
                let longest = EFFECT_LEN + ID_LEN * self.contexts.count();
                return match request.length as usize {
                    length if length > EFFECT_LEN && length <= longest => Ok(Verdict::Filter),
                    _ => Err(inval(Refusal::Filter)),
                };
            }
            C::BLOCK_STATUS => return self.judge_block_status(request, self.contexts),
            _ => return Err(inval(Refusal::UnknownCommand)),
        };
        Ok(Verdict::Execute(command))
    }

    fn judge_block_status(
        &self,
        request: &Request,
        contexts: Contexts,
    ) -> Result<Verdict, Verdict> {
        if contexts.is_empty() {
            return Err(inval(Refusal::NoContext));
        }
        let span = self.span(request, ErrorCode::Inval)?;
        // Descriptors of up to 16 bytes make up the variable part of a chunk, which must not exceed
        // the maximum payload (spec: "Structured reply types").
        let most = MAX_EXTENTS / contexts.count();
        let limit = match has(request.flags, command_flag::REQ_ONE) {
            true => 1,
            false => most.min(self.maximum_payload() as usize / 16).max(1),
        };
        Ok(match contexts {
            Contexts::ALLOCATION => Verdict::Execute(Command::Extents { span, limit }),
            contexts => Verdict::Describe { span, limit, contexts },
        })
    }

    /// Checks that all flags apply to this command and were offered (spec: "Error values").
    #[inline]
    fn check_flags(&self, request: &Request) -> Result<(), Verdict> {
        use CommandCode as C;
        use command_flag::*;
        let extended = self.style == ReplyStyle::Extended;
        let offered = |flag, with| if has(self.flags, with) { flag } else { 0 };
        let allowed = offered(FUA, transmission_flag::SEND_FUA)
            | match request.command {
                C::READ => offered(DF, transmission_flag::SEND_DF),
                C::WRITE if extended => PAYLOAD_LEN,
                C::WRITE_ZEROES => NO_HOLE | offered(FAST_ZERO, transmission_flag::SEND_FAST_ZERO),
                C::BLOCK_STATUS => {
                    REQ_ONE | offered(PAYLOAD_LEN, transmission_flag::BLOCK_STATUS_PAYLOAD)
                }
                C::WRITE | C::FLUSH | C::TRIM | C::CACHE => 0,
                // The command itself is refused later; its flags do not matter.
                _ => u16::MAX,
            };
        if request.flags & !allowed != 0 {
            return Err(inval(Refusal::Flags));
        }
        Ok(())
    }

    #[inline]
    fn check_writable(&self) -> Result<(), Verdict> {
        if has(self.flags, transmission_flag::READ_ONLY) {
            let (error, reason) = (ErrorCode::Perm, Refusal::ReadOnly);
            return Err(Verdict::Refuse { error, reason });
        }
        Ok(())
    }

    #[inline]
    fn check_offered(&self, flag: u16) -> Result<(), Verdict> {
        if !has(self.flags, flag) {
            return Err(inval(Refusal::NotOffered));
        }
        Ok(())
    }

    /// Returns the span of a request if it is valid. `beyond` is the error for a span that extends
    /// past the end of the disk.
    #[inline]
    fn span(&self, request: &Request, beyond: ErrorCode) -> Result<Span, Verdict> {
        let (offset, length) = (request.offset, request.length);
        if length == 0 {
            return Err(inval(Refusal::Empty));
        }
        if length > self.size || offset > self.size - length {
            return Err(Verdict::Refuse { error: beyond, reason: Refusal::BeyondEnd });
        }
        if (offset | length) & self.misaligned != 0 {
            return Err(inval(Refusal::Misaligned));
        }
        Ok(Span { offset, length })
    }

    /// Refuses a read above the maximum payload. EOVERFLOW is the error that clients with
    /// structured replies expect, as they could have been sent fragments (spec: NBD_CMD_READ,
    /// "Structured replies").
    fn read_too_long(&self) -> Verdict {
        let error = match self.style {
            ReplyStyle::Simple => ErrorCode::Inval,
            ReplyStyle::Structured | ReplyStyle::Extended => ErrorCode::Overflow,
        };
        Verdict::Refuse { error, reason: Refusal::TooLong }
    }
}

#[inline]
fn has(flags: u16, flag: u16) -> bool {
    flags & flag != 0
}

#[inline]
fn inval(reason: Refusal) -> Verdict {
    Verdict::Refuse { error: ErrorCode::Inval, reason }
}
