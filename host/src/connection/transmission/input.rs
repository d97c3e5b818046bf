//! Receiving from the client: directly into the memory of the device, into the buffer of a payload
//! that is collected, or into the input buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use tokio_util::io::poll_read_buf;

use super::{State, Transmission};
use crate::block::Span;
use crate::device::Mode;
use crate::nbd::MAX_HEADER_LEN;
use crate::transport::Stream;

/// The initial length of the input buffer, in bytes.
pub(super) const INPUT_MIN: usize = 4 << 10;

/// Its greatest length, reached by clients that send so much at once. It fits the processor's
/// cache.
pub(super) const INPUT_MAX: usize = 256 << 10;

/// The longest payload that is always received into the input buffer. A longer one is received
/// directly into the device, executed in parts, or collected in a buffer of its own.
pub(super) const PAYLOAD_IN_INPUT: usize = 64 << 10;

/// The rest of a payload is received into its destination if it is at least this long. A shorter
/// rest is received into the input buffer, together with what follows it.
pub(super) const PAYLOAD_ALONE: usize = 32 << 10;

/// The most that is received into a device at once, in bytes: more than sockets usually hold. It
/// bounds the look-ups for a lease, which are made anew for each part that is received.
pub(super) const RECEIVE_MAX: u64 = 1 << 20;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Receives from the client.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let polled = match self.poll_receive() {
            Some(polled) => polled,
            None => self.poll_read(cx),
        };
        if let Poll::Ready(Ok(n)) = &polled {
            self.total += *n as u64;
            self.meter.begin();
        }
        polled
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let State::Write(write) = &mut self.state {
            let missing = write.missing();
            if let Some(data) = &mut write.collected
                && missing >= PAYLOAD_ALONE
            {
                let mut buffer = data.limit(missing);
                return poll_read_buf(Pin::new(&mut self.stream), cx, &mut buffer);
            }
            self.input_room = self.input_room.max(missing.min(PAYLOAD_IN_INPUT));
        }
        self.make_room();
        let mut room = self.input.capacity() - self.input.len();
        if self.received && matches!(self.state, State::Header) {
            // Stop after the header, so that the next payload can be received directly as well.
            room = room.min(self.session.header_len());
        }
        let mut buffer = (&mut self.input).limit(room);
        let polled = poll_read_buf(Pin::new(&mut self.stream), cx, &mut buffer);
        if let Poll::Ready(Ok(n)) = &polled
            && *n == room
            && self.input.len() >= self.input_room
        {
            self.input_room = (2 * self.input_room).min(INPUT_MAX);
        }
        polled
    }

    /// Receives the payload of a write directly into the memory of the device, and the next header
    /// after it. Returns `None` if there is no lease, or if so little is missing that it is better
    /// received together with other requests.
    ///
    /// This saves one of two copies: compared with nbdkit at 256 KiB, the rate is 1.59 instead of
    /// 1.13 times as high over a Unix socket, and 1.16 instead of 1.01 over TCP.
    fn poll_receive(&mut self) -> Option<Poll<io::Result<usize>>> {
        let State::Write(write) = &mut self.state else { return None };
        let length = write.rest.length;
        let worth_it = self.received || length >= PAYLOAD_ALONE as u64;
        if !worth_it || write.collected.is_some() || !self.input.is_empty() {
            return None;
        }
        let socket = self.stream.plaintext_socket()?.alone()?;
        let mut header = [0; MAX_HEADER_LEN];
        let header = &mut header[..self.session.header_len()];
        let span = Span { length: length.min(RECEIVE_MAX), ..write.rest };
        let mut lease = self.gate.try_lease(span, Mode::Write { fua: write.fua })?;
        let behind = if lease.length() == length { &mut *header } else { &mut [] };
        let polled = socket.poll_receive_to(lease.scatter(behind)?.slices());
        if let Poll::Ready(Ok(n)) = polled {
            let written = (n as u64).min(length);
            write.rest = write.rest.after(written);
            self.input.extend_from_slice(&header[..n - written as usize]);
            self.received = true;
        }
        Some(polled)
    }

    /// Whether this connection can receive directly into a device.
    pub(super) fn can_receive(&mut self) -> bool {
        self.stream.plaintext_socket().is_some_and(|socket| socket.alone().is_some())
    }

    /// Makes room in the input buffer. Its memory is reused, unless a request under way has its
    /// payload there.
    fn make_room(&mut self) {
        let wanted = self.input_room.saturating_sub(self.input.len()).max(1);
        let room = self.input.capacity() - self.input.len();
        // Moving the rest is not worth it for a little more room.
        if room <= wanted / 2 {
            self.input.reserve(wanted);
        }
    }

    /// Moves up to `missing` bytes from the input to `data`. Returns their number.
    pub(super) fn take_input(&mut self, missing: usize, data: &mut Vec<u8>) -> usize {
        let taken = missing.min(self.input.len());
        data.extend_from_slice(&self.input[..taken]);
        self.input.advance(taken);
        taken
    }
}
