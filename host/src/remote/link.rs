//! The connection to a server: the requests under way, and the tasks that send and receive.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::negotiation::Style;
use super::{Violation, is_end, receive};
use crate::block::{Command, Error, ErrorCode, Span};
use crate::device::Outcome;
use crate::nbd::codes::{CommandCode, command_flag, magic};

/// The maximum number of requests under way.
const IN_FLIGHT: usize = 16;

/// The length of a request's header, in bytes.
const HEADER: usize = 28;

/// A connection to a server.
pub(super) struct Link {
    outgoing: mpsc::Sender<Message>,
    waiting: Arc<Requests>,
    turns: Semaphore,
    style: Style,
    receiving: AbortHandle,
}

/// What is sent.
enum Message {
    Request([u8; HEADER], Bytes),
    Disconnect,
}

/// The requests that wait for their replies.
pub(super) struct Requests {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    /// Why the connection is of no use any more.
    lost: Option<Lost>,
}

/// A request that waits for its reply.
pub(super) struct Waiting {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Outcome>,
    /// What has come of the reply.
    pub(super) received: receive::Received,
}

/// Why a connection is of no use any more.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    /// The server closed it.
    Closed,
    Io(io::ErrorKind),
    Violation(Violation),
    /// This side ended it.
    Disconnected,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str(
                "the server closed the connection: it has stopped, or the disk was removed",
            ),
            Self::Io(kind) => write!(f, "the connection to the server was lost: {kind}"),
            Self::Violation(violation) => violation.fmt(f),
            Self::Disconnected => f.write_str("the connection was ended"),
        }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        if is_end(&error) { Self::Closed } else { Self::Io(error.kind()) }
    }
}

impl From<Violation> for Lost {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        Self { code: ErrorCode::Io, message: Some(lost.to_string().into()) }
    }
}

impl Link {
    /// Starts the tasks of a connection in the transmission phase.
    pub(super) fn start<R, W>(reader: R, writer: W, style: Style) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let waiting = Arc::new(Requests { state: Mutex::default() });
        let (outgoing, messages) = mpsc::channel(1);
        let sending = tokio::spawn(send(writer, messages, waiting.clone())).abort_handle();
        let requests = waiting.clone();
        let receiving = tokio::spawn(async move {
            let lost = receive::receive(reader, &requests, style).await;
            // Before the requests fail, so that the connection is closed by then.
            sending.abort();
            requests.lose(lost);
        });
        let (turns, receiving) = (Semaphore::new(IN_FLIGHT), receiving.abort_handle());
        Self { outgoing, waiting, turns, style, receiving }
    }

    /// Whether the server can tell extents.
    pub(super) fn has_extents(&self) -> bool {
        self.style.allocation.is_some()
    }

    /// Sends a request, once few enough are under way, and waits for its reply.
    pub(super) async fn request(&self, command: Command, payload: Bytes) -> Outcome {
        // It is never closed.
        let _turn = self.turns.acquire().await.map_err(|_| Lost::Disconnected)?;
        let (cookie, answer) = self.waiting.enter(command)?;
        let message = Message::Request(header(cookie, command), payload);
        if self.outgoing.send(message).await.is_err() {
            // The sending task has ended, or will be gone: the reason is known, or will be.
            return answer.await.unwrap_or(Err(Lost::Closed.into()));
        }
        answer.await.unwrap_or(Err(Lost::Closed.into()))
    }

    pub(super) async fn disconnect(&self) {
        if self.outgoing.send(Message::Disconnect).await.is_ok() {
            self.outgoing.closed().await;
        }
        self.waiting.lose(Lost::Disconnected);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

impl Requests {
    /// Registers a request. Returns its cookie, and where the answer comes from.
    fn enter(&self, command: Command) -> Result<(u64, oneshot::Receiver<Outcome>), Error> {
        let mut state = self.state();
        if let Some(lost) = &state.lost {
            return Err(lost.clone().into());
        }
        let (sender, receiver) = oneshot::channel();
        let cookie = state.next;
        state.next += 1;
        let received = receive::Received::new(&command);
        state.waiting.insert(cookie, Waiting { command, answer: sender, received });
        Ok((cookie, receiver))
    }

    /// Takes a request, to receive a part of its reply.
    pub(super) fn take(&self, cookie: u64) -> Result<Waiting, Violation> {
        self.state().waiting.remove(&cookie).ok_or(Violation::Cookie(cookie))
    }

    /// Puts back a request whose reply has not ended.
    pub(super) fn put_back(&self, cookie: u64, waiting: Waiting) {
        self.state().waiting.insert(cookie, waiting);
    }

    /// Fails all requests. The first reason counts.
    fn lose(&self, lost: Lost) {
        let mut state = self.state();
        let lost = state.lost.get_or_insert(lost).clone();
        for (_, waiting) in state.waiting.drain() {
            // Nobody may wait for it.
            let _ = waiting.answer.send(Err(lost.clone().into()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what is to be sent, until this side disconnects or the connection fails.
async fn send(
    mut writer: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<Message>,
    requests: Arc<Requests>,
) {
    let sent = async {
        while let Some(Message::Request(header, payload)) = messages.recv().await {
            writer.write_all(&header).await?;
            writer.write_all(&payload).await?;
            writer.flush().await?;
        }
        let span = Span { offset: 0, length: 0 };
        writer.write_all(&encode(0, CommandCode::DISC, 0, span)).await?;
        writer.shutdown().await
    };
    // What the server has answered before it closed the connection is still received, and the reason
    // with it.
    if let Err(error) = sent.await
        && !is_end(&error)
    {
        requests.lose(error.into());
    }
}

/// Returns the header of a request for a command.
fn header(cookie: u64, command: Command) -> [u8; HEADER] {
    let set = |flag: u16, on: bool| if on { flag } else { 0 };
    let fua = |on: bool| set(command_flag::FUA, on);
    let (code, flags) = match command {
        Command::Read { .. } => (CommandCode::READ, 0),
        Command::Write { fua: on, .. } => (CommandCode::WRITE, fua(on)),
        Command::Zero { fua: on, keep_allocated, fast, .. } => {
            let flags = set(command_flag::NO_HOLE, keep_allocated);
            let flags = flags | set(command_flag::FAST_ZERO, fast);
            (CommandCode::WRITE_ZEROES, flags | fua(on))
        }
        Command::Trim { fua: on, .. } => (CommandCode::TRIM, fua(on)),
        Command::Flush => (CommandCode::FLUSH, 0),
        Command::Cache { .. } => (CommandCode::CACHE, 0),
        Command::Extents { limit, .. } => {
            (CommandCode::BLOCK_STATUS, set(command_flag::REQ_ONE, limit == 1))
        }
    };
    encode(flags, code, cookie, command.span())
}

fn encode(flags: u16, code: CommandCode, cookie: u64, span: Span) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&magic::REQUEST.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&code.0.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&span.offset.to_be_bytes());
    // Longer spans are divided before.
    let length = u32::try_from(span.length).unwrap_or(u32::MAX);
    header[24..].copy_from_slice(&length.to_be_bytes());
    header
}
