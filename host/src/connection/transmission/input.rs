//! Reading from the client: to where a payload belongs on the disk, to where it is collected, or into
//! the input.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use tokio_util::io::poll_read_buf;

use super::{State, Transmission};
use crate::device::Mode;
use crate::nbd::MAX_HEADER_LEN;
use crate::transport::Stream;

/// How much is read from the socket at once, at first.
pub(super) const INPUT_MIN: usize = 4 << 10;

/// And at most, once a client has shown that it sends so much. It stays in the processor's cache.
pub(super) const INPUT_MAX: usize = 256 << 10;

/// So much of a payload the input can always hold. A longer one is received where it belongs, or
/// executed in parts, or else collected elsewhere.
pub(super) const PAYLOAD_IN_INPUT: usize = 64 << 10;

/// So much of a payload that is missing is read to where it is needed; less takes the way of the
/// input, together with what follows it.
pub(super) const PAYLOAD_ALONE: usize = 32 << 10;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Reads what comes.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let polled = match self.poll_receive() {
            Some(polled) => polled,
            None => self.poll_read(cx),
        };
        if let Poll::Ready(Ok(n)) = &polled {
            self.total += *n as u64;
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
            // The next payload may go the same way.
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

    /// Receives data of a write to where it belongs on the disk, and the next header behind it. None
    /// when it has to go another way: when the disk has no such place now, or when it is so little
    /// that it is as well received with other requests.
    ///
    /// That is one copy instead of two: of nbdkit's rate at 256 KiB, 1.59 instead of 1.13 over a
    /// Unix socket, and 1.16 instead of 1.01 over TCP.
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
        let mut lease = self.gate.try_lease(write.rest, Mode::Write { fua: write.fua })?;
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

    /// Whether the data of a write could be received to where it belongs, as far as the connection is
    /// concerned.
    pub(super) fn can_receive(&mut self) -> bool {
        self.stream.plaintext_socket().is_some_and(|socket| socket.alone().is_some())
    }

    /// Sees that there is room to read. What was used is used again, unless a request under way has
    /// its payload in it.
    fn make_room(&mut self) {
        let wanted = self.input_room.saturating_sub(self.input.len()).max(1);
        let room = self.input.capacity() - self.input.len();
        // To move what is left for a little more room is not worth it.
        if room <= wanted / 2 {
            self.input.reserve(wanted);
        }
    }

    /// Moves up to `missing` bytes of the input to `data`, and returns how many.
    pub(super) fn take_input(&mut self, missing: usize, data: &mut Vec<u8>) -> usize {
        let taken = missing.min(self.input.len());
        data.extend_from_slice(&self.input[..taken]);
        self.input.advance(taken);
        taken
    }
}
