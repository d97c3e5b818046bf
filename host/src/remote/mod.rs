//! The disk of another NBD server as a [`Device`]: an NBD client.
//!
//! Nothing that the server sends is trusted: each length is checked before memory is allocated for it, and
//! a server that violates the protocol loses the connection. Commands that are under way fail then, and so
//! do all later ones, with the reason as their message.
//!
//! - `negotiation`: the handshake.
//! - `link`: requests under way.
//! - `receive`: replies.
//! - `violation`: what servers may do wrong.

mod link;
mod negotiation;
mod receive;
#[cfg(test)]
mod tests;
mod violation;

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};

use crate::block::{Command, ErrorCode, Geometry, Span};
use crate::device::{Answer, Buffers, Content, Device, Execution, Order, Outcome, Part, execution};
use crate::nbd::codes::OptionReplyType;
use link::Link;
pub use violation::Violation;

/// The longest payload of a read or write, in bytes: what servers accept from clients that do not ask for
/// their block sizes (spec: "Size constraints").
const MAX_PAYLOAD: u32 = 32 << 20;

/// The longest span that one request trims or zeroes, in bytes.
const MAX_ZERO: u64 = 1 << 30;

/// The longest span of a request for extents, in bytes: a length has 32 bits.
const MAX_EXTENTS_SPAN: u64 = (1 << 32) - (64 << 10);

/// The memory for payloads under way, in bytes.
const BUFFERS: u64 = 2 * MAX_PAYLOAD as u64;

/// The size of the buffer for what a server sends, in bytes.
const RECEIVED: usize = 64 << 10;

/// A disk of an NBD server.
///
/// Commands may have any alignment: a server whose block sizes a client does not ask for takes care of that.
pub struct Remote {
    geometry: Geometry,
    buffers: Buffers,
    link: Link,
}

/// Why a disk could not be opened.
#[derive(Debug)]
pub enum ConnectError {
    /// The connection failed.
    Io(io::Error),
    /// The server violated the protocol.
    Violation(Violation),
    /// The server refused an option.
    Refused {
        /// The kind of error.
        reply: OptionReplyType,
        /// The reason, as the server tells it; may be empty.
        message: String,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if is_end(error) => f.write_str("the server closed the connection"),
            Self::Io(error) => error.fmt(f),
            Self::Violation(violation) => violation.fmt(f),
            Self::Refused { reply, message } if message.is_empty() => {
                write!(f, "the server refused the disk: {reply}")
            }
            Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Violation> for ConnectError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Returns true for the errors of a connection that the other side has closed.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
    )
}

impl Remote {
    /// Opens the disk of this name, by the two directions of a connection on which the server has not been
    /// answered yet. Must be called inside of a tokio runtime. There is no time limit: servers may take
    /// long to open a disk.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such disk, or the server cannot be understood.
    pub async fn connect<R, W>(reader: R, writer: W, name: &str) -> Result<Arc<Self>, ConnectError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (mut reader, mut writer) = (BufReader::with_capacity(RECEIVED, reader), writer);
        let agreed = negotiation::negotiate(&mut reader, &mut writer, name).await?;
        let link = Link::start(reader, writer, agreed.style);
        Ok(Arc::new(Self { geometry: agreed.geometry, buffers: Buffers::own(BUFFERS), link }))
    }

    /// Ends the connection, once what was sent before is on its way.
    pub async fn disconnect(&self) {
        self.link.disconnect().await;
    }

    async fn run(&self, command: Command, payload: Bytes) -> Outcome {
        match command {
            Command::Zero { span, .. } | Command::Trim { span, .. } if span.length > MAX_ZERO => {
                let mut left = span;
                while left.length > 0 {
                    let piece = Span { length: left.length.min(MAX_ZERO), ..left };
                    self.link.request(with_span(command, piece), Bytes::new()).await?;
                    left = left.after(piece.length);
                }
                Ok(Answer::Done)
            }
            Command::Read { span } | Command::Write { span, .. }
                if span.length > MAX_PAYLOAD.into() =>
            {
                Err(ErrorCode::Overflow.into())
            }
            Command::Extents { span, limit } if !self.link.has_extents() => {
                let mut extents = crate::block::Extents::new(span.length, limit);
                extents.push(span.length, crate::block::Status::DATA);
                Ok(Answer::Extents(extents))
            }
            Command::Extents { span, .. } => {
                let span = Span { length: span.length.min(MAX_EXTENTS_SPAN), ..span };
                self.link.request(with_span(command, span), Bytes::new()).await
            }
            command => self.link.request(command, payload).await,
        }
    }
}

/// Returns the same command for another span.
fn with_span(command: Command, other: Span) -> Command {
    let mut command = command;
    if let Command::Zero { span, .. } | Command::Trim { span, .. } | Command::Extents { span, .. } =
        &mut command
    {
        *span = other;
    }
    command
}

impl Device for Remote {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        let Order { command, payload, .. } = order;
        execution(async move { self.run(command, payload).await }, place)
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        execution(
            async move {
                match self.needs_last_flush() {
                    true => self.run(Command::Flush, Bytes::new()).await,
                    false => Ok(Answer::Done),
                }
            },
            None,
        )
    }
}

/// Returns the content of a read of this length.
fn content(bytes: Vec<u8>, length: u64) -> Answer {
    let part = match bytes.is_empty() {
        // No read is longer than 32 MiB.
        true => Part::Hole(u32::try_from(length).unwrap_or(u32::MAX)),
        false => Part::Data(bytes),
    };
    Answer::Read(Content::Copied(vec![part]))
}
