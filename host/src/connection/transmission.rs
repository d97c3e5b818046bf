//! The transmission phase: requests in, replies out.
//!
//! All requests that arrive with one read from the socket are executed before anything is sent, and
//! small replies are sent together. A request is a future that is polled once where it was parsed.
//! If it is not ready then, it is spawned as a task, so that a slow request does not delay the
//! others, a slow client does not block a disk, and a client that goes away does not interrupt a
//! guest.

mod ahead;
mod begin;
mod deferred;
mod description;
mod execution;
mod input;
mod inside;
mod pace;
mod reading;
mod refusal;
mod request;
mod throttled;
mod waiting;
mod write;

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::sync::watch;
use tokio::time::Sleep;

use super::output::Output;
use super::peers::{Peer, Waits};
use super::{End, Phase};
use crate::device::{Execution, Gate, MetaContext, Meter, Tap};
use crate::nbd::{Request, Session, Verdict};
use crate::rate::Allowance;
use crate::transport::Stream;
use deferred::Deferred;
use execution::InFlight;
use input::INPUT_MIN;
use pace::Pace;
use reading::Reading;
use request::{Awaited, Refused, Waiting, Write};
use throttled::Throttled;

/// How long to go on executing for a client that closed its side of the stream, while there is nothing to
/// send that would show whether it still reads; and how long one may take for its last replies whose
/// export was removed.
const HUNG_UP_TIME: Duration = Duration::from_secs(10);

/// A connection after its handshake.
pub(super) struct Transmission<S> {
    pub(super) stream: S,
    session: Session,
    /// The metadata contexts that were selected besides `base:allocation`, in the order of their ids.
    contexts: Box<[Arc<MetaContext>]>,
    gate: Arc<Gate>,
    /// On the heap, as the next field, for futures are moved.
    meter: Box<Meter>,
    tap: Box<Tap>,
    /// The limits of what is transferred in a second.
    allowance: Allowance,
    /// The gate was entered. It is left at the end of each poll, unless a request is under way of
    /// which a part was executed: one device executes all of it.
    inside: bool,
    /// The waker that the gate has for when the device is replaced.
    registered: Option<Waker>,
    /// Bytes that were received and not parsed yet.
    input: BytesMut,
    /// The length up to which the next read fills the input.
    input_room: usize,
    state: State,
    output: Output,
    /// Memory for the next request's execution.
    slot: Option<Execution>,
    in_flight: InFlight,
    /// Requests whose guest waits for its share of the processors.
    deferred: Deferred,
    /// A read whose reply exceeds what may be buffered. Nothing else is sent until it is complete.
    reading: Option<Reading>,
    peer: Peer,
    /// The stream did not accept all of the output.
    blocked: bool,
    /// The number of bytes received.
    total: u64,
    /// The current thread serves this connection only.
    own_thread: bool,
    draining: bool,
    pace: Pace,
    /// Since the last header, payload was received directly into the device's memory.
    received: bool,
    /// The number of requests in the input that were prefetched for.
    seen: usize,
    /// Requests started since the last report to the dedicated thread.
    begun: usize,
}

/// What counts the requests of a connection.
pub(super) struct Counts {
    pub(super) meter: Box<Meter>,
    pub(super) tap: Box<Tap>,
}

/// What the next bytes of the input are.
enum State {
    /// A request header.
    Header,
    /// The payload of an admitted write.
    Write(Write),
    /// The payload of BLOCK_STATUS.
    Filter { request: Request, data: Vec<u8>, missing: usize },
    /// Not looked at: the request before them waits for memory.
    Waiting { waiting: Waiting, buffer: Awaited },
    /// Not looked at: the request before them exceeds a limit.
    Throttled(Box<Throttled>),
    /// The payload of a refused request, which is discarded.
    Drain { refused: Refused, missing: u64 },
    /// None: the client sent NBD_CMD_DISC.
    Finished,
    /// None: the client closed its side of the stream between two requests, or its export was removed. It
    /// may still read replies.
    HungUp(Pin<Box<Sleep>>),
}

impl State {
    fn hung_up() -> Self {
        Self::HungUp(Box::pin(tokio::time::sleep(HUNG_UP_TIME)))
    }
}

/// Why [`Transmission::run`] returns.
pub(super) enum Exit {
    /// The connection has ended.
    End(End),
    /// The connection is busy enough for a thread of its own.
    Busy,
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Creates the transmission phase. `input` is what was received beyond the handshake.
    pub(super) fn new(
        stream: S,
        session: Session,
        gate: Arc<Gate>,
        Counts { meter, tap }: Counts,
        allowance: Allowance,
        peer: Peer,
        input: Vec<u8>,
    ) -> Self {
        let input = BytesMut::from(input.as_slice());
        Self {
            stream,
            session,
            contexts: Box::default(),
            gate,
            meter,
            tap,
            allowance,
            inside: false,
            registered: None,
            input,
            input_room: INPUT_MIN,
            state: State::Header,
            output: Output::default(),
            slot: None,
            in_flight: InFlight::new(),
            deferred: Deferred::default(),
            reading: None,
            peer,
            blocked: false,
            total: 0,
            own_thread: false,
            draining: false,
            pace: Pace::default(),
            received: false,
            seen: 0,
            begun: 0,
        }
    }

    /// Returns it with the metadata contexts that were selected besides `base:allocation`.
    pub(super) fn with_contexts(mut self, contexts: Box<[Arc<MetaContext>]>) -> Self {
        self.contexts = contexts;
        self
    }

    /// Serves until the connection ends or, if `may_be_busy`, until it is busy. The future is
    /// cancel safe: it may be dropped between any two polls and be created again.
    pub(super) async fn run(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        may_be_busy: bool,
    ) -> Exit {
        self.pace.watch(may_be_busy);
        self.own_thread = self.stream.socket().is_some_and(|socket| socket.alone().is_some());
        loop {
            match *phase.borrow_and_update() {
                Phase::Serving => {}
                Phase::Draining => self.draining = true,
                Phase::Closing => return Exit::End(End::Stopped),
            }
            // No guest runs in the future that `select!` may drop: executions that are not ready at
            // once are spawned.
            tokio::select! {
                // Requests that arrive after the server was told to stop are refused.
                biased;
                changed = phase.changed() => if changed.is_err() {
                    return Exit::End(End::Stopped);
                },
                exit = poll_fn(|cx| self.poll(cx)) => {
                    if let State::Finished = self.state {
                        tokio::select! {
                            () = poll_fn(|cx| self.poll_in_flight(cx)) => {}
                            _ = phase.wait_for(|&phase| phase == Phase::Closing) => {}
                        }
                    }
                    return exit;
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        match self.peer.closed() {
            Waits::Nothing => {}
            Waits::Request => return Poll::Ready(Exit::End(End::Idle)),
            Waits::Rest => return Poll::Ready(Exit::End(End::Stalled)),
            Waits::Disconnection => return Poll::Ready(Exit::End(End::ByRequest)),
            Waits::End => return Poll::Ready(Exit::End(End::TimeLimit)),
        }
        if self.peer.take_look() && self.stream.socket().is_some_and(|socket| socket.is_hung_up()) {
            return Poll::Ready(Exit::End(End::Transport(io::ErrorKind::ConnectionReset.into())));
        }
        let polled = self.poll_inside(cx);
        if polled.is_pending() {
            self.peer.wait(self.waits(), self.total + self.output.total(), cx.waker());
        }
        polled
    }

    /// What the client has to do next.
    fn waits(&self) -> Waits {
        match &self.state {
            _ if self.blocked => Waits::Rest,
            _ if !self.may_execute() => Waits::Nothing,
            State::Header if !self.input.is_empty() => Waits::Rest,
            State::Header if self.in_flight.count == 0 => Waits::Request,
            State::Write(_) | State::Filter { .. } | State::Drain { .. } => Waits::Rest,
            _ => Waits::Nothing,
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exit, End>> {
        loop {
            self.poll_reading(cx)?;
            self.poll_deferred(cx)?;
            let may_complete = |this: &Self| this.reading.is_none() && this.may_answer();
            while may_complete(self)
                && let Poll::Ready(Some(completed)) = self.in_flight.completed.poll_recv(cx)
            {
                self.complete(completed, cx)?;
            }
            // What waits for room was not polled, so nothing but the output will wake it.
            let waits_for_room = match self.reading {
                Some(_) => !self.has_room(),
                None => !may_complete(self),
            };
            match self.state {
                State::Waiting { .. } if self.reading.is_none() => self.poll_waiting(cx)?,
                State::Throttled(_) => self.poll_throttled(cx)?,
                _ => {}
            }
            let mut needs_input = false;
            while !needs_input && self.may_execute() {
                needs_input = !self.step(cx)?;
            }
            let mut sent = self.output.poll_send(&mut self.stream, cx)?.is_ready();
            if !self.reads_next() {
                // Not needed before a read, for TLS sends what it has buffered then.
                sent &= Pin::new(&mut self.stream).poll_flush(cx)?.is_ready();
            }
            self.meter.end();
            self.blocked = !sent || self.is_piped_left();
            if sent && (waits_for_room || self.reading_begins()) {
                continue;
            }
            let ended = match &mut self.state {
                State::Finished => Some(false),
                State::HungUp(time) => Some(sent && time.as_mut().poll(cx).is_ready()),
                _ => None,
            };
            if let Some(given_up) = ended {
                let done = self.in_flight.count == 0 && self.reading.is_none();
                return match sent && (done || given_up) {
                    true => Poll::Ready(Ok(Exit::End(End::Disconnected))),
                    false => Poll::Pending,
                };
            }
            if !self.may_execute() {
                // Woken when output was sent, a task has completed, or memory is available.
                return Poll::Pending;
            }
            if !needs_input {
                // Sending has made room for requests that were received already.
                continue;
            }
            if self.ends_batch() {
                return Poll::Pending;
            }
            match self.poll_fill(cx)? {
                Poll::Ready(0) => self.hang_up()?,
                Poll::Ready(_) if self.pace.is_busy() => return Poll::Ready(Ok(Exit::Busy)),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reports the number of requests started to the dedicated thread, if there is one. Returns
    /// true if it was reported: the thread then decides when to read on, which it does soon.
    fn ends_batch(&mut self) -> bool {
        let begun = mem::take(&mut self.begun);
        if begun == 0 {
            return false;
        }
        let alone = self.stream.socket().and_then(|socket| socket.alone());
        alone.inspect(|socket| socket.end_batch(begun)).is_some()
    }

    /// Whether the next step is to read from the client.
    fn reads_next(&self) -> bool {
        !matches!(self.state, State::Finished | State::HungUp(_)) && self.may_execute()
    }

    fn may_execute(&self) -> bool {
        self.in_flight.has_room()
            && self.reading.is_none()
            && !matches!(self.state, State::Waiting { .. } | State::Throttled(_))
            && self.has_room()
    }

    /// Whether there is room for the answer of a request under way.
    fn may_answer(&self) -> bool {
        self.output.waiting() <= self.peer.room()
    }

    /// Whether there is room for more output.
    fn has_room(&self) -> bool {
        self.output.waiting() == 0 || self.output.waiting() < self.peer.room() / 2
    }

    /// Handles the end of the client's stream. Between two requests it is a disconnect, but the
    /// client may still wait for replies.
    fn hang_up(&mut self) -> Result<(), End> {
        match self.state {
            State::Header if self.input.is_empty() => {
                self.state = State::hung_up();
                Ok(())
            }
            _ => Err(End::Transport(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Ready when a client from which nothing more is read has had its time to read replies.
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.state {
                State::HungUp(time) => return time.as_mut().poll(cx),
                state => *state = State::hung_up(),
            }
        }
    }

    /// Takes the next request, or the next part of one, from the input. Returns false if it needs
    /// more input.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if let State::Header = self.state {
            // The most frequent state, handled without moving it.
            return self.step_header(cx);
        }
        match mem::replace(&mut self.state, State::Header) {
            State::Write(write) => self.step_write(write, cx),
            State::Filter { request, mut data, missing } => {
                let missing = missing - self.take_input(missing, &mut data);
                if missing > 0 {
                    self.state = State::Filter { request, data, missing };
                    return Ok(false);
                }
                match self.session.admit_filter(&request, &data) {
                    Verdict::Execute(command) => {
                        self.execute(&request, command, cx)?;
                    }
                    Verdict::Describe { span, limit, contexts } => {
                        self.describe(&request, span, limit, contexts, cx)?;
                    }
                    Verdict::Refuse { error, reason } => {
                        self.refuse(&request, 0, error, reason.text())
                    }
                    Verdict::Filter | Verdict::Disconnect => unreachable!("it was judged before"),
                }
                Ok(true)
            }
            State::Drain { refused, missing } => {
                let skipped = missing.min(self.input.len() as u64);
                self.input.advance(skipped as usize);
                if skipped < missing {
                    self.state = State::Drain { refused, missing: missing - skipped };
                    return Ok(false);
                }
                self.answer_refused(refused);
                Ok(true)
            }
            state @ (State::Header
            | State::Finished
            | State::HungUp(_)
            | State::Waiting { .. }
            | State::Throttled(_)) => {
                self.state = state;
                Ok(false)
            }
        }
    }

    fn step_header(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.seen == 0 {
            self.look_ahead();
        }
        let length = self.session.header_len();
        let Some(header) = self.input.get(..length) else { return Ok(false) };
        let request = self.session.parse(header)?;
        self.input.advance(length);
        self.received = false;
        self.seen = self.seen.saturating_sub(1);
        self.begun += 1;
        self.begin(request, cx)?;
        Ok(true)
    }
}

impl<S> Transmission<S> {
    /// Tells executions that the client has gone away.
    pub(super) fn cancel(&self) {
        self.gate.cancel();
    }

    /// Frees the buffers that only a busy connection needs.
    pub(super) fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.input_room = INPUT_MIN;
        }
        self.output.rest();
    }
}

impl<S> Drop for Transmission<S> {
    fn drop(&mut self) {
        self.leave();
        self.cancel();
    }
}
