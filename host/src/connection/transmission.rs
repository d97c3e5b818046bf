//! The transmission phase: requests in, replies out.
//!
//! All requests that one read from the socket brings are executed before anything is sent, and
//! small replies leave together. A request is a future that is polled once where it was parsed; if
//! it is not ready then, it becomes a task of its own, so that a slow one holds up none of the
//! others, a slow client holds up no disk, and a client that goes away interrupts no guest.

mod ahead;
mod execution;
mod input;
mod pace;
mod reading;
mod refusal;
mod request;
mod waiting;
mod write;

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::sync::watch;
use tokio::time::Sleep;

use super::output::Output;
use super::peers::{Peer, Waits};
use super::{End, Phase};
use crate::block::{Command, ErrorCode};
use crate::device::{Execution, Gate};
use crate::nbd::{Admission, Request, Session, Verdict};
use crate::transport::Stream;
use execution::InFlight;
use input::INPUT_MIN;
use pace::Pace;
use reading::Reading;
use request::{Awaited, Refused, Waiting, Write};

/// How long a client that closed its side is still worked for when there is nothing to send, by which
/// it could be seen whether it listens.
const HUNG_UP_TIME: Duration = Duration::from_secs(10);

/// A connection after its handshake.
pub(super) struct Transmission<S> {
    pub(super) stream: S,
    session: Session,
    gate: Arc<Gate>,
    /// What was read and not used yet.
    input: BytesMut,
    /// How long the input may become by the next read.
    input_room: usize,
    state: State,
    output: Output,
    /// Where the next request's future is polled first.
    slot: Option<Execution>,
    in_flight: InFlight,
    /// A read whose reply is longer than what may wait to be sent. Nothing else is sent before it is.
    reading: Option<Reading>,
    peer: Peer,
    /// The stream did not take all that was to be sent.
    blocked: bool,
    /// How many bytes were received.
    total: u64,
    /// The thread serves this connection only.
    own_thread: bool,
    draining: bool,
    pace: Pace,
    /// Since the last header, data was received to where it belongs.
    received: bool,
    /// How many requests that are next were looked at already.
    seen: usize,
    /// Requests started since the last report to the dedicated thread.
    begun: usize,
}

/// What the next bytes are.
enum State {
    /// A header.
    Header,
    /// Data of an admitted write.
    Write(Write),
    /// What a BLOCK_STATUS asks about.
    Filter { request: Request, data: Vec<u8>, missing: usize },
    /// Not of interest yet: there is no memory for the request before them.
    Waiting { waiting: Waiting, buffer: Awaited },
    /// What belongs to a refused request.
    Drain { refused: Refused, missing: u64 },
    /// Nothing: the client said good-bye.
    Finished,
    /// Nothing: the client closed its side between two requests. Perhaps it still listens.
    HungUp(Pin<Box<Sleep>>),
}

/// Why a connection is not served any longer.
pub(super) enum Outcome {
    /// It has ended.
    End(End),
    /// It is worth a thread.
    Busy,
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Begins with `input`: what was read beyond the handshake.
    pub(super) fn new(
        stream: S,
        session: Session,
        gate: Arc<Gate>,
        peer: Peer,
        input: Vec<u8>,
    ) -> Self {
        let input = BytesMut::from(input.as_slice());
        Self {
            stream,
            session,
            gate,
            input,
            input_room: INPUT_MIN,
            state: State::Header,
            output: Output::default(),
            slot: None,
            in_flight: InFlight::new(),
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

    /// Serves until the connection ends, or until it is busy if it `may_be_busy`. It may be dropped
    /// between any two polls, and called again.
    pub(super) async fn run(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        may_be_busy: bool,
    ) -> Outcome {
        self.pace.watch(may_be_busy);
        self.own_thread = self.stream.socket().is_some_and(|socket| socket.alone().is_some());
        loop {
            match *phase.borrow_and_update() {
                Phase::Serving => {}
                Phase::Draining => self.draining = true,
                Phase::Closing => return Outcome::End(End::Stopped),
            }
            // No guest runs in the future that `select!` may drop: what is not ready at once was
            // spawned.
            tokio::select! {
                // What comes after the server was told to stop is refused.
                biased;
                changed = phase.changed() => if changed.is_err() {
                    return Outcome::End(End::Stopped);
                },
                outcome = poll_fn(|cx| self.poll(cx)) => {
                    if let State::Finished = self.state {
                        tokio::select! {
                            () = self.await_in_flight() => {}
                            _ = phase.wait_for(|&phase| phase == Phase::Closing) => {}
                        }
                    }
                    return outcome;
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.peer.closed() {
            Waits::Nothing => {}
            Waits::Request => return Poll::Ready(Outcome::End(End::Idle)),
            Waits::Rest => return Poll::Ready(Outcome::End(End::Stalled)),
        }
        if self.peer.take_look() && self.stream.socket().is_some_and(|socket| socket.is_hung_up()) {
            return Poll::Ready(Outcome::End(End::Transport(
                io::ErrorKind::ConnectionReset.into(),
            )));
        }
        let polled = self.poll_progress(cx).map(|outcome| outcome.unwrap_or_else(Outcome::End));
        if polled.is_pending() {
            self.peer.wait(self.waits(), self.total + self.output.total(), cx.waker());
        }
        polled
    }

    /// What the client is to do next.
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

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome, End>> {
        loop {
            self.poll_reading(cx)?;
            let may_complete =
                |this: &Self| this.reading.is_none() && this.output.waiting() <= this.peer.room();
            while may_complete(self)
                && let Poll::Ready(Some(completed)) = self.in_flight.completed.poll_recv(cx)
            {
                self.complete(completed, cx)?;
            }
            let held_back = !may_complete(self);
            self.poll_waiting(cx)?;
            let mut needs_input = false;
            while !needs_input && self.may_execute() {
                needs_input = !self.step(cx)?;
            }
            let mut sent = self.output.poll_send(&mut self.stream, cx)?.is_ready();
            if !self.reads_next() {
                // Before a read there is no need to: what waits to be sent goes out with it.
                sent &= Pin::new(&mut self.stream).poll_flush(cx)?.is_ready();
            }
            let ended = match &mut self.state {
                State::Finished => Some(false),
                State::HungUp(time) => Some(sent && time.as_mut().poll(cx).is_ready()),
                _ => None,
            };
            if let Some(given_up) = ended {
                let done = self.in_flight.count == 0 && self.reading.is_none();
                return match sent && (done || given_up) {
                    true => Poll::Ready(Ok(Outcome::End(End::Disconnected))),
                    false => Poll::Pending,
                };
            }
            self.blocked = !sent;
            if (held_back || self.reading.is_some()) && sent && !self.reading_waits() {
                // There is room for more.
                continue;
            }
            if !self.may_execute() {
                // Woken when something was sent or is completed, or there is memory.
                return Poll::Pending;
            }
            if !needs_input {
                // Sending has made room for requests that are here already.
                continue;
            }
            if self.ends_batch() {
                return Poll::Pending;
            }
            match self.poll_fill(cx)? {
                Poll::Ready(0) => self.hang_up()?,
                Poll::Ready(_) if self.pace.is_busy() => return Poll::Ready(Ok(Outcome::Busy)),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// If a thread waits for this connection alone, tells it how many requests were begun. Then it is
    /// for the thread to say when to read on, and it does so soon.
    fn ends_batch(&mut self) -> bool {
        let begun = mem::take(&mut self.begun);
        if begun == 0 {
            return false;
        }
        let alone = self.stream.socket().and_then(|socket| socket.alone());
        alone.inspect(|socket| socket.end_batch(begun)).is_some()
    }

    /// Whether the client is listened to.
    fn reads_next(&self) -> bool {
        !matches!(self.state, State::Finished | State::HungUp(_)) && self.may_execute()
    }

    fn may_execute(&self) -> bool {
        self.in_flight.has_room()
            && self.reading.is_none()
            && !matches!(self.state, State::Waiting { .. })
            && self.has_room()
    }

    /// Whether more may be made that is to be sent.
    fn has_room(&self) -> bool {
        self.output.waiting() == 0 || self.output.waiting() < self.peer.room() / 2
    }

    /// The end of the client's stream between two requests is its good-bye, which does not say that
    /// it does not wait for answers any more.
    fn hang_up(&mut self) -> Result<(), End> {
        match self.state {
            State::Header if self.input.is_empty() => {
                self.state = State::HungUp(Box::pin(tokio::time::sleep(HUNG_UP_TIME)));
                Ok(())
            }
            _ => Err(End::Transport(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Takes the next request, or the next part of one, from the input. False when more input is
    /// needed.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if let State::Header = self.state {
            // The most frequent one, without a move.
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
            state
            @ (State::Header | State::Finished | State::HungUp(_) | State::Waiting { .. }) => {
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

    fn begin(&mut self, request: Request, cx: &mut Context<'_>) -> Result<(), End> {
        let Admission { payload, verdict } = self.session.admit(&request)?;
        if self.draining && !matches!(verdict, Verdict::Disconnect) {
            let text = "the server is shutting down";
            self.refuse(&request, payload, ErrorCode::Shutdown, text);
            return Ok(());
        }
        match verdict {
            Verdict::Execute(Command::Write { span, fua }) => {
                self.begin_write(&request, span, fua, cx)?;
            }
            Verdict::Execute(command) => self.execute(&request, command, cx)?,
            Verdict::Filter => {
                let missing = payload as usize;
                self.state = State::Filter { request, data: Vec::new(), missing };
            }
            Verdict::Refuse { error, reason } => {
                self.refuse(&request, payload, error, reason.text());
            }
            Verdict::Disconnect => self.state = State::Finished,
        }
        Ok(())
    }
}

impl<S> Transmission<S> {
    /// Nobody waits for answers any more.
    pub(super) fn cancel(&self) {
        self.gate.cancel();
    }

    /// Gives back the memory that is of use to a busy connection.
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
        self.cancel();
    }
}
