//! Errors that end a connection.

use super::codes::{CommandCode, OptionCode};
use std::error::Error;
use std::fmt;

/// A protocol violation, or a request that can only be refused by disconnecting. No reply is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The client set flags that the greeting did not offer.
    ClientFlags {
        /// All flags that the client set.
        flags: u32,
        /// The flags that were offered.
        offered: u16,
    },
    /// An option does not begin with IHAVEOPT.
    OptionMagic {
        /// The number it begins with.
        magic: u64,
    },
    /// The options of this client add up to more than [`super::limits::MAX_HANDSHAKE_BYTES`].
    TooManyBytes {
        /// The option that exceeded the limit.
        option: OptionCode,
        /// The length of its data.
        length: u32,
    },
    /// The client sent more than [`super::limits::MAX_OPTIONS`] options.
    TooManyOptions,
    /// The client sent an option that needs fixed newstyle negotiation, which this server does not
    /// offer.
    NotFixedNewstyle {
        /// The option.
        option: OptionCode,
    },
    /// Unencrypted bytes were received after STARTTLS; they must not be acted on.
    PlaintextAfterStartTls {
        /// The number of bytes.
        bytes: usize,
    },
    /// EXPORT_NAME with a name of this many bytes, above [`super::limits::MAX_STRING`].
    ExportNameTooLong {
        /// The length of the name.
        length: u32,
    },
    /// EXPORT_NAME with a name that is not UTF-8 or contains NUL.
    ExportNameNotText,
    /// EXPORT_NAME after extended headers were negotiated.
    ExportNameWithExtendedHeaders,
    /// EXPORT_NAME for an export that does not exist.
    ExportUnknown,
    /// EXPORT_NAME for an export that exists, but could not be opened.
    ExportFailed,
    /// EXPORT_NAME for an export that policy forbids.
    ExportForbidden,
    /// EXPORT_NAME for an export that is only served over TLS.
    ExportNeedsTls,
    /// EXPORT_NAME while the server is shutting down.
    ExportShutdown,
    /// A request does not begin with the magic number of the negotiated header.
    RequestMagic {
        /// The number it begins with.
        magic: u32,
    },
    /// A request header is incomplete.
    RequestTruncated {
        /// The number of bytes there are.
        length: usize,
    },
    /// A request announces a payload that is too long to be read.
    PayloadTooLong {
        /// The command.
        command: CommandCode,
        /// The length of the payload.
        length: u64,
        /// The length of the longest payload that would have been read.
        limit: u64,
    },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientFlags { flags, offered } => {
                write!(f, "client flags {flags:#x}, where only {offered:#x} were offered")
            }
            Self::OptionMagic { magic } => write!(f, "option with wrong magic {magic:#018x}"),
            Self::TooManyBytes { option, length } => {
                write!(f, "option {option} announces {length} bytes, too many for a handshake")
            }
            Self::TooManyOptions => f.write_str("too many options"),
            Self::NotFixedNewstyle { option } => {
                write!(f, "option {option} without fixed newstyle negotiation")
            }
            Self::PlaintextAfterStartTls { bytes } => {
                write!(f, "{bytes} bytes of plain text after STARTTLS")
            }
            Self::ExportNameTooLong { length } => {
                write!(f, "EXPORT_NAME with a name of {length} bytes")
            }
            Self::ExportNameNotText => f.write_str("EXPORT_NAME with a name that is not text"),
            Self::ExportNameWithExtendedHeaders => {
                f.write_str("EXPORT_NAME after extended headers were negotiated")
            }
            Self::ExportUnknown => f.write_str("EXPORT_NAME of an unknown export"),
            Self::ExportFailed => f.write_str("EXPORT_NAME of an export that could not be opened"),
            Self::ExportForbidden => f.write_str("EXPORT_NAME of a forbidden export"),
            Self::ExportNeedsTls => f.write_str("EXPORT_NAME without TLS, which is required"),
            Self::ExportShutdown => f.write_str("EXPORT_NAME while the server is shutting down"),
            Self::RequestMagic { magic } => write!(f, "request with wrong magic {magic:#010x}"),
            Self::RequestTruncated { length } => {
                write!(f, "request header of only {length} bytes")
            }
            Self::PayloadTooLong { command, length, limit } => {
                write!(f, "{command} with a payload of {length} bytes, the limit is {limit}")
            }
        }
    }
}

impl Error for ProtocolError {}
