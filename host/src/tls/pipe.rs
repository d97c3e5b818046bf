//! Memory between OpenSSL and a stream: what arrived and what is to be sent, both encrypted.

use std::io::{self, Read, Write};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::transport::poll_write_rest;

/// How much is read from the stream at once, at first, and at most once a client has shown that it
/// sends so much.
const INPUT_MIN: usize = 4 << 10;
const INPUT_MAX: usize = 128 << 10;

/// When as much waits to be sent no more is encrypted: some records for one system call.
pub(super) const HIGH_WATER: usize = 64 << 10;

/// When as much waits to be sent nothing is read. What is written does not get so far, but what TLS
/// itself answers to a client that asks for new keys again and again, and never reads.
pub(super) const FLOOD: usize = 2 * HIGH_WATER;

/// Both directions. To OpenSSL it is a stream that takes everything and would block when there is
/// nothing to read.
#[derive(Default)]
pub(super) struct Pipe {
    input: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
    output: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
}

impl Pipe {
    /// How much there is to read.
    pub(super) fn readable(&self) -> usize {
        self.input.len() - self.taken
    }

    /// How much waits to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Reads from a stream. It is ready with zero at its end.
    pub(super) fn poll_fill<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        let full = self.input.len() == self.input.capacity();
        self.input.drain(..self.taken);
        self.taken = 0;
        let capacity = self.input.capacity();
        if capacity < INPUT_MIN {
            self.input.reserve_exact(INPUT_MIN);
        } else if full && capacity < INPUT_MAX {
            self.input.reserve_exact(2 * capacity - self.input.len());
        }
        let room = self.input.capacity() - self.input.len();
        poll_read_buf(Pin::new(stream), cx, &mut (&mut self.input).limit(room))
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
        let polled = poll_write_rest(stream, cx, &self.output, &mut self.sent)?;
        // Also when something is left: to a client that always asks for more it may never run empty.
        self.output.drain(..mem::take(&mut self.sent));
        polled.map(Ok)
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.readable().min(buffer.len());
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buffer[..n].copy_from_slice(&self.input[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
