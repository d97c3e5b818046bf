//! Reads whose replies exceed what may be buffered: they are read in pieces, each when there is
//! room for it.
//!
//! Meanwhile nothing else is sent on the connection. If a piece fails, the reply ends with an
//! error, unless the header of a chunk has announced the bytes already: then the connection is
//! closed, for the protocol has no other way (spec: "Structured reply chunk message").

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Transmission;
use super::request::{Executed, error_text};
use crate::block::{Command, Error, ErrorCode, Span};
use crate::connection::End;
use crate::connection::output::{Output, Read, Unsent};
use crate::device::{Answer, Buffer, Chunks, Entry, Gate, Piped};
use crate::nbd::{ReplyTo, Run};
use crate::transport::Stream;

/// The longest piece, in bytes. Shorter reads are executed as a whole.
pub(super) const PIECE: u64 = 4 << 20;

/// The length of a piece for which there is no memory in the export's budget, in bytes. Waiting for
/// memory could deadlock: it may be held by replies that are sent after this one.
const SMALL_PIECE: u64 = 256 << 10;

/// A read whose reply is being sent.
pub(super) struct Reading {
    reply: ReplyTo,
    entry: Entry,
    /// The length of the read, in bytes.
    length: u64,
    /// The rest of the chunk whose header was sent.
    owed: Span,
    /// What follows that chunk, of which nothing was sent.
    rest: Span,
    /// The piece that is being executed.
    called: Option<Called>,
    /// Content whose header was sent, and the memory taken for it. It comes before `owed`.
    piped: Option<(Piped, Option<Buffer>)>,
}

/// A piece that is being executed.
struct Called {
    span: Span,
    content: oneshot::Receiver<Piece>,
}

/// Where the content of a read is sent.
pub(super) struct Outlet<'a, S> {
    pub(super) output: &'a mut Output,
    pub(super) stream: &'a mut S,
    /// How many bytes may be buffered.
    pub(super) room: usize,
}

/// The content of a piece, and the memory taken for it.
type Piece = (Result<Answer, Error>, Option<Buffer>);

impl Reading {
    /// Starts with a read of which nothing was sent.
    pub(super) fn new(request: &Executed) -> Self {
        let &Executed { reply, entry, span, .. } = request;
        let owed = Span { length: 0, ..span };
        Self { reply, entry, length: span.length, owed, rest: span, called: None, piped: None }
    }

    /// Starts with a read all of whose content is in pipes.
    pub(super) fn of_piped(
        request: &Executed,
        piped: Piped,
        buffer: Option<Buffer>,
        output: &mut Output,
    ) -> Self {
        let mut reading = Self::new(request);
        reading.send_piped(request.span, piped, buffer, output);
        reading
    }

    /// Answers a read with all of its content. Returns the read of what found no room.
    pub(super) fn answer<S, C>(
        request: &Executed,
        content: &C,
        to: Outlet<'_, S>,
        cx: &mut Context<'_>,
    ) -> Result<Option<Self>, End>
    where
        S: Stream,
        C: Chunks,
    {
        let &Executed { reply, span, .. } = request;
        let read = Read { reply, span, content, ends: true, room: to.room };
        let unsent = to.output.read(to.stream, cx, &read)?;
        let length = span.length;
        let rest = |Unsent { owed, rest }| Self { length, owed, rest, ..Self::new(request) };
        Ok(unsent.map(rest))
    }

    /// Returns the next piece, empty if nothing is left.
    fn next(&self) -> Span {
        if let Some(called) = &self.called {
            return called.span;
        }
        let from = if self.owed.length > 0 { self.owed } else { self.rest };
        Span { length: from.length.min(PIECE), ..from }
    }

    /// Executes the read of a piece. Returns the part that was read.
    fn poll_call(
        &mut self,
        gate: &Arc<Gate>,
        piece: Span,
        cx: &mut Context<'_>,
    ) -> Poll<(Span, Piece)> {
        let called = self.called.get_or_insert_with(|| {
            let buffer = gate.buffers().try_take(piece.length);
            let most = if buffer.is_some() { PIECE } else { SMALL_PIECE };
            let span = Span { length: piece.length.min(most), ..piece };
            let (done, content) = oneshot::channel();
            let driver = gate.pass();
            let task = async move {
                let execution = driver.execute(Command::Read { span }, Bytes::new(), None, false);
                let result = driver.finish(execution).await;
                let content = result.map(Answer::into_copy);
                // This fails if the connection is gone, and then nobody needs the result.
                let _ = done.send((content, buffer));
            };
            gate.spawn(task, false);
            Called { span, content }
        });
        let span = called.span;
        let polled = Pin::new(&mut called.content).poll(cx);
        polled.map(|content| {
            self.called = None;
            // The sender is dropped if there are no threads.
            (span, content.unwrap_or((Err(ErrorCode::NoMem.into()), None)))
        })
    }

    /// Appends the header of a chunk with the next bytes.
    fn announce(&mut self, span: Span, output: &mut Output) {
        let rest = self.rest.after(span.length);
        let run = Run { span, hole: false, last: rest.length == 0 };
        self.reply.run(&run, output.batch());
        (self.owed, self.rest) = (span, rest);
    }

    /// Sends the content of a piece that is in pipes, when what is buffered was sent.
    fn send_piped(
        &mut self,
        piece: Span,
        piped: Piped,
        buffer: Option<Buffer>,
        output: &mut Output,
    ) {
        if self.owed.length == 0 {
            let whole = self.reply.is_one_run();
            self.announce(if whole { self.rest } else { piece }, output);
        }
        self.owed = self.owed.after(piece.length);
        self.piped = Some((piped, buffer));
    }

    /// Sends the content of a piece. What finds no room is read again later.
    fn send<S, C>(
        &mut self,
        to: Outlet<'_, S>,
        piece: Span,
        content: &C,
        cx: &mut Context<'_>,
    ) -> Result<(), End>
    where
        S: Stream,
        C: Chunks,
    {
        let Outlet { output, stream, room } = to;
        let reply = self.reply;
        if self.owed.length == 0 && reply.is_one_run() {
            // The header announces the whole read.
            self.announce(self.rest, output);
        }
        if self.owed.length > 0 {
            let left = output.go_on(stream, cx, piece.length, content, room)?;
            self.owed = self.owed.after(piece.length - left);
            return Ok(());
        }
        let after = self.rest.after(piece.length);
        let read = Read { reply, span: piece, content, ends: after.length == 0, room };
        match output.read(stream, cx, &read)? {
            None => self.rest = after,
            Some(Unsent { owed, rest }) => {
                self.owed = owed;
                self.rest = Span { length: rest.length + after.length, ..rest };
            }
        }
        Ok(())
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Continues the read that is being answered, as far as there is room.
    pub(super) fn poll_reading(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.poll_piped(cx)?.is_ready()
            && let Some(mut reading) = self.reading.take()
        {
            let piece = reading.next();
            if piece.length == 0 {
                self.meter.answered(reading.entry, reading.length, false);
                return Ok(());
            }
            if !self.has_room() {
                self.reading = Some(reading);
                return Ok(());
            }
            let to = Outlet {
                output: &mut self.output,
                stream: &mut self.stream,
                room: self.peer.room(),
            };
            if reading.called.is_none()
                && let Some(lease) = self.gate.try_read(piece)
            {
                reading.send(to, piece, &lease, cx)?;
                self.reading = Some(reading);
                continue;
            }
            match reading.poll_call(&self.gate, piece, cx) {
                Poll::Ready((piece, (Ok(answer), buffer))) => {
                    match answer {
                        Answer::Read(content) => reading.send(to, piece, &content, cx)?,
                        Answer::Piped(piped) => {
                            reading.send_piped(piece, piped, buffer, to.output);
                        }
                        _ => unreachable!("it is a read"),
                    }
                    self.reading = Some(reading);
                }
                Poll::Ready((_, (Err(error), _))) if reading.owed.length > 0 => {
                    self.meter.failed(error.code);
                    self.meter.answered(reading.entry, reading.length, true);
                    return Err(End::Unanswerable);
                }
                Poll::Ready((_, (Err(error), _))) => {
                    let text = error_text(&error);
                    self.meter.failed(error.code);
                    self.meter.answered(reading.entry, reading.length, true);
                    reading.reply.error_at(error.code, text, piece.offset, self.output.batch());
                }
                Poll::Pending => {
                    self.reading = Some(reading);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends content that is in pipes. Ready when none is left.
    pub(super) fn poll_piped(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Some(reading) = &mut self.reading
            && let Some((piped, _)) = &mut reading.piped
        {
            ready!(self.output.poll_send_piped(&mut self.stream, cx, piped))?;
            reading.piped = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there is a read to continue that does not wait for an execution.
    pub(super) fn reading_begins(&self) -> bool {
        let begins = |reading: &Reading| reading.called.is_none() && reading.piped.is_none();
        self.reading.as_ref().is_some_and(begins)
    }

    /// Whether there is content in pipes that the stream did not accept.
    pub(super) fn is_piped_left(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.piped.is_some())
    }
}
