//! Requests under way: what is answered at once, and what becomes a task of its own.

use std::future::Future;
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Transmission;
use super::reading::{PIECE, Reading};
use super::request::{Executed, Waiting, error_text};
use crate::block::{Command, ErrorCode, Extent, Span};
use crate::connection::End;
use crate::connection::output::Read;
use crate::device::{Answer, Buffer, Content, Execution, Outcome};
use crate::nbd::{ReplyTo, Request};
use crate::transport::Stream;

/// How many requests of a connection may be under way that were not ready at once.
const MAX_IN_FLIGHT: usize = 128;

/// How many bytes they may write and read together. One request may always be under way.
const MAX_IN_FLIGHT_BYTES: u64 = 64 << 20;

/// A request, or a part of one, that was not ready at once.
pub(super) struct Started {
    execution: Execution,
    /// It computes at length.
    computes: bool,
}

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
    result: Outcome,
    /// The memory that it has until it is answered.
    _buffer: Option<Buffer>,
}

/// Sees to it that a task is answered however it ends.
struct Completion {
    done: mpsc::UnboundedSender<Completed>,
    request: Executed,
    buffer: Option<Buffer>,
    /// What it came to; nothing if it was dropped before, for want of threads or in a panic.
    result: Option<Outcome>,
}

impl Completion {
    fn finish(mut self, result: Outcome) {
        self.result = Some(result);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| match thread::panicking() {
            true => Err(ErrorCode::Io),
            false => Err(ErrorCode::NoMem),
        });
        // The connection may be gone; then nobody needs the answer.
        let completed = Completed { request: self.request, result, _buffer: self.buffer.take() };
        let _ = self.done.send(completed);
    }
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
            Command::Extents { limit, .. } => (limit * size_of::<Extent>()) as u64,
            // No more than what a request takes itself.
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

    /// Starts a request with its data; if that is all it takes, answers it. It is held back as long as
    /// there is no memory for it, if it needs any.
    pub(super) fn execute_with(
        &mut self,
        executed: Executed,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        if let Some(answer) = self.gate.try_execute(command, &data) {
            return self.answer(executed, Ok(answer), cx);
        }
        if let Command::Read { span } = command
            && span.length > PIECE
        {
            self.reading = Some(Reading::new(executed.reply, span));
            return Ok(());
        }
        if executed.held == 0 {
            return self.execute_called(executed, None, command, data, cx);
        }
        match self.gate.buffers().try_take(executed.held) {
            Some(buffer) => self.execute_called(executed, Some(buffer), command, data, cx),
            None => {
                self.wait_for_buffer(executed.held, Waiting::execute(executed, command, data), cx)
            }
        }
    }

    /// As [`Self::execute_with`], for what takes a call of the component or waiting for others.
    pub(super) fn execute_called(
        &mut self,
        executed: Executed,
        buffer: Option<Buffer>,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        match self.call(command, data, cx) {
            Ok(result) => self.answer(executed, result, cx)?,
            Err(Started { execution, computes }) => {
                let gate = self.gate.clone();
                let execution = async move { gate.finish(execution).await };
                self.spawn_request(executed, buffer, computes, execution);
            }
        }
        Ok(())
    }

    /// Starts a command. If it is not ready at once, what was started is the error.
    pub(super) fn start(
        &mut self,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, Started> {
        if let Some(answer) = self.gate.try_execute(command, &data) {
            return Ok(Ok(answer));
        }
        self.call(command, data, cx)
    }

    /// Polls a command once, where it may be polled on this thread.
    fn call(
        &mut self,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, Started> {
        let mut execution = self.gate.execute(command, data, self.slot.take());
        if !self.gate.may_run_here(self.own_thread) {
            return Err(Started { execution, computes: false });
        }
        match self.gate.poll(execution.get_pin(), cx) {
            (Poll::Ready(result), _) => {
                self.slot = Some(execution);
                Ok(result)
            }
            (Poll::Pending, computes) => Err(Started { execution, computes }),
        }
    }

    /// Makes a request a task of its own.
    pub(super) fn spawn_request<F>(
        &mut self,
        executed: Executed,
        buffer: Option<Buffer>,
        computes: bool,
        execution: F,
    ) where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.in_flight.count += 1;
        self.in_flight.bytes += executed.held;
        let done = self.in_flight.done.clone();
        let completion = Completion { done, request: executed, buffer, result: None };
        let task = async move {
            // The disk is not held while the connection is busy.
            completion.finish(execution.await.map(|answer| match answer {
                Answer::Read(content) => Answer::Read(content.into_copy()),
                answer => answer,
            }));
        };
        self.gate.spawn(task, computes);
    }

    /// Makes a part of a request a task of its own, and returns where its result comes.
    pub(super) fn spawn_part(&self, part: Started) -> oneshot::Receiver<Outcome> {
        let Started { execution, computes } = part;
        let (done, result) = oneshot::channel();
        let gate = self.gate.clone();
        let task = async move {
            // The connection may be gone; then nobody needs it.
            let _ = done.send(gate.finish(execution).await);
        };
        self.gate.spawn(task, computes);
        result
    }

    pub(super) fn complete(
        &mut self,
        completed: Completed,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let Completed { request, result, _buffer } = completed;
        self.in_flight.count -= 1;
        self.in_flight.bytes -= request.held;
        self.answer(request, result, cx)
    }

    pub(super) fn answer(
        &mut self,
        request: Executed,
        result: Outcome,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let Executed { reply, span, read, .. } = request;
        match result {
            Ok(Answer::Done) => reply.success(self.output.batch()),
            Ok(Answer::Read(content)) => self.answer_read(reply, span, &content, cx)?,
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

    fn answer_read(
        &mut self,
        reply: ReplyTo,
        span: Span,
        content: &Content,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let read = Read { reply, span, content, ends: true, room: self.peer.room() };
        let unsent = self.output.read(&mut self.stream, cx, &read)?;
        self.reading = unsent.map(|unsent| Reading::after(reply, unsent));
        Ok(())
    }

    /// Waits for what was asked before the good-bye, which takes effect although nobody may be left to
    /// hear of it (spec: NBD_CMD_DISC).
    pub(super) async fn await_in_flight(&mut self) {
        while self.in_flight.count > 0 && self.in_flight.completed.recv().await.is_some() {
            self.in_flight.count -= 1;
        }
    }
}
