//! Executing requests: at once where possible, otherwise in a task.

use std::future::Future;
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Transmission;
use super::deferred::{Asked, Deferral};
use super::reading::{Outlet, PIECE, Reading};
use super::request::{Executed, Waiting, error_text};
use crate::block::{Command, ErrorCode, Extent, Operation, Span};
use crate::connection::End;
use crate::device::guest::Begun;
use crate::device::{Answer, Buffer, Described, Execution, Outcome, Pass};
use crate::nbd::Request;
use crate::transport::Stream;

/// The most tasks that a connection may have.
const MAX_IN_FLIGHT: usize = 128;

/// The most bytes that these tasks may read and write together. One request is always accepted.
const MAX_IN_FLIGHT_BYTES: u64 = 64 << 20;

/// The execution of a request, or of a part of one, that was not ready at once.
pub(super) struct Started {
    execution: Execution,
    /// It is pending because it computes for long.
    computes: bool,
}

/// The tasks of a connection.
pub(super) struct InFlight {
    pub(super) count: usize,
    bytes: u64,
    done: mpsc::UnboundedSender<Completed>,
    pub(super) completed: mpsc::UnboundedReceiver<Completed>,
}

/// The result of a task.
pub(super) struct Completed {
    request: Executed,
    result: Outcome,
    /// Its share of the request memory, held until it is answered.
    buffer: Option<Buffer>,
}

impl Completed {
    /// Returns what the request takes of the bytes in flight.
    pub(super) fn held(&self) -> u64 {
        self.request.held
    }
}

/// Ensures that a request is answered however its task ends.
struct Completion {
    done: mpsc::UnboundedSender<Completed>,
    request: Executed,
    buffer: Option<Buffer>,
    /// The result; `None` if the task was dropped, because there were no threads or it panicked.
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
            true => Err(ErrorCode::Io.into()),
            false => Err(ErrorCode::NoMem.into()),
        });
        // This fails if the connection is gone, and then nobody needs the answer.
        let completed = Completed { request: self.request, result, buffer: self.buffer.take() };
        let _ = self.done.send(completed);
    }
}

impl InFlight {
    pub(super) fn new() -> Self {
        // Bounded by the number of tasks.
        let (done, completed) = mpsc::unbounded_channel();
        Self { count: 0, bytes: 0, done, completed }
    }

    /// Counts one more, of so many bytes.
    pub(super) fn enter(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    /// Counts one less.
    pub(super) fn leave(&mut self, bytes: u64) {
        self.count -= 1;
        self.bytes -= bytes;
    }

    /// Whether another task may be started.
    pub(super) fn has_room(&self) -> bool {
        self.count < MAX_IN_FLIGHT && self.bytes < MAX_IN_FLIGHT_BYTES
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Counts a command that was admitted, and returns what it takes to answer it.
    pub(super) fn executed(&mut self, request: &Request, command: &Command) -> Executed {
        let span = command.span();
        let held = match command {
            Command::Read { .. } | Command::Write { .. } => span.length,
            Command::Extents { limit, .. } => (limit * size_of::<Extent>()) as u64,
            // Nothing beyond the request itself.
            _ => 0,
        };
        self.tap.count(command);
        let entry = self.meter.entry(command.operation());
        Executed { reply: self.session.reply_to(request), entry, span, held }
    }

    /// Executes a request without payload, and answers it if it is ready at once.
    pub(super) fn execute(
        &mut self,
        request: &Request,
        command: Command,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let executed = self.executed(request, &command);
        self.execute_with(executed, command, Bytes::new(), cx)
    }

    /// Executes a request with its payload, and answers it if it is ready at once. A request that
    /// needs memory is held back until there is some.
    pub(super) fn execute_with(
        &mut self,
        executed: Executed,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        match command {
            Command::Read { span } => {
                if let Some(lease) = self.gate.try_read(span) {
                    let to = Outlet {
                        output: &mut self.output,
                        stream: &mut self.stream,
                        room: self.peer.room(),
                    };
                    match Reading::answer(&executed, &lease, to, cx)? {
                        None => self.meter.answered(executed.entry, span.length, false),
                        unsent => self.reading = unsent,
                    }
                    return Ok(());
                }
                if span.length > PIECE {
                    match self.try_begin(&executed, command) {
                        Ok(_) => self.reading = Some(Reading::new(&executed)),
                        Err(Deferral) => {
                            self.defer(executed, None, Asked::Command(command, data), cx)?;
                        }
                    }
                    return Ok(());
                }
            }
            Command::Write { span, fua } if self.gate.try_write(span, &data, fua) => {
                executed.reply.success(self.output.batch());
                self.meter.answered(executed.entry, span.length, false);
                return Ok(());
            }
            _ => {}
        }
        if executed.held == 0 {
            return self.execute_called(executed, None, command, data, cx);
        }
        match self.gate.buffers().try_take(executed.held) {
            Some(buffer) => self.execute_called(executed, Some(buffer), command, data, cx),
            None => {
                let waiting = Waiting::Execute { executed, command, data };
                self.wait_for_buffer(executed.held, waiting, cx)
            }
        }
    }

    /// As [`Self::execute_with`], for a request for which there is no lease.
    pub(super) fn execute_called(
        &mut self,
        executed: Executed,
        buffer: Option<Buffer>,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        match self.try_begin(&executed, command) {
            Ok(begun) => self.execute_begun(executed, buffer, command, data, begun, cx),
            Err(Deferral) => self.defer(executed, buffer, Asked::Command(command, data), cx),
        }
    }

    /// As [`Self::execute_called`], for a request that may begin.
    pub(super) fn execute_begun(
        &mut self,
        executed: Executed,
        buffer: Option<Buffer>,
        command: Command,
        data: Bytes,
        begun: Option<Begun>,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        match self.call(command, data, cx) {
            Ok(result) => self.answer(executed, result, buffer, cx)?,
            Err(Started { execution, computes }) => {
                let pass = self.gate.pass();
                let execution = async move {
                    let outcome = pass.finish(execution).await;
                    drop(begun);
                    (outcome, pass)
                };
                self.spawn_request(executed, buffer, computes, execution);
            }
        }
        Ok(())
    }

    /// Writes a part of a request. Returns the execution as the error if it is not ready at once.
    pub(super) fn start_write(
        &mut self,
        span: Span,
        data: Bytes,
        fua: bool,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, Started> {
        if self.gate.try_write(span, &data, fua) {
            return Ok(Ok(Answer::Done));
        }
        self.call(Command::Write { span, fua }, data, cx)
    }

    /// Executes a command and polls it once, if it may be polled on this thread.
    fn call(
        &mut self,
        command: Command,
        data: Bytes,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, Started> {
        let alone = self.own_thread && self.gate.may_run_here(true);
        let execution = self.gate.execute(command, data, self.slot.take(), alone);
        self.poll_once(execution, cx)
    }

    /// Makes room in the device for a part of a write. `None` if it cannot.
    pub(super) fn request_room(
        &mut self,
        span: Span,
        cx: &mut Context<'_>,
    ) -> Option<Result<Outcome, Started>> {
        let execution = self.gate.make_room(span)?;
        Some(self.poll_once(execution, cx))
    }

    fn poll_once(
        &mut self,
        mut execution: Execution,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, Started> {
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

    /// Spawns a request as a task. With its outcome, the execution returns the pass that it had.
    pub(super) fn spawn_request<F>(
        &mut self,
        executed: Executed,
        buffer: Option<Buffer>,
        computes: bool,
        execution: F,
    ) where
        F: Future<Output = (Outcome, Pass)> + Send + 'static,
    {
        self.in_flight.enter(executed.held);
        let done = self.in_flight.done.clone();
        let completion = Completion { done, request: executed, buffer, result: None };
        let task = async move {
            let (outcome, pass) = execution.await;
            // A copy, so that the task holds no lease until the connection gets to it.
            let outcome = outcome.map(Answer::into_copy);
            drop(pass);
            completion.finish(outcome);
        };
        self.gate.spawn(task, computes);
    }

    /// Spawns a part of a request as a task. Returns the receiver of its result.
    pub(super) fn spawn_part(&self, part: Started) -> oneshot::Receiver<Outcome> {
        let Started { execution, computes } = part;
        let (done, result) = oneshot::channel();
        let gate = self.gate.pass();
        let task = async move {
            // This fails if the connection is gone, and then nobody needs the result.
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
        let Completed { request, result, buffer } = completed;
        self.in_flight.leave(request.held);
        self.answer(request, result, buffer, cx)
    }

    /// Answers a request. The memory taken for it is held until its content was sent.
    pub(super) fn answer(
        &mut self,
        request: Executed,
        result: Outcome,
        buffer: Option<Buffer>,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let Executed { reply, entry, span, .. } = request;
        let failed = result.as_ref().err().map(|error| error.code);
        if let Some(code) = failed {
            self.meter.failed(code);
        }
        match result {
            Ok(Answer::Done) => reply.success(self.output.batch()),
            Ok(Answer::Read(content)) => {
                let to = Outlet {
                    output: &mut self.output,
                    stream: &mut self.stream,
                    room: self.peer.room(),
                };
                if let Some(unsent) = Reading::answer(&request, &content, to, cx)? {
                    // It is counted when all of it was answered.
                    self.reading = Some(unsent);
                    return Ok(());
                }
            }
            Ok(Answer::Piped(piped)) => {
                let reading = Reading::of_piped(&request, piped, buffer, &mut self.output);
                self.reading = Some(reading);
                return self.poll_reading(cx);
            }
            Ok(Answer::Extents(extents)) => {
                reply.block_status(span, &extents, self.output.batch());
            }
            Ok(Answer::Described(all)) => {
                let mut left = all.len();
                for (id, described) in &all {
                    left -= 1;
                    let (last, out) = (left == 0, self.output.batch());
                    match described {
                        Described::Allocation(extents) => {
                            reply.context_status(*id, last, span, extents, out);
                        }
                        Described::State(extents) => {
                            reply.context_status(*id, last, span, extents, out);
                        }
                    }
                }
            }
            Ok(Answer::Located(_)) => unreachable!("nothing asked for it"),
            Err(error) if entry.operation == Operation::Read => {
                let text = error_text(&error);
                reply.error_at(error.code, text, span.offset, self.output.batch());
            }
            Err(error) => reply.error(error.code, error_text(&error), self.output.batch()),
        }
        self.meter.answered(entry, span.length, failed.is_some());
        Ok(())
    }
}
