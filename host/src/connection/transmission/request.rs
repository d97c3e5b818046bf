//! What is kept of a request until it is answered.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::input::INPUT_MAX;
use crate::block::{Command, ErrorCode, Span};
use crate::device::{Buffer, Outcome};
use crate::nbd::ReplyTo;

/// The text of EIO: the cause is in the server's log, and none of the client's business.
const FAILED: &str = "the disk could not do it; the server's log says why";

/// What it takes to answer a request.
#[derive(Clone, Copy)]
pub(super) struct Executed {
    pub(super) reply: ReplyTo,
    pub(super) span: Span,
    pub(super) read: bool,
    /// What it holds in memory when it is not executed at once, in bytes.
    pub(super) held: u64,
}

/// An admitted write of which not all data is here.
pub(super) struct Write {
    pub(super) executed: Executed,
    /// What is still to be executed, in bytes of the disk.
    pub(super) rest: Span,
    pub(super) fua: bool,
    /// Where the data of the rest is collected, when it is not executed from the input.
    pub(super) collected: Option<Vec<u8>>,
    /// The memory that collected data may take.
    pub(super) buffer: Option<Buffer>,
    /// What the part before the rest comes to, if that was not ready at once.
    pub(super) before: Option<oneshot::Receiver<Outcome>>,
}

impl Write {
    /// Begins to collect, with memory for it.
    pub(super) fn collecting(self, buffer: Buffer) -> Self {
        // Nothing more is allocated for a length before its first bytes are here; `limit` in
        // `poll_read` bounds the rest.
        let length = (self.rest.length as usize).min(INPUT_MAX);
        Self { collected: Some(Vec::with_capacity(length)), buffer: Some(buffer), ..self }
    }

    /// How many bytes are still to come, those in the input included.
    pub(super) fn missing(&self) -> usize {
        let collected = self.collected.as_ref().map_or(0, Vec::len);
        self.rest.length as usize - collected
    }
}

/// What is held back until there is memory for it.
pub(super) enum Waiting {
    /// A request whose data is here.
    Execute { executed: Executed, command: Command, data: Bytes },
    /// A write whose data is to be collected.
    Collect(Write),
}

/// The wait for memory.
pub(super) type Awaited = Pin<Box<dyn Future<Output = Buffer> + Send>>;

impl Waiting {
    pub(super) fn execute(executed: Executed, command: Command, data: Bytes) -> Self {
        Self::Execute { executed, command, data }
    }
}

/// A request that will not be executed.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    pub(super) reply: ReplyTo,
    pub(super) error: ErrorCode,
    pub(super) text: &'static str,
}

pub(super) fn error_text(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::Perm => "the disk does not permit it",
        ErrorCode::Io => FAILED,
        ErrorCode::NoMem => "out of memory",
        ErrorCode::Inval => "the disk does not accept it",
        ErrorCode::NoSpc => "no space left on the disk",
        ErrorCode::Overflow => "too large for the disk",
        ErrorCode::NotSup => "zeroing would not be fast here",
        ErrorCode::Shutdown => "the server is shutting down",
    }
}
