//! Reads whose replies exceed what may be buffered: they are read in pieces, each when there is
//! room for it.
//!
//! Meanwhile nothing else is sent on the connection. If a piece fails, the reply ends with an
//! error, unless the header of a chunk has announced the bytes already: then the connection is
//! closed, for the protocol has no other way (spec: "Structured reply chunk message").

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Transmission;
use super::request::error_text;
use crate::block::{Command, ErrorCode, Span};
use crate::connection::End;
use crate::connection::output::{Read, Unsent};
use crate::device::{Answer, Buffer, Content};
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
    /// The rest of the chunk whose header was sent.
    owed: Span,
    /// What follows that chunk, of which nothing was sent.
    rest: Span,
    /// The piece that is being executed.
    called: Option<Called>,
}

/// A piece that is being executed.
struct Called {
    span: Span,
    content: oneshot::Receiver<Piece>,
}

/// The content of a piece, and the memory taken for it.
type Piece = (Result<Content, ErrorCode>, Option<Buffer>);

impl Reading {
    /// Starts with a read of which nothing was sent.
    pub(super) fn new(reply: ReplyTo, span: Span) -> Self {
        Self { reply, owed: Span { length: 0, ..span }, rest: span, called: None }
    }

    /// Continues a read of which a part was sent.
    pub(super) fn after(reply: ReplyTo, unsent: Unsent) -> Self {
        Self { reply, owed: unsent.owed, rest: unsent.rest, called: None }
    }

    /// Returns the next piece, empty if nothing is left.
    fn next(&self) -> Span {
        if let Some(called) = &self.called {
            return called.span;
        }
        let from = if self.owed.length > 0 { self.owed } else { self.rest };
        Span { length: from.length.min(PIECE), ..from }
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Continues the read that is being answered, as far as there is room.
    pub(super) fn poll_reading(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Some(mut reading) = self.reading.take() {
            let piece = reading.next();
            if piece.length == 0 {
                return Ok(());
            }
            if !self.has_room() {
                self.reading = Some(reading);
                return Ok(());
            }
            match self.poll_piece(&mut reading, piece, cx) {
                Poll::Ready(Ok((piece, content))) => {
                    self.send_piece(reading, piece, &content, cx)?;
                }
                Poll::Ready(Err(_)) if reading.owed.length > 0 => return Err(End::Unanswerable),
                Poll::Ready(Err(error)) => {
                    let text = error_text(error);
                    reading.reply.error_at(error, text, piece.offset, self.output.batch());
                }
                Poll::Pending => {
                    self.reading = Some(reading);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether there is a read to continue that does not wait for an execution.
    pub(super) fn reading_begins(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.called.is_none())
    }

    fn poll_piece(
        &self,
        reading: &mut Reading,
        piece: Span,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Span, Content), ErrorCode>> {
        let now = Command::Read { span: piece };
        if reading.called.is_none()
            && let Some(Answer::Read(content)) = self.gate.try_execute(now, &[])
        {
            return Poll::Ready(Ok((piece, content)));
        }
        let called = reading.called.get_or_insert_with(|| {
            let buffer = self.gate.buffers().try_take(piece.length);
            let most = if buffer.is_some() { PIECE } else { SMALL_PIECE };
            let span = Span { length: piece.length.min(most), ..piece };
            let (done, content) = oneshot::channel();
            let gate = self.gate.clone();
            let task = async move {
                let execution = gate.execute(Command::Read { span }, Bytes::new(), None);
                let result = gate.finish(execution).await;
                let content = result.map(|answer| match answer {
                    Answer::Read(content) => content.into_copy(),
                    Answer::Done | Answer::Extents(_) => unreachable!("it is a read"),
                });
                // This fails if the connection is gone, and then nobody needs the result.
                let _ = done.send((content, buffer));
            };
            self.gate.spawn(task, false);
            Called { span, content }
        });
        let span = called.span;
        let polled = Pin::new(&mut called.content).poll(cx);
        polled.map(|content| {
            reading.called = None;
            // The sender is dropped if there are no threads.
            let (content, _buffer) = content.unwrap_or((Err(ErrorCode::NoMem), None));
            Ok((span, content?))
        })
    }

    /// Sends the content of a piece. What finds no room is read again later.
    fn send_piece(
        &mut self,
        mut reading: Reading,
        piece: Span,
        content: &Content,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let room = self.peer.room();
        let reply = reading.reply;
        if reading.owed.length == 0 && reply.is_one_run() {
            // The header announces the whole read.
            let run = Run { span: reading.rest, hole: false, last: true };
            reply.run(&run, self.output.batch());
            reading.owed = reading.rest;
            reading.rest = reading.rest.after(reading.rest.length);
        }
        if reading.owed.length > 0 {
            let left = self.output.go_on(&mut self.stream, cx, piece.length, content, room)?;
            reading.owed = reading.owed.after(piece.length - left);
        } else {
            let after = reading.rest.after(piece.length);
            let read = Read { reply, span: piece, content, ends: after.length == 0, room };
            match self.output.read(&mut self.stream, cx, &read)? {
                None => reading.rest = after,
                Some(Unsent { owed, rest }) => {
                    reading.owed = owed;
                    reading.rest = Span { length: rest.length + after.length, ..rest };
                }
            }
        }
        self.reading = Some(reading);
        Ok(())
    }
}
