//! What ends a connection.

use super::codes::{CommandCode, OptionCode};
use std::error::Error;
use std::fmt;

/// A violation, or a request that can only be refused by disconnecting. No reply is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The client set flags that the greeting did not offer.
    ClientFlags {
        /// All that it set.
        flags: u32,
        /// What it might have set.
        offered: u16,
    },
    /// An option does not begin with IHAVEOPT.
    OptionMagic {
        /// What it begins with.
        magic: u64,
    },
    /// The options of this client are longer than [`super::limits::MAX_HANDSHAKE_BYTES`].
    TooManyBytes {
        /// The option that was too much.
        option: OptionCode,
        /// The length of its data.
        length: u32,
    },
    /// The client sent more than [`super::limits::MAX_OPTIONS`] options.
    TooManyOptions,
    /// An option that needs fixed newstyle negotiation, which this server does not offer.
    NotFixedNewstyle {
        /// The option.
        option: OptionCode,
    },
    /// More bytes came along with STARTTLS: what is not encrypted must not be obeyed.
    PlaintextAfterStartTls {
        /// How many.
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
    /// EXPORT_NAME of an export that is not there.
    ExportUnknown,
    /// EXPORT_NAME of an export that is there, but could not be opened.
    ExportFailed,
    /// EXPORT_NAME of an export that policy forbids.
    ExportForbidden,
    /// EXPORT_NAME of an export that is only served over TLS.
    ExportNeedsTls,
    /// EXPORT_NAME while the server is about to stop.
    ExportShutdown,
    /// A request does not begin with the magic number that was agreed on.
    RequestMagic {
        /// What it begins with.
        magic: u32,
    },
    /// A request header was cut short.
    RequestTruncated {
        /// How long it is.
        length: usize,
    },
    /// A request announces a payload that nobody wants to read.
    PayloadTooLong {
        /// The command.
        command: CommandCode,
        /// The length of the payload.
        length: u64,
        /// The longest that would have been read.
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
