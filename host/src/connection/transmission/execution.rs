//! Requests under way: what is answered at once, and what becomes a task of its own.

use std::future::Future;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::ReusableBoxFuture;

use super::Transmission;
use crate::block::{Command, ErrorCode, Span};
use crate::connection::{End, Stream};
use crate::disk::Answer;
use crate::nbd::{ReplyTo, Request};

/// How many requests of a connection may be under way that were not ready at once.
const MAX_IN_FLIGHT: usize = 128;

/// How many bytes they may write and read together. One request may always be under way.
const MAX_IN_FLIGHT_BYTES: u64 = 64 << 20;

/// The text of EIO: the cause is in the server's log, and none of the client's business.
const FAILED: &str = "the disk could not do it; the server's log says why";

/// What comes of a request.
pub(super) type Execution = Result<Answer, ErrorCode>;

/// A part of a write that was not ready at once.
pub(super) type Task = JoinHandle<Execution>;

/// Requests that are tasks of their own.
pub(super) struct InFlight {
    pub(super) count: usize,
    bytes: u64,
    done: mpsc::UnboundedSender<Completed>,
    pub(super) completed: mpsc::UnboundedReceiver<Completed>,
}

/// A task that ended.
pub(super) struct Completed {
    request: Executed,
    result: Execution,
}

/// What must be known of a request to answer it.
#[derive(Clone, Copy)]
pub(super) struct Executed {
    pub(super) reply: ReplyTo,
    span: Span,
    read: bool,
    /// What it holds in memory, in bytes.
    held: u64,
}

impl InFlight {
    pub(super) fn new() -> Self {
        // Unbounded, but for the number of tasks.
        let (done, completed) = mpsc::unbounded_channel();
        Self { count: 0, bytes: 0, done, completed }
    }

    /// Whether another request may be under way.
    pub(super) fn has_room(&self) -> bool {
        self.count < MAX_IN_FLIGHT && self.bytes < MAX_IN_FLIGHT_BYTES
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// What is needed to answer a request.
    pub(super) fn executed(&self, request: &Request, command: &Command) -> Executed {
        let (span, read) = match *command {
            Command::Read { span } => (span, true),
            Command::Write { span, .. }
            | Command::Zero { span, .. }
            | Command::Trim { span, .. }
            | Command::Cache { span }
            | Command::Extents { span, .. } => (span, false),
            Command::Flush => (Span { offset: 0, length: 0 }, false),
        };
        let held = match command {
            Command::Read { .. } | Command::Write { .. } => span.length,
            _ => 0,
        };
        Executed { reply: self.session.reply_to(request), span, read, held }
    }

    /// Starts a request without data; if that is all it takes, answers it.
    pub(super) fn execute(
        &mut self,
        request: &Request,
        command: Command,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let executed = self.executed(request, &command);
        self.execute_with(executed, command, Bytes::new(), cx)
    }

    /// Starts a request with its data; if that is all it takes, answers it.
    pub(super) fn execute_with(
        &mut self,
        executed: Executed,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        match self.start(command, data, cx) {
            Ok(result) => self.answer(executed, result, cx)?,
            Err(execution) => self.put_aside(executed, execution),
        }
        Ok(())
    }

    /// Polls a command once. If it is not ready then, its future is the error.
    pub(super) fn start(
        &mut self,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<Execution, ReusableBoxFuture<'static, Execution>> {
        if let Some(answer) = self.access.execute_now(command, &data) {
            return Ok(Ok(answer));
        }
        let execution = self.access.clone().execute(command, data);
        let mut slot = match self.slot.take() {
            Some(mut slot) => {
                slot.set(execution);
                slot
            }
            None => ReusableBoxFuture::new(execution),
        };
        match slot.poll(cx) {
            Poll::Ready(result) => {
                self.slot = Some(slot);
                Ok(result)
            }
            Poll::Pending => Err(slot),
        }
    }

    /// Makes a request a task of its own.
    pub(super) fn put_aside<F>(&mut self, executed: Executed, execution: F)
    where
        F: Future<Output = Execution> + Send + 'static,
    {
        self.in_flight.count += 1;
        self.in_flight.bytes += executed.held;
        let done = self.in_flight.done.clone();
        tokio::spawn(async move {
            // The disk is not held while the connection is busy.
            let result = execution.await.map(|answer| match answer {
                Answer::Read(content) => Answer::Read(content.into_copy()),
                answer => answer,
            });
            // The connection may be gone; then nobody needs the answer.
            let _ = done.send(Completed { request: executed, result });
        });
    }

    pub(super) fn complete(
        &mut self,
        completed: Completed,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let Completed { request, result } = completed;
        self.in_flight.count -= 1;
        self.in_flight.bytes -= request.held;
        self.answer(request, result, cx)
    }

    pub(super) fn answer(
        &mut self,
        request: Executed,
        result: Execution,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let Executed { reply, span, read, .. } = request;
        match result {
            Ok(Answer::Done) => reply.success(self.output.batch()),
            Ok(Answer::Read(content)) => {
                self.output.read(&mut self.stream, cx, reply, span, &content)?;
            }
            Ok(Answer::Extents(extents)) => {
                reply.block_status(span, &extents, self.output.batch());
            }
            Err(error) if read => {
                reply.error_at(error, error_text(error), span.offset, self.output.batch());
            }
            Err(error) => reply.error(error, error_text(error), self.output.batch()),
        }
        Ok(())
    }

    /// Waits for what was asked before the good-bye, which takes effect although nobody may be left to
    /// hear of it (spec: NBD_CMD_DISC).
    pub(super) async fn outlast(&mut self) {
        while self.in_flight.count > 0 && self.in_flight.completed.recv().await.is_some() {
            self.in_flight.count -= 1;
        }
    }
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
