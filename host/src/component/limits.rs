//! How long a call of a guest may take.
//!
//! What counts is the time that the guest computes, and the time that it chooses to wait for an
//! import, such as a clock. What does not count is time in which it could not run: because the process
//! or the machine was stopped, because other threads had the processor, or because it had to wait
//! for its turn on its thread.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Sleep};

use super::clock::{Clock, TICK};
use super::fault::Fault;

/// What a guest waits for is looked at this often. A longer wait counts as so much: then the process
/// was stopped.
const WAIT: Duration = Duration::from_millis(100);

thread_local! {
    /// A guest was interrupted by the clock on this thread.
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Says that the clock has interrupted a guest on this thread, which is about to let others run.
pub(super) fn interrupted() {
    INTERRUPTED.set(true);
}

/// Polls a future, and tells whether a guest has run until the clock interrupted it: then it is not
/// one that is soon done.
pub fn poll_guest<F>(future: Pin<&mut F>, cx: &mut Context<'_>) -> (Poll<F::Output>, bool)
where
    F: Future + ?Sized,
{
    INTERRUPTED.set(false);
    let polled = future.poll(cx);
    (polled, INTERRUPTED.get())
}

/// What bounds the time of a guest's calls.
pub(super) struct Limits {
    pub(super) clock: Arc<Clock>,
    pub(super) deadline: Duration,
}

impl Limits {
    /// Drives a guest's call, for no longer than the deadline.
    ///
    /// Most calls are ready at once, so no time is taken before one was not. Past the deadline the call
    /// is dropped half way, and with it any use of the instance.
    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = wasmtime::Result<T>>,
    ) -> Result<wasmtime::Result<T>, Fault> {
        let mut call = pin!(call);
        let mut spent = Spent::default();
        poll_fn(|cx| {
            self.clock.wake();
            let begin = spent.begin(&self.clock);
            let (polled, interrupted) = poll_guest(call.as_mut(), cx);
            if let Poll::Ready(result) = polled {
                return Poll::Ready(Ok(result));
            }
            spent.computed(&self.clock, begin);
            // One that was interrupted has woken its task.
            while !interrupted && spent.time < self.deadline {
                if spent.poll_wait(self.deadline - spent.time, cx).is_pending() {
                    return Poll::Pending;
                }
            }
            match spent.time < self.deadline {
                true => Poll::Pending,
                false => Poll::Ready(Err(Fault::Deadline(self.deadline))),
            }
        })
        .await
    }
}

/// What a call has taken of its time.
#[derive(Default)]
struct Spent {
    time: Duration,
    /// It was polled before.
    again: bool,
    /// Since when it waits, for how long that is not looked at, and the end of that.
    waiting: Option<(Instant, Duration, Pin<Box<Sleep>>)>,
}

/// When a poll began.
struct Begin {
    ticks: u64,
    /// The time that the thread had of the processor; none at the first poll, at which it would cost
    /// more than it tells.
    thread: Option<Duration>,
}

impl Spent {
    #[inline]
    fn begin(&mut self, clock: &Clock) -> Begin {
        if let Some((since, wait, _)) = self.waiting.take() {
            self.time += since.elapsed().min(wait);
        }
        Begin { ticks: clock.ticks(), thread: self.again.then(thread_time) }
    }

    /// Counts a poll: as long as there were ticks and the thread had the processor.
    fn computed(&mut self, clock: &Clock, begin: Begin) {
        self.again = true;
        let ticks = u32::try_from(clock.ticks() - begin.ticks).unwrap_or(u32::MAX);
        self.time += match begin.thread {
            Some(thread) => (thread_time() - thread).min(TICK.saturating_mul(ticks + 1)),
            None => TICK * ticks.min(1),
        };
    }

    /// Waits a while with a guest that waits for an import, of which there may be `left` more. Ready
    /// when that has become less.
    fn poll_wait(&mut self, left: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let wait = left.min(WAIT);
        let begin = || (Instant::now(), wait, Box::pin(tokio::time::sleep(wait)));
        let (_, wait, sleep) = self.waiting.get_or_insert_with(begin);
        let waited = sleep.as_mut().poll(cx).map(|()| *wait);
        waited.map(|wait| {
            self.waiting = None;
            self.time += wait;
        })
    }
}

/// The time that this thread had of the processor.
fn thread_time() -> Duration {
    // There is such a clock on every Linux.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
