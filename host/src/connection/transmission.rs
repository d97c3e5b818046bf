//! The transmission phase: requests in, replies out.
//!
//! All requests that one read from the socket brings are executed before anything is sent, and
//! small replies leave together. A request is a future that is polled once where it was parsed; if
//! it is not ready then, it becomes a task of its own, so that a slow one holds up none of the
//! others, a slow client holds up no disk, and a client that goes away interrupts no guest.

mod execution;

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::ReusableBoxFuture;

use super::output::Output;
use super::{End, Phase};
use crate::block::{Command, ErrorCode};
use crate::disk::Access;
use crate::nbd::{Admission, Request, Session, Verdict};
use execution::{Execution, InFlight};

/// How much is read from the socket at once, at first.
const INPUT_MIN: usize = 4 << 10;

/// And at most, once a client has shown that it sends so much.
const INPUT_MAX: usize = 256 << 10;

/// So much of a payload, or more, is read to where it is needed; less takes the way of the input,
/// together with what follows it.
const PAYLOAD_ALONE: usize = 32 << 10;

/// No further request is executed while this many bytes wait for the client to take them.
const OUTPUT_HIGH_WATER: usize = 256 << 10;

/// How long a client that closed its side is still worked for when there is nothing to send, by which
/// it could be seen whether it listens.
const HUNG_UP_TIME: Duration = Duration::from_secs(10);

/// A connection after its handshake.
pub(super) struct Transmission<'a, S> {
    stream: &'a mut S,
    session: Session,
    access: Arc<Access>,
    /// What was read and not used yet is from `start` on.
    input: Vec<u8>,
    start: usize,
    state: State,
    output: Output,
    /// Where the next request's future is polled first.
    slot: Option<ReusableBoxFuture<'static, Execution>>,
    pool: Vec<Vec<u8>>,
    in_flight: InFlight,
    draining: bool,
}

/// What the next bytes are.
enum State {
    /// A header.
    Header,
    /// Data of an admitted write: so many bytes are still to come.
    Payload { request: Request, command: Command, data: Vec<u8>, missing: usize },
    /// What a BLOCK_STATUS asks about.
    Filter { request: Request, data: Vec<u8>, missing: usize },
    /// What belongs to a refused request.
    Drain { missing: u64 },
    /// Nothing: the client said good-bye.
    Finished,
    /// Nothing: the client closed its side between two requests. Perhaps it still listens.
    HungUp(Pin<Box<Sleep>>),
}

impl<'a, S> Transmission<'a, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Begins with `input`: what was read beyond the handshake.
    pub(super) fn new(
        stream: &'a mut S,
        session: Session,
        access: Arc<Access>,
        input: Vec<u8>,
    ) -> Self {
        Self {
            stream,
            session,
            access,
            input,
            start: 0,
            state: State::Header,
            output: Output::default(),
            slot: None,
            pool: Vec::new(),
            in_flight: InFlight::new(),
            draining: false,
        }
    }

    /// Serves until the connection ends.
    pub(super) async fn run(&mut self, mut phase: watch::Receiver<Phase>) -> End {
        loop {
            match *phase.borrow_and_update() {
                Phase::Serving => {}
                Phase::Draining => self.draining = true,
                Phase::Closing => return End::Stopped,
            }
            // No guest runs in the future that `select!` may drop: what is not ready at once was
            // spawned.
            tokio::select! {
                // What comes after the server was told to stop is refused.
                biased;
                changed = phase.changed() => if changed.is_err() {
                    return End::Stopped;
                },
                end = poll_fn(|cx| self.poll(cx)) => {
                    if let State::Finished = self.state {
                        tokio::select! {
                            () = self.outlast() => {}
                            _ = phase.wait_for(|&phase| phase == Phase::Closing) => {}
                        }
                    }
                    return end;
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.poll_progress(cx) {
            Poll::Ready(Ok(end)) | Poll::Ready(Err(end)) => Poll::Ready(end),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, End>> {
        loop {
            while let Poll::Ready(Some(completed)) = self.in_flight.completed.poll_recv(cx) {
                self.complete(completed, cx)?;
            }
            let mut needs_input = false;
            while !needs_input && self.may_execute() {
                needs_input = !self.step(cx)?;
            }
            let sent = self.output.poll_send(self.stream, cx)?.is_ready();
            let ended = match &mut self.state {
                State::Finished => Some(false),
                State::HungUp(time) => Some(sent && time.as_mut().poll(cx).is_ready()),
                _ => None,
            };
            if let Some(given_up) = ended {
                return match sent && (self.in_flight.count == 0 || given_up) {
                    true => Poll::Ready(Ok(End::Disconnected)),
                    false => Poll::Pending,
                };
            }
            if !self.may_execute() {
                // Woken when something was sent or is completed.
                return Poll::Pending;
            }
            if !needs_input {
                // Sending has made room for requests that are here already.
                continue;
            }
            match self.poll_fill(cx)? {
                Poll::Ready(0) => self.hang_up()?,
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn may_execute(&self) -> bool {
        self.in_flight.has_room() && self.output.waiting() < OUTPUT_HIGH_WATER
    }

    /// The end of the client's stream between two requests is its good-bye, which does not say that
    /// it does not wait for answers any more.
    fn hang_up(&mut self) -> Result<(), End> {
        match self.state {
            State::Header if self.start == self.input.len() => {
                self.state = State::HungUp(Box::pin(tokio::time::sleep(HUNG_UP_TIME)));
                Ok(())
            }
            _ => Err(End::Transport(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Reads what comes: into the payload if much of it is missing, else into the input.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let State::Payload { data, missing, .. } = &mut self.state
            && *missing >= PAYLOAD_ALONE
        {
            let mut buffer = data.limit(*missing);
            let polled = poll_read_buf(Pin::new(&mut *self.stream), cx, &mut buffer);
            if let Poll::Ready(Ok(n)) = &polled {
                *missing -= n;
            }
            return polled;
        }
        self.make_room();
        let room = self.input.capacity() - self.input.len();
        let mut buffer = (&mut self.input).limit(room);
        poll_read_buf(Pin::new(&mut *self.stream), cx, &mut buffer)
    }

    /// Sees that there is room to read. The buffer doubles when the last read filled it.
    fn make_room(&mut self) {
        let full = self.input.len() == self.input.capacity();
        self.input.drain(..mem::take(&mut self.start));
        let capacity = self.input.capacity();
        if capacity < INPUT_MIN {
            self.input.reserve_exact(INPUT_MIN - self.input.len());
        } else if full && capacity < INPUT_MAX {
            self.input.reserve_exact(2 * capacity - self.input.len());
        }
    }

    fn unused(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// Takes the next request, or the next part of one, from the input. False when more input is
    /// needed.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match mem::replace(&mut self.state, State::Header) {
            State::Header => {
                let length = self.session.header_len();
                let Some(header) = self.unused().get(..length) else { return Ok(false) };
                let request = self.session.parse(header)?;
                self.start += length;
                self.begin(request, cx)?;
                Ok(true)
            }
            State::Payload { request, command, mut data, missing } => {
                let missing = missing - self.take_input(missing, &mut data);
                if missing > 0 {
                    self.state = State::Payload { request, command, data, missing };
                    return Ok(false);
                }
                self.execute(&request, command, data, cx)?;
                Ok(true)
            }
            State::Filter { request, mut data, missing } => {
                let missing = missing - self.take_input(missing, &mut data);
                if missing > 0 {
                    self.state = State::Filter { request, data, missing };
                    return Ok(false);
                }
                match self.session.admit_filter(&request, &data) {
                    Verdict::Execute(command) => {
                        self.execute(&request, command, Vec::new(), cx)?;
                    }
                    Verdict::Refuse { error, reason } => {
                        self.refuse(&request, error, reason.text())
                    }
                    Verdict::Filter | Verdict::Disconnect => unreachable!("it was judged before"),
                }
                Ok(true)
            }
            State::Drain { missing } => {
                let skipped = missing.min(self.unused().len() as u64);
                self.start += skipped as usize;
                if skipped < missing {
                    self.state = State::Drain { missing: missing - skipped };
                    return Ok(false);
                }
                Ok(true)
            }
            ended @ (State::Finished | State::HungUp(_)) => {
                self.state = ended;
                Ok(false)
            }
        }
    }

    /// Moves up to `missing` bytes of the input to `data`, and returns how many.
    fn take_input(&mut self, missing: usize, data: &mut Vec<u8>) -> usize {
        let taken = missing.min(self.unused().len());
        data.extend_from_slice(&self.input[self.start..self.start + taken]);
        self.start += taken;
        taken
    }

    fn begin(&mut self, request: Request, cx: &mut Context<'_>) -> Result<(), End> {
        let Admission { payload, verdict } = self.session.admit(&request)?;
        if self.draining && !matches!(verdict, Verdict::Disconnect) {
            self.refuse(&request, ErrorCode::Shutdown, "the server is shutting down");
            self.drain(payload);
            return Ok(());
        }
        match verdict {
            Verdict::Execute(command) if payload > 0 => {
                let missing = payload as usize;
                let mut data = self.pool.pop().unwrap_or_default();
                // Large buffers are filled by the socket itself, so nothing is allocated for a
                // length before its first bytes are here; `limit` in poll_fill bounds the rest.
                data.reserve_exact(missing.min(INPUT_MAX));
                self.state = State::Payload { request, command, data, missing };
            }
            Verdict::Execute(command) => self.execute(&request, command, Vec::new(), cx)?,
            Verdict::Filter => {
                let missing = payload as usize;
                self.state = State::Filter { request, data: Vec::new(), missing };
            }
            Verdict::Refuse { error, reason } => {
                self.refuse(&request, error, reason.text());
                self.drain(payload);
            }
            Verdict::Disconnect => self.state = State::Finished,
        }
        Ok(())
    }

    fn drain(&mut self, payload: u64) {
        if payload > 0 {
            self.state = State::Drain { missing: payload };
        }
    }

    fn refuse(&mut self, request: &Request, error: ErrorCode, text: &str) {
        tracing::debug!(
            "{} {:#x}+{:#x} refused: {text}",
            request.command,
            request.offset,
            request.length
        );
        self.session.reply_to(request).error(error, text, self.output.batch());
    }
}

impl<S> Drop for Transmission<'_, S> {
    fn drop(&mut self) {
        self.access.abandon();
    }
}
