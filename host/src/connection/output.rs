//! What waits to be sent, and reads that go out without waiting.
//!
//! What waits is bounded: of a read, what neither the stream takes nor has room here stays where it is,
//! and is read again when it can be sent.

use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::block::{Chunk, Span};
use crate::device::Content;
use crate::nbd::{self, ReplyTo, Run};
use crate::transport::poll_write_rest;

/// A read below this many bytes is copied into the batch of replies.
const SEND_ALONE: u64 = 32 << 10;

/// How many pieces one system call is given.
const GATHER: usize = 64;

/// A buffer that grew beyond this is not kept.
const KEEP: usize = 1 << 20;

/// When so many bytes were sent, and no fewer than wait, those that wait move to the front.
const MOVE: usize = 64 << 10;

/// Zeroes to send for holes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Replies in the order in which they are to be sent.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How many of them were sent.
    sent: usize,
    /// How many bytes were sent since the beginning.
    total: u64,
}

/// A part of a read's reply that there was no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsent {
    /// What belongs to a chunk whose header was sent.
    pub(super) owed: Span,
    /// What comes after that, of which nothing was sent.
    pub(super) rest: Span,
}

impl Output {
    /// Where small replies are appended.
    pub(super) fn batch(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// How many bytes were sent since the beginning.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Sends what waits. Ready when nothing waits any more.
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

    /// Gives memory back while nothing waits.
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

    /// Sees to it that the buffer does not grow with what was sent: to a client that always asks for
    /// more, it may never run empty.
    fn make_room(&mut self) {
        if self.sent >= MOVE && self.sent >= self.waiting() {
            self.bytes.drain(..mem::take(&mut self.sent));
            self.bytes.shrink_to(KEEP);
        }
    }

    /// Answers a read, or the part of one that `content` is. Much of it is sent at once, from where it
    /// is. What the stream does not take now is copied if it fits into `room`, for the content must
    /// not be held while a client is slow; what does not fit is returned.
    pub(super) fn read<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        read: &Read<'_>,
    ) -> io::Result<Option<Unsent>>
    where
        S: AsyncWrite + Unpin,
    {
        let Read { reply, span, content, ends, room } = *read;
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

    /// Goes on with a chunk whose header was sent: sends `content`, which is a part of it. Returns how
    /// many bytes had no room.
    pub(super) fn go_on<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        length: u64,
        content: &Content,
        room: usize,
    ) -> io::Result<u64>
    where
        S: AsyncWrite + Unpin,
    {
        self.send_run(stream, cx, length, &mut Rest { content, index: 0, skip: 0 }, room)
    }

    /// Sends what waits and then `left` bytes of a read. Returns how many of them had no room.
    fn send_run<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        mut left: u64,
        rest: &mut Rest<'_>,
        room: usize,
    ) -> io::Result<u64>
    where
        S: AsyncWrite + Unpin,
    {
        while left > 0 {
            let waited = self.waiting();
            let (written, blocked) = self.gather(stream, cx, left, *rest)?;
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

    /// Writes as much as one system call can be given, until all of that is written or the stream
    /// takes no more. Returns how many bytes it took, and whether it takes no more.
    fn gather<S>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
        mut left: u64,
        mut rest: Rest<'_>,
    ) -> io::Result<(usize, bool)>
    where
        S: AsyncWrite + Unpin,
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

/// A read that is to be answered, or a part of one.
#[derive(Clone, Copy)]
pub(super) struct Read<'a> {
    pub(super) reply: ReplyTo,
    /// Where on the disk the content is.
    pub(super) span: Span,
    pub(super) content: &'a Content,
    /// The reply ends with it.
    pub(super) ends: bool,
    /// How many bytes may wait.
    pub(super) room: usize,
}

/// The content of a read from some place on.
#[derive(Clone, Copy)]
struct Rest<'a> {
    content: &'a Content,
    /// Of the chunk.
    index: usize,
    /// Bytes of the chunk that are behind.
    skip: usize,
}

impl<'a> Rest<'a> {
    /// Bytes from the place on, at most `limit` and at least one, zeroes where there is a hole. The
    /// place moves behind them.
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

    /// Appends the bytes of a run; of a hole there are none, it is passed over.
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
