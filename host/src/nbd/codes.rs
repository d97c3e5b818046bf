//! The numeric constants of the specification, under the names it gives them.

use crate::block::ErrorCode;
use std::fmt;

/// Defines one set of codes: a type, its named values, and how they are displayed.
macro_rules! codes {
    (
        $(#[$doc:meta])*
        $type:ident($integer:ty) { $($name:ident = $value:literal $words:literal)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $type(pub $integer);

        impl $type {
            $(#[doc = $words] pub const $name: Self = Self($value);)*
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($name)),)*
                    Self(other) => write!(f, "{other:#x}"),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

codes! {
    /// The options that a client sends while haggling (spec: "Option types").
    OptionCode(u32) {
        EXPORT_NAME = 0x1 "Choose the export, end haggling and proceed to transmission."
        ABORT = 0x2 "Abort the negotiation and terminate the session."
        LIST = 0x3 "List the exports."
        STARTTLS = 0x5 "Initiate TLS."
        INFO = 0x6 "Get details about an export without entering transmission."
        GO = 0x7 "Get details about an export and enter transmission."
        STRUCTURED_REPLY = 0x8 "Use structured replies during transmission."
        LIST_META_CONTEXT = 0x9 "List the metadata contexts of an export."
        SET_META_CONTEXT = 0xa "Change the set of active metadata contexts."
        EXTENDED_HEADERS = 0xb "Use extended headers during transmission."
    }
}

codes! {
    /// The replies of a server to an option (spec: "Option reply types").
    OptionReplyType(u32) {
        ACK = 0x1 "The option is accepted and no further information follows."
        SERVER = 0x2 "A description of an export."
        INFO = 0x3 "A detailed description about an aspect of an export."
        META_CONTEXT = 0x4 "A description of a metadata context."
        ERR_UNSUP = 0x8000_0001 "The option is unknown by this server."
        ERR_POLICY = 0x8000_0002 "Server-side policy forbids the option."
        ERR_INVALID = 0x8000_0003 "The option is syntactically or semantically invalid."
        ERR_PLATFORM = 0x8000_0004 "The option is not supported on this platform."
        ERR_TLS_REQD = 0x8000_0005 "The server is unwilling to continue unless TLS is initiated."
        ERR_UNKNOWN = 0x8000_0006 "The requested export is not available."
        ERR_SHUTDOWN = 0x8000_0007 "The server is in the process of being shut down."
        ERR_BLOCK_SIZE_REQD = 0x8000_0008 "The client must acknowledge block sizes first."
        ERR_TOO_BIG = 0x8000_0009 "The request or the reply is too large to process."
        ERR_EXT_HEADER_REQD = 0x8000_000a "The request needs, or is overruled by, extended headers."
    }
}

codes! {
    /// The kinds of information about an export (spec: "Option reply types", NBD_REP_INFO).
    InfoType(u16) {
        EXPORT = 0x0 "Size and transmission flags."
        NAME = 0x1 "The canonical name of the export."
        DESCRIPTION = 0x2 "A description for people."
        BLOCK_SIZE = 0x3 "The size constraints."
    }
}

codes! {
    /// The commands of a request (spec: "Request types").
    CommandCode(u16) {
        READ = 0x0 "Read data."
        WRITE = 0x1 "Write the payload."
        DISC = 0x2 "Disconnect; there is no reply."
        FLUSH = 0x3 "Bring what was answered to permanent storage."
        TRIM = 0x4 "The data is no longer needed."
        CACHE = 0x5 "The data will be accessed soon."
        WRITE_ZEROES = 0x6 "Write zeroes without a payload."
        BLOCK_STATUS = 0x7 "Query the status of a range of blocks."
    }
}

codes! {
    /// The content of a reply chunk (spec: "Structured reply types").
    ChunkType(u16) {
        NONE = 0x0 "Nothing: the end of a reply."
        OFFSET_DATA = 0x1 "Data of the export at an offset."
        OFFSET_HOLE = 0x2 "Zeroes of the export at an offset."
        BLOCK_STATUS = 0x5 "Block descriptors of 32 bits for one metadata context."
        BLOCK_STATUS_EXT = 0x6 "Block descriptors of 64 bits for one metadata context."
        ERROR = 0x8001 "An error and a text."
        ERROR_OFFSET = 0x8002 "An error, a text and the offset where it occurred."
    }
}

/// The magic numbers that messages begin with.
pub mod magic {
    /// NBDMAGIC, the first eight bytes of the greeting.
    pub const INIT: u64 = 0x4e42_444d_4147_4943;
    /// IHAVEOPT, which follows in the greeting and begins every option.
    pub const OPTION: u64 = 0x4948_4156_454f_5054;
    /// A reply to an option.
    pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    /// A compact request.
    pub const REQUEST: u32 = 0x2560_9513;
    /// An extended request.
    pub const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
    /// A simple reply.
    pub const SIMPLE_REPLY: u32 = 0x6744_6698;
    /// A chunk of a structured reply.
    pub const STRUCTURED_REPLY: u32 = 0x668e_33ef;
    /// A chunk of an extended reply.
    pub const EXTENDED_REPLY: u32 = 0x6e8a_278c;
}

/// The flags of the greeting and, with the same values, of the client's response (spec: "Handshake
/// flags", "Client flags").
pub mod handshake_flag {
    /// Fixed newstyle negotiation.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The 124 zero bytes after the reply to EXPORT_NAME are omitted.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// What the server allows the client to use (spec: "Transmission flags").
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// The export is read-only.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is supported.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The command flag FUA is supported.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The export behaves like a rotational medium.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM is supported.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES and the command flag NO_HOLE are supported.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The command flag DF is supported.
    pub const SEND_DF: u16 = 1 << 7;
    /// Flushes and FUA cover all connections to the export.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is supported.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The command flag FAST_ZERO is supported.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// BLOCK_STATUS takes a payload.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// How a command is to be executed (spec: "Command flags").
pub mod command_flag {
    /// Reply only once the data is on permanent storage.
    pub const FUA: u16 = 1 << 0;
    /// Do not create a hole.
    pub const NO_HOLE: u16 = 1 << 1;
    /// Do not fragment the reply.
    pub const DF: u16 = 1 << 2;
    /// Describe only one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than zero as slowly as a write.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of the payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Flags of a chunk (spec: "Structured and extended header reply flags").
pub mod reply_flag {
    /// The last chunk of the reply.
    pub const DONE: u16 = 1 << 0;
}

/// The flags of a block descriptor (spec: "`base:allocation` metadata context").
pub mod state_flag {
    /// Not allocated.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// The name of the metadata context that the spec defines.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The query that lists all contexts in the namespace of [`BASE_ALLOCATION`].
pub const BASE_WILDCARD: &str = "base:";

/// The context id of [`BASE_ALLOCATION`].
pub const ALLOCATION_ID: u32 = 1;

/// Returns the number of an error on the wire (spec: "Error values").
pub const fn errno(error: ErrorCode) -> u32 {
    match error {
        ErrorCode::Perm => 1,
        ErrorCode::Io => 5,
        ErrorCode::NoMem => 12,
        ErrorCode::Inval => 22,
        ErrorCode::NoSpc => 28,
        ErrorCode::Overflow => 75,
        ErrorCode::NotSup => 95,
        ErrorCode::Shutdown => 108,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_shown_by_name_and_unknown_ones_by_number() {
        assert_eq!(OptionCode::GO.to_string(), "GO");
        assert_eq!(OptionCode(0x765_4321).to_string(), "0x7654321");
        assert_eq!(format!("{:?}", CommandCode::WRITE_ZEROES), "WRITE_ZEROES");
    }

    #[test]
    fn errors_have_the_numbers_of_the_spec() {
        use ErrorCode::*;
        let all = [Perm, Io, NoMem, Inval, NoSpc, Overflow, NotSup, Shutdown];
        assert_eq!(all.map(errno), [1, 5, 12, 22, 28, 75, 95, 108]);
    }
}
