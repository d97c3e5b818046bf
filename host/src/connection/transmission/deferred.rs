//! Requests whose guest waits for its share of the processors.
//!
//! Nothing of such a request is executed. It has its payload and the memory for that, but no thread, no lock
//! and nothing of the device, which may be replaced meanwhile. The deferred requests of a connection begin in
//! the order in which they came; those that need no guest go on before them, as the protocol allows. Only the
//! first one of a connection waits for the share, so that connections take turns.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::Transmission;
use super::execution::InFlight;
use super::reading::{PIECE, Reading};
use super::request::Executed;
use crate::block::Command;
use crate::connection::End;
use crate::device::guest::Begun;
use crate::device::{Buffer, Gate};
use crate::nbd::Contexts;
use crate::transport::Stream;

/// The deferred requests of a connection. They count as in flight.
#[derive(Default)]
pub(super) struct Deferred {
    queue: VecDeque<Request>,
    /// The wait of the first one. It is polled or dropped, for others are behind it.
    turn: Option<Pin<Box<dyn Future<Output = Begun> + Send>>>,
}

/// A request that has not begun.
struct Request {
    executed: Executed,
    buffer: Option<Buffer>,
    asked: Asked,
}

/// The request has to wait ([`Transmission::defer`]).
pub(super) struct Deferral;

/// What is to be executed.
pub(super) enum Asked {
    /// A command with its payload.
    Command(Command, Bytes),
    /// The status of the span in metadata contexts.
    Description { contexts: Contexts, limit: usize },
}

impl Request {
    /// Returns the command, or the one that a description begins with.
    fn command(&self) -> Command {
        match self.asked {
            Asked::Command(command, _) => command,
            Asked::Description { limit, .. } => {
                Command::Extents { span: self.executed.span, limit }
            }
        }
    }
}

impl Deferred {
    /// Begins the first request. Ready with `None` if its guest has no limited share any more.
    fn poll_turn(&mut self, gate: &Gate, cx: &mut Context<'_>) -> Poll<Option<Begun>> {
        let Some(first) = self.queue.front() else { return Poll::Pending };
        if self.turn.is_none() {
            match gate.try_begin(first.command()) {
                Ok(begun) => return Poll::Ready(begun),
                Err(time) => self.turn = Some(Box::pin(time.begin())),
            }
        }
        let Some(turn) = &mut self.turn else { return Poll::Pending };
        let begun = ready!(turn.as_mut().poll(cx));
        self.turn = None;
        Poll::Ready(Some(begun))
    }

    /// Lets others begin before the first request.
    pub(super) fn give_up_turn(&mut self) {
        self.turn = None;
    }

    fn pop(&mut self, in_flight: &mut InFlight) -> Option<Request> {
        let request = self.queue.pop_front()?;
        let held = request.buffer.as_ref().map_or(0, |_| request.executed.held);
        in_flight.leave(held);
        Some(request)
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Begins a request, unless its guest has to wait, or others of the connection wait before it. Returns
    /// what has to be kept until the request has ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the request is to be deferred.
    pub(super) fn try_begin(
        &self,
        executed: &Executed,
        command: Command,
    ) -> Result<Option<Begun>, Deferral> {
        if command.span().length < executed.span.length {
            // A part of it was executed already.
            return Ok(None);
        }
        match self.deferred.queue.is_empty() {
            true => self.gate.try_begin(command).map_err(|_| Deferral),
            false if self.gate.is_limited(command) => Err(Deferral),
            false => Ok(None),
        }
    }

    /// Defers a request, and waits for its turn.
    #[cold]
    pub(super) fn defer(
        &mut self,
        executed: Executed,
        buffer: Option<Buffer>,
        asked: Asked,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let held = buffer.as_ref().map_or(0, |_| executed.held);
        self.in_flight.enter(held);
        self.deferred.queue.push_back(Request { executed, buffer, asked });
        self.poll_deferred(cx)
    }

    /// Executes the deferred requests that may begin.
    pub(super) fn poll_deferred(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while !self.deferred.queue.is_empty() {
            if self.reading.is_some() || !self.may_answer() {
                // Woken by what is sent.
                self.deferred.give_up_turn();
                return Ok(());
            }
            let Poll::Ready(begun) = self.deferred.poll_turn(&self.gate, cx) else { return Ok(()) };
            self.begin_deferred(begun, cx)?;
        }
        Ok(())
    }

    fn begin_deferred(&mut self, begun: Option<Begun>, cx: &mut Context<'_>) -> Result<(), End> {
        let request = self.deferred.pop(&mut self.in_flight);
        let Some(Request { executed, buffer, asked }) = request else { return Ok(()) };
        match asked {
            Asked::Command(Command::Read { span }, _) if span.length > PIECE => {
                self.reading = Some(Reading::new(&executed));
                self.poll_reading(cx)
            }
            Asked::Command(command, data) => {
                self.execute_begun(executed, buffer, command, data, begun, cx)
            }
            Asked::Description { contexts, limit } => {
                self.describe_begun(executed, buffer, contexts, limit, begun);
                Ok(())
            }
        }
    }

    /// Waits for the requests under way to end: those that were sent before NBD_CMD_DISC take effect,
    /// although the client may not be there to see it (spec: NBD_CMD_DISC).
    pub(super) fn poll_in_flight(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_unread(cx).is_err() {
            while self.deferred.pop(&mut self.in_flight).is_some() {}
        }
        while let Poll::Ready(Some(completed)) = self.in_flight.completed.poll_recv(cx) {
            self.in_flight.leave(completed.held());
        }
        match self.in_flight.count {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// Executes the deferred requests that may begin, whose answers nobody reads.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while !self.deferred.queue.is_empty() {
            if !self.inside {
                match Gate::poll_enter(&mut self.gate, cx) {
                    Poll::Ready(entered) => entered.map_err(|_| End::Removed)?,
                    Poll::Pending => {
                        self.deferred.give_up_turn();
                        return Ok(());
                    }
                };
                self.inside = true;
            }
            let Poll::Ready(begun) = self.deferred.poll_turn(&self.gate, cx) else {
                self.leave();
                return Ok(());
            };
            let executed = self.begin_deferred(begun, cx);
            // The rest of a long read is of no use.
            self.reading = None;
            self.leave();
            executed?;
        }
        Ok(())
    }
}
