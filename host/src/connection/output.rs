//! The output of a connection: buffered replies, and the content of reads, which is sent from where
//! it is.
//!
//! The buffer is bounded. Content that the stream does not accept and that finds no room in the
//! buffer is not copied; it is read again when it can be sent.

use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::End;
use crate::block::{Chunk, Span};
use crate::device::{Chunks, Piped};
use crate::nbd::{self, ReplyTo, Run};
use crate::transport::{Stream, poll_write_rest};

/// Content of a read that is shorter than this, in bytes, is copied into the buffer.
const SEND_ALONE: u64 = 32 << 10;

/// The most slices for one system call.
const GATHER: usize = 64;

/// The largest buffer that is kept, in bytes.
const KEEP: usize = 1 << 20;

/// Once this many bytes were sent, and no fewer than are waiting, the waiting ones move to the
/// front.
const MOVE: usize = 64 << 10;

/// The zeroes that are sent for holes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Replies, in the order in which they are sent.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How many of `bytes` were sent.
    sent: usize,
    /// The number of bytes sent on the connection.
    total: u64,
}

/// The part of a read's reply that found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsent {
    /// The rest of the chunk whose header was sent.
    pub(super) owed: Span,
    /// What follows that chunk, of which nothing was sent.
    pub(super) rest: Span,
}

impl Output {
    /// Returns the buffer, to append small replies to.
    pub(super) fn batch(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns the number of bytes waiting to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Returns the number of bytes sent on the connection.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Sends the buffer. Ready when it is empty.
    pub(super) fn poll_send<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        let before = self.sent;
        let polled = poll_write_rest(stream, cx, &self.bytes, &mut self.sent);
        self.total += (self.sent - before) as u64;
        let polled = polled?;
        match polled {
            Poll::Ready(()) => self.clear(),
            Poll::Pending => self.make_room(),
        }
        polled.map(Ok)
    }

    /// Sends the buffer and then the content of pipes. Ready when both are empty.
    pub(super) fn poll_send_piped<S: Stream>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        piped: &mut Piped,
    ) -> Poll<Result<(), End>> {
        ready!(self.poll_send(stream, cx))?;
        while !piped.is_empty() {
            let Some(socket) = stream.plaintext_socket() else {
                return Poll::Ready(Err(End::Unanswerable));
            };
            match ready!(socket.poll_send_by(cx, |socket| piped.send(socket))) {
                Ok(0) => return Poll::Ready(Err(End::Unanswerable)),
                Ok(sent) => self.total += sent as u64,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Frees the buffer if it is empty.
    pub(super) fn rest(&mut self) {
        if self.waiting() == 0 {
            *self = Self { total: self.total, ..Self::default() };
        }
    }

    fn clear(&mut self) {
        self.sent = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        }
    }

    /// Drops bytes that were sent from the buffer, which may never run empty while a client keeps
    /// sending requests.
    fn make_room(&mut self) {
        if self.sent >= MOVE && self.sent >= self.waiting() {
            self.bytes.drain(..mem::take(&mut self.sent));
            self.bytes.shrink_to(KEEP);
        }
    }

    /// Answers a read, or a part of one. Long content is sent at once, from where it is. What the
    /// stream does not accept is copied as far as it fits into `room`, for content must not be held
    /// while the client is slow. Returns what does not fit.
    pub(super) fn read<S, C>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        read: &Read<'_, C>,
    ) -> io::Result<Option<Unsent>>
    where
        S: AsyncWrite + Unpin,
        C: Chunks,
    {
        let &Read { reply, span, content, ends, room } = read;
        let pieces = content.chunks().map(|chunk| match chunk {
            Chunk::Data(data) => nbd::Piece::Data(data.len() as u64),
            Chunk::Hole(length) => nbd::Piece::Hole(u64::from(length)),
        });
        let mut rest = Rest { content, index: 0, skip: 0 };
        for run in reply.runs(span, pieces) {
            let run = Run { last: run.last && ends, ..run };
            let after = span.after(run.span.end() - span.offset);
            if self.waiting() > room {
                let owed = Span { offset: run.span.offset, length: 0 };
                return Ok(Some(Unsent { owed, rest: span.after(run.span.offset - span.offset) }));
            }
            reply.run(&run, &mut self.bytes);
            if run.span.length < SEND_ALONE || run.hole {
                rest.copy(&run, &mut self.bytes);
                continue;
            }
            let left = self.send_run(stream, cx, run.span.length, &mut rest, room)?;
            if left > 0 {
                return Ok(Some(Unsent {
                    owed: run.span.after(run.span.length - left),
                    rest: after,
                }));
            }
        }
        Ok(None)
    }

    /// Sends `content` as the next part of a chunk whose header was sent. Returns how many bytes
    /// found no room.
    pub(super) fn go_on<S, C>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        length: u64,
        content: &C,
        room: usize,
    ) -> io::Result<u64>
    where
        S: AsyncWrite + Unpin,
        C: Chunks,
    {
        self.send_run(stream, cx, length, &mut Rest { content, index: 0, skip: 0 }, room)
    }

    /// Sends the buffer and then `left` bytes of a read. Returns how many of them found no room.
    fn send_run<S, C>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        mut left: u64,
        rest: &mut Rest<'_, C>,
        room: usize,
    ) -> io::Result<u64>
    where
        S: AsyncWrite + Unpin,
        C: Chunks,
    {
        while left > 0 {
            let waited = self.waiting();
            let (written, blocked) = self.gather(stream, cx, left, rest.clone())?;
            let of_those = written.min(waited);
            self.total += written as u64;
            self.sent += of_those;
            if self.waiting() == 0 {
                self.clear();
            }
            let of_read = (written - of_those) as u64;
            rest.pass(of_read);
            left -= of_read;
            if blocked {
                self.make_room();
                let copied = left.min(room.saturating_sub(self.waiting()) as u64);
                self.bytes.reserve_exact(copied as usize);
                rest.append(copied, &mut self.bytes);
                return Ok(left - copied);
            }
        }
        Ok(0)
    }

    /// Writes as many slices as one system call takes, until they are written or the stream blocks.
    /// Returns how many bytes were written, and whether the stream blocks.
    fn gather<S, C>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
        mut left: u64,
        mut rest: Rest<'_, C>,
    ) -> io::Result<(usize, bool)>
    where
        S: AsyncWrite + Unpin,
        C: Chunks,
    {
        let mut slices = [IoSlice::new(&[]); GATHER];
        slices[0] = IoSlice::new(&self.bytes[self.sent..]);
        let mut total = slices[0].len();
        let mut count = 1;
        while count < GATHER && left > 0 {
            let slice = rest.next_slice(left);
            left -= slice.len() as u64;
            total += slice.len();
            slices[count] = IoSlice::new(slice);
            count += 1;
        }
        let mut slices = &mut slices[..count];
        let mut written = 0;
        while written < total {
            match Pin::new(&mut *stream).poll_write_vectored(cx, slices)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => {
                    written += n;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Poll::Pending => return Ok((written, true)),
            }
        }
        Ok((written, false))
    }
}

/// A read to answer, or a part of one.
pub(super) struct Read<'a, C> {
    pub(super) reply: ReplyTo,
    /// The span of the content.
    pub(super) span: Span,
    pub(super) content: &'a C,
    /// Whether the reply ends with this content.
    pub(super) ends: bool,
    /// How many bytes may be buffered.
    pub(super) room: usize,
}

/// A position in the content of a read, and what follows it.
struct Rest<'a, C> {
    content: &'a C,
    /// The index of the chunk.
    index: usize,
    /// The offset within the chunk.
    skip: usize,
}

impl<C> Clone for Rest<'_, C> {
    fn clone(&self) -> Self {
        Self { content: self.content, index: self.index, skip: self.skip }
    }
}

impl<'a, C: Chunks> Rest<'a, C> {
    /// Returns the next bytes, at least one and at most `limit`, zeroes for a hole, and moves past
    /// them.
    fn next_slice(&mut self, limit: u64) -> &'a [u8] {
        let Some(chunk) = self.content.chunk(self.index) else {
            // Content is as long as was asked for; if it were not, zeroes keep the stream aligned.
            return &ZEROES[..(ZEROES.len() as u64).min(limit) as usize];
        };
        let left = chunk.len() - self.skip;
        let taken = match usize::try_from(limit) {
            Ok(limit) => left.min(limit),
            Err(_) => left,
        };
        let slice = match chunk {
            Chunk::Data(data) => &data[self.skip..self.skip + taken],
            Chunk::Hole(_) => &ZEROES[..taken.min(ZEROES.len())],
        };
        self.skip += slice.len();
        if self.skip == chunk.len() {
            self.index += 1;
            self.skip = 0;
        }
        slice
    }

    /// Appends the bytes of a run. A hole has none and is skipped.
    fn copy(&mut self, run: &Run, bytes: &mut Vec<u8>) {
        match run.hole {
            true => self.pass(run.span.length),
            false => self.append(run.span.length, bytes),
        }
    }

    fn append(&mut self, mut left: u64, bytes: &mut Vec<u8>) {
        while left > 0 {
            let slice = self.next_slice(left);
            left -= slice.len() as u64;
            bytes.extend_from_slice(slice);
        }
    }

    fn pass(&mut self, mut left: u64) {
        while left > 0 {
            left -= self.next_slice(left).len() as u64;
        }
    }
}
