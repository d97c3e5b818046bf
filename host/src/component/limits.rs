//! The time limit on calls of guests.
//!
//! What counts is the time that the guest computes, and the time that it chooses to wait for an
//! import, such as a clock. Time in which it could not run does not count: because the process or
//! the machine was stopped, because other threads had the processor, or because it waited for its
//! turn on its thread.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Sleep};

use super::call::Call;
use super::clock::{Clock, TICK};
use super::fault::Fault;

/// How often the elapsed time of a waiting guest is checked. A longer wait counts as this much,
/// because then the process was stopped.
const WAIT: Duration = Duration::from_millis(100);

thread_local! {
    /// Whether a guest was interrupted by the clock on this thread.
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };

    /// Whether the guest that was polled last on this thread waits for a lower device.
    static BELOW: Cell<bool> = const { Cell::new(false) };
}

/// Records that the clock has interrupted a guest on this thread, which is about to yield.
pub(super) fn interrupted() {
    INTERRUPTED.set(true);
}

/// Polls a future, and also returns whether a guest ran until the clock interrupted it, which means
/// that it will probably take longer.
pub fn poll_guest<F>(future: Pin<&mut F>, cx: &mut Context<'_>) -> (Poll<F::Output>, bool)
where
    F: Future + ?Sized,
{
    INTERRUPTED.set(false);
    let polled = future.poll(cx);
    (polled, INTERRUPTED.get())
}

/// Polls a future for which a guest waits in an import. The deadline of the guest does not count the
/// time until the future is ready, and if another guest is interrupted meanwhile, then not this one.
pub(super) fn poll_below<F>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output>
where
    F: Future + ?Sized,
{
    let polled = future.poll(cx);
    INTERRUPTED.set(false);
    BELOW.set(polled.is_pending());
    polled
}

/// The time limit on a guest's calls, and the clock that enforces it.
pub(super) struct Limits {
    pub(super) clock: Arc<Clock>,
    pub(super) deadline: Duration,
}

impl Limits {
    /// Drives a guest's call, for no longer than the deadline.
    ///
    /// Most calls complete at the first poll, so time is measured only for those that do not. When
    /// the deadline passes, the call is dropped midway, and the instance must not be used any more.
    /// `name` is for the error; `None` means that the instance is being started.
    pub(super) async fn within<T>(
        &self,
        name: Option<Call>,
        call: impl Future<Output = wasmtime::Result<T>>,
    ) -> Result<wasmtime::Result<T>, Fault> {
        let mut call = pin!(call);
        let mut spent = Spent::default();
        poll_fn(|cx| {
            self.clock.wake();
            let begin = spent.begin(&self.clock);
            BELOW.set(false);
            let (polled, interrupted) = poll_guest(call.as_mut(), cx);
            if let Poll::Ready(result) = polled {
                return Poll::Ready(Ok(result));
            }
            spent.computed(&self.clock, begin);
            if BELOW.take() {
                return Poll::Pending;
            }
            // A guest that was interrupted has already woken its task.
            while !interrupted && spent.time < self.deadline {
                if spent.poll_wait(self.deadline - spent.time, cx).is_pending() {
                    return Poll::Pending;
                }
            }
            match spent.time < self.deadline {
                true => Poll::Pending,
                false => Poll::Ready(Err(Fault::Deadline(name, self.deadline))),
            }
        })
        .await
    }
}

/// How much of its time a call has spent.
#[derive(Default)]
struct Spent {
    time: Duration,
    /// Whether the call has been polled before.
    again: bool,
    /// When the current wait began, after how long the time is checked, and the timer for that.
    waiting: Option<(Instant, Duration, Pin<Box<Sleep>>)>,
}

/// The state of the clocks when a poll began.
struct Begin {
    ticks: u64,
    /// The CPU time of the thread. `None` at the first poll, where measuring it would cost more
    /// than it is worth.
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

    /// Adds the time of a poll: the CPU time of the thread, but no more than the ticks allow. At
    /// the first poll it is one tick at most.
    fn computed(&mut self, clock: &Clock, begin: Begin) {
        self.again = true;
        let ticks = u32::try_from(clock.ticks() - begin.ticks).unwrap_or(u32::MAX);
        self.time += match begin.thread {
            Some(thread) => (thread_time() - thread).min(TICK.saturating_mul(ticks + 1)),
            None => TICK * ticks.min(1),
        };
    }

    /// Waits for a while with a guest that waits for an import and has `left` of its time. Ready
    /// when that has decreased.
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

/// Returns the CPU time of this thread.
fn thread_time() -> Duration {
    // Every Linux has this clock.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
