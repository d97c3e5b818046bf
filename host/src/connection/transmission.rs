//! The transmission phase: requests in, replies out.
//!
//! All requests that one read from the socket brings are executed before anything is sent, and
//! small replies leave together. A request is a future that is polled once where it was parsed; if
//! it is not ready then, it becomes a task of its own, so that a slow one holds up none of the
//! others, a slow client holds up no disk, and a client that goes away interrupts no guest.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::ReusableBoxFuture;

use super::output::Output;
use super::{End, Phase};
use crate::block::{Command, ErrorCode, Span};
use crate::disk::{Access, Answer};
use crate::nbd::{Admission, ReplyTo, Request, Session, Verdict};

/// How much is read from the socket at once, at first.
const INPUT_MIN: usize = 4 << 10;

/// And at most, once a client has shown that it sends so much.
const INPUT_MAX: usize = 256 << 10;

/// So much of a payload, or more, is read to where it is needed; less takes the way of the input,
/// together with what follows it.
const PAYLOAD_ALONE: usize = 32 << 10;

/// How many requests of a connection may be under way that were not ready at once.
const MAX_IN_FLIGHT: usize = 128;

/// How many bytes they may write and read together. One request may always be under way.
const MAX_IN_FLIGHT_BYTES: u64 = 64 << 20;

/// No further request is executed while this many bytes wait for the client to take them.
const OUTPUT_HIGH_WATER: usize = 256 << 10;

/// Payload buffers that are kept for the next write: how many, and how large at most.
const POOL_COUNT: usize = 2;
const POOL_MAX: usize = 4 << 20;

/// The text of EIO: the cause is in the server's log, and none of the client's business.
const FAILED: &str = "the disk could not do it; the server's log says why";

type Execution = (Result<Answer, ErrorCode>, Vec<u8>);

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
}

/// Requests that are tasks of their own.
struct InFlight {
    count: usize,
    bytes: u64,
    done: mpsc::UnboundedSender<Completed>,
    completed: mpsc::UnboundedReceiver<Completed>,
}

struct Completed {
    request: Executed,
    result: Result<Answer, ErrorCode>,
    payload: Vec<u8>,
}

/// What must be known of a request to answer it.
#[derive(Clone, Copy)]
struct Executed {
    reply: ReplyTo,
    span: Span,
    read: bool,
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
        // Unbounded, but for the number of tasks.
        let (done, completed) = mpsc::unbounded_channel();
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
            in_flight: InFlight { count: 0, bytes: 0, done, completed },
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
                end = poll_fn(|cx| self.poll(cx)) => return end,
                changed = phase.changed() => if changed.is_err() {
                    return End::Stopped;
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
            if let State::Finished = self.state {
                return match sent && self.in_flight.count == 0 {
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
                Poll::Ready(0) => return Poll::Ready(self.hung_up()),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn may_execute(&self) -> bool {
        self.in_flight.count < MAX_IN_FLIGHT
            && self.in_flight.bytes < MAX_IN_FLIGHT_BYTES
            && self.output.waiting() < OUTPUT_HIGH_WATER
    }

    /// The end of the client's stream is its good-bye between two requests.
    fn hung_up(&self) -> Result<End, End> {
        match self.state {
            State::Header if self.start == self.input.len() => Ok(End::Disconnected),
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
            State::Finished => {
                self.state = State::Finished;
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

    /// Starts a request; if that is all it takes, answers it.
    fn execute(
        &mut self,
        request: &Request,
        command: Command,
        data: Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let (span, read) = match command {
            Command::Read { span } => (span, true),
            Command::Write { span, .. }
            | Command::Zero { span, .. }
            | Command::Trim { span, .. }
            | Command::Cache { span }
            | Command::Extents { span, .. } => (span, false),
            Command::Flush => (Span { offset: 0, length: 0 }, false),
        };
        let executed = Executed { reply: self.session.reply_to(request), span, read };
        let held = match command {
            Command::Read { .. } | Command::Write { .. } => span.length,
            _ => 0,
        };
        let execution = self.access.clone().execute(command, data);
        let slot = match &mut self.slot {
            Some(slot) => {
                slot.set(execution);
                slot
            }
            None => self.slot.insert(ReusableBoxFuture::new(execution)),
        };
        if let Poll::Ready((result, data)) = slot.poll(cx) {
            self.recycle(data);
            return self.answer(executed, result, cx);
        }
        let Some(slot) = self.slot.take() else { unreachable!("it was filled above") };
        self.in_flight.count += 1;
        self.in_flight.bytes += held;
        let done = self.in_flight.done.clone();
        tokio::spawn(async move {
            let (result, payload) = slot.await;
            // The disk is not held while the connection is busy.
            let result = result.map(|answer| match answer {
                Answer::Read(content) => Answer::Read(content.into_copy()),
                answer => answer,
            });
            // The connection may be gone; then nobody needs the answer.
            let _ = done.send(Completed { request: executed, result, payload });
        });
        Ok(())
    }

    fn complete(&mut self, completed: Completed, cx: &mut Context<'_>) -> Result<(), End> {
        let Completed { request, result, payload } = completed;
        self.in_flight.count -= 1;
        self.in_flight.bytes -= match request.read {
            true => request.span.length,
            false => payload.len() as u64,
        };
        self.recycle(payload);
        self.answer(request, result, cx)
    }

    fn recycle(&mut self, mut data: Vec<u8>) {
        if (1..=POOL_MAX).contains(&data.capacity()) && self.pool.len() < POOL_COUNT {
            data.clear();
            self.pool.push(data);
        }
    }

    fn answer(
        &mut self,
        request: Executed,
        result: Result<Answer, ErrorCode>,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let Executed { reply, span, read } = request;
        match result {
            Ok(Answer::Done) => reply.success(self.output.batch()),
            Ok(Answer::Read(content)) => {
                self.output.read(self.stream, cx, reply, span, &content)?;
            }
            Ok(Answer::Extents(extents)) => {
                reply.block_status(span, &extents, self.output.batch());
            }
            Err(error) if read => {
                reply.error_at(error, error_text(error), span.offset, self.output.batch());
            }
            Err(error) => reply.error(error, error_text(error), self.output.batch()),
        }
        Ok(())
    }
}

fn error_text(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::Perm => "the disk does not permit it",
        ErrorCode::Io => FAILED,
        ErrorCode::NoMem => "out of memory",
        ErrorCode::Inval => "the disk does not accept it",
        ErrorCode::NoSpc => "no space left on the disk",
        ErrorCode::Overflow => "too large for the disk",
        ErrorCode::NotSup => "zeroing would not be fast here",
        ErrorCode::Shutdown => "the server is shutting down",
    }
}

impl<S> Drop for Transmission<'_, S> {
    fn drop(&mut self) {
        self.access.abandon();
    }
}
