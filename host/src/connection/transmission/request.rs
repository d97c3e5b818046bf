//! What is kept of a request until it is answered.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::input::INPUT_MAX;
use crate::block::{Command, Error, ErrorCode, Span};
use crate::device::{Buffer, Entry, Outcome};
use crate::nbd::{Contexts, ReplyTo};

/// The text of EIO. The cause is in the server's log; it is not for clients.
const FAILED: &str = "the disk failed; see the server's log";

/// What it takes to answer a request.
#[derive(Clone, Copy)]
pub(super) struct Executed {
    pub(super) reply: ReplyTo,
    pub(super) entry: Entry,
    pub(super) span: Span,
    /// The memory that it takes if it is not executed at once, in bytes.
    pub(super) held: u64,
}

/// An admitted write whose payload has not arrived completely.
pub(super) struct Write {
    pub(super) executed: Executed,
    /// The part of the device that is still to be written.
    pub(super) rest: Span,
    pub(super) fua: bool,
    /// The end of the part for which the device was asked to make room.
    pub(super) asked: u64,
    /// The payload of the rest, if it is collected outside of the input buffer.
    pub(super) collected: Option<Vec<u8>>,
    /// The memory taken for the collected payload.
    pub(super) buffer: Option<Buffer>,
    /// The result of the part before the rest, if that was not ready at once.
    pub(super) before: Option<oneshot::Receiver<Outcome>>,
}

impl Write {
    /// Starts to collect the payload, given memory for it.
    pub(super) fn collecting(self, buffer: Buffer) -> Self {
        // No more is allocated before the first bytes have arrived; `limit` in `poll_read` bounds
        // what follows.
        let length = (self.rest.length as usize).min(INPUT_MAX);
        Self { collected: Some(Vec::with_capacity(length)), buffer: Some(buffer), ..self }
    }

    /// The number of bytes that are missing, including those in the input.
    pub(super) fn missing(&self) -> usize {
        let collected = self.collected.as_ref().map_or(0, Vec::len);
        self.rest.length as usize - collected
    }
}

/// What is held back until there is memory for it.
pub(super) enum Waiting {
    /// A request whose payload has arrived.
    Execute { executed: Executed, command: Command, data: Bytes },
    /// A request for the status of its span in metadata contexts.
    Describe { executed: Executed, contexts: Contexts, limit: usize },
    /// A write whose payload is to be collected.
    Collect(Write),
}

/// The wait for memory.
pub(super) type Awaited = Pin<Box<dyn Future<Output = Buffer> + Send>>;

/// A request that will not be executed.
pub(super) struct Refused {
    pub(super) reply: ReplyTo,
    /// The entry of a request that was admitted.
    pub(super) entry: Option<Entry>,
    pub(super) error: ErrorCode,
    pub(super) text: Cow<'static, str>,
}

/// Returns what is sent with an error: the device's own message, if it has one.
pub(super) fn error_text(error: &Error) -> &str {
    error.message.as_deref().unwrap_or_else(|| code_text(error.code))
}

pub(super) fn code_text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Perm => "the disk does not permit this request",
        ErrorCode::Io => FAILED,
        ErrorCode::NoMem => "out of memory",
        ErrorCode::Inval => "the disk does not accept this request",
        ErrorCode::NoSpc => "no space left on the disk",
        ErrorCode::Overflow => "the request is too large for the disk",
        ErrorCode::NotSup => "the disk cannot zero this fast",
        ErrorCode::Shutdown => "the server is shutting down",
    }
}
