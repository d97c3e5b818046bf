//! The buffers between OpenSSL and a stream, for input and output, both encrypted.

use std::io::{self, Read, Write};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::transport::poll_write_rest;

/// How much is read from the stream at once: initially, and at most, once a client has shown that
/// it sends that much.
const INPUT_MIN: usize = 4 << 10;
const INPUT_MAX: usize = 128 << 10;

/// Once this many bytes wait to be sent, nothing more is encrypted: several records for one system
/// call.
pub(super) const HIGH_WATER: usize = 64 << 10;

/// Once this many bytes wait to be sent, nothing is read. Writes never fill that much; only the
/// answers of TLS itself do, to a client that requests new keys again and again and never reads.
pub(super) const FLOOD: usize = 2 * HIGH_WATER;

/// The buffers of both directions. To OpenSSL this is a stream that accepts all writes and would
/// block when there is nothing to read.
#[derive(Default)]
pub(super) struct Pipe {
    input: Vec<u8>,
    /// How much of the input OpenSSL has consumed.
    taken: usize,
    output: Vec<u8>,
    /// How much of the output has been sent.
    sent: usize,
}

impl Pipe {
    /// Returns how many bytes there are to read.
    pub(super) fn readable(&self) -> usize {
        self.input.len() - self.taken
    }

    /// Returns how many bytes wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Reads from a stream. Ready with zero at its end.
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

    /// Sends the pending output. Ready when there is none left.
    pub(super) fn poll_send<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        let polled = poll_write_rest(stream, cx, &self.output, &mut self.sent)?;
        // Even if something is left: with a client that keeps requesting more, the buffer may never
        // be empty.
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
