//! What a server may do wrong.

use std::fmt;

use crate::block::MAX_SIZE;
use crate::nbd::codes::{ChunkType, OptionCode, OptionReplyType};

/// A violation of the protocol by a server, after which the connection is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The greeting is not that of a newstyle NBD server.
    Greeting,
    /// The server does not offer fixed newstyle negotiation.
    NotFixed,
    /// A reply to an option begins with another magic number.
    OptionReplyMagic(u64),
    /// A reply is to another option.
    OtherOption(OptionCode),
    /// A reply of this type is not one to the option.
    OptionReply(OptionReplyType),
    /// A reply to an option is too long, or too short for its type.
    OptionReplyLength(u32),
    /// An option has too many replies.
    OptionReplies,
    /// The server did not tell the size of the disk.
    NoSize,
    /// The disk is larger than any disk may be.
    Size(u64),
    /// A reply begins with another magic number.
    ReplyMagic(u32),
    /// A reply is to no request.
    Cookie(u64),
    /// A chunk of this type is not a part of the reply.
    Chunk(ChunkType),
    /// A chunk has a length that its type cannot have.
    ChunkLength(ChunkType, u32),
    /// A chunk is not within the span of the read.
    Outside,
    /// The chunks of a read cover more or less than its span.
    Cover,
    /// A reply to a request for extents has none, or an empty one.
    NoExtents,
    /// A reply to a read is a simple one, although structured ones were agreed on.
    SimpleRead,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server violated the protocol: ")?;
        match self {
            Self::Greeting => f.write_str("its greeting is not that of an NBD server"),
            Self::NotFixed => f.write_str("it does not offer fixed newstyle negotiation"),
            Self::OptionReplyMagic(magic) => {
                write!(f, "a reply to an option begins with {magic:#x}")
            }
            Self::OtherOption(option) => write!(f, "a reply is to the option {option}"),
            Self::OptionReply(reply) => write!(f, "an option has the reply {reply}"),
            Self::OptionReplyLength(length) => {
                write!(f, "a reply to an option has {length} bytes")
            }
            Self::OptionReplies => f.write_str("an option has too many replies"),
            Self::NoSize => f.write_str("it does not tell the size of the disk"),
            Self::Size(size) => {
                write!(f, "the disk has {size} bytes; at most {MAX_SIZE} are possible")
            }
            Self::ReplyMagic(magic) => write!(f, "a reply begins with {magic:#x}"),
            Self::Cookie(cookie) => {
                write!(f, "a reply is to the request {cookie}, which was not sent")
            }
            Self::Chunk(kind) => write!(f, "a reply has a chunk {kind} that does not belong there"),
            Self::ChunkLength(kind, length) => {
                write!(f, "a chunk {kind} has {length} bytes")
            }
            Self::Outside => f.write_str("a chunk is not within the span that was read"),
            Self::Cover => {
                f.write_str("a reply to a read is not as long as the span that was read")
            }
            Self::NoExtents => f.write_str("a reply has no extents, or an empty one"),
            Self::SimpleRead => f.write_str("a reply to a read is not structured"),
        }
    }
}

impl std::error::Error for Violation {}
