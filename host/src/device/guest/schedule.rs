//! Where the guests of a device run: on the IO thread that has the request, or on the compute
//! threads of the export (`compute`).
//!
//! IO threads serve several exports, so they run only the built-in components, whose calls are
//! short, and those only until the clock first interrupts them. The dedicated thread of a busy
//! connection runs other guests as well, for they delay only that connection; as long as calls are
//! short, this costs less than switching threads. A component whose calls take longer is penalized:
//! for a time, all of its calls run on the compute threads, which have low priority.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::used::GuestUse;
use crate::component::poll_guest;
use crate::compute::Compute;
use crate::device::Task;

/// How long a call may take on the dedicated thread of a connection without a penalty. Switching
/// threads costs a good part of this.
const SHORT: Duration = Duration::from_micros(200);

/// The penalty, as a multiple of the time that a call took beyond [`SHORT`].
const REST: u32 = 20;

/// Decides where the guests of a device run.
#[derive(Debug)]
pub(super) struct Schedule {
    compute: Compute,
    /// The component is built in.
    built_in: bool,
    used: GuestUse,
    start: Instant,
    /// The end of the penalty, in nanoseconds after `start`; 0 if there was none.
    resting: AtomicU64,
}

impl Schedule {
    pub(super) fn new(compute: Compute, built_in: bool, used: GuestUse) -> Self {
        Self { compute, built_in, used, start: Instant::now(), resting: AtomicU64::new(0) }
    }

    /// What the guests of the disk used.
    pub(super) fn used(&self) -> &GuestUse {
        &self.used
    }

    /// Whether a guest may run on the calling thread. `own_thread` says that it serves a single
    /// connection.
    #[inline]
    pub(super) fn may_run_here(&self, own_thread: bool) -> bool {
        self.built_in || (own_thread && !self.rests())
    }

    fn rests(&self) -> bool {
        let until = self.resting.load(Ordering::Relaxed);
        until != 0 && self.now() < until
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Polls an execution on the calling thread. If it is pending, the flag tells whether a guest
    /// was interrupted by the clock.
    #[inline]
    pub(super) fn poll<F>(
        &self,
        request: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> (Poll<F::Output>, bool)
    where
        F: Future + ?Sized,
    {
        if self.built_in && self.used.limited().is_none() {
            return poll_guest(request, cx);
        }
        let begin = Instant::now();
        let polled = poll_guest(request, cx);
        let took = begin.elapsed();
        self.used.add(took);
        if self.built_in {
            return polled;
        }
        if let Some(excess) = took.checked_sub(SHORT) {
            self.rest(excess);
        }
        polled
    }

    #[cold]
    fn rest(&self, excess: Duration) {
        let now = self.now();
        let rest = u64::try_from((excess * REST).as_nanos()).unwrap_or(u64::MAX);
        let longer = |until: u64| Some(until.max(now).saturating_add(rest));
        let _ = self.resting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, longer);
    }

    /// Runs a task that may call a guest to its end, where it delays nobody else.
    pub(super) async fn run<F>(&self, task: F) -> io::Result<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        match self.built_in {
            true if self.used.limited().is_some() => Ok(self.used.clone().timed(task).await),
            true => Ok(task.await),
            false => self.compute.run(self.used.clone().timed(task)).await,
        }
    }

    /// Spawns an execution that was not ready at once. It is dropped if there are no threads for
    /// it.
    pub(super) fn spawn(&self, request: Task, interrupted: bool) {
        if !self.built_in || interrupted {
            return spawn_on(&self.compute, self.used.clone().timed(request));
        }
        let (compute, used) = (self.compute.clone(), self.used.clone());
        tokio::spawn(async move {
            let here = until_interrupted(request);
            let left = match used.limited() {
                Some(_) => used.clone().timed(here).await,
                None => here.await,
            };
            if let Some(request) = left {
                spawn_on(&compute, used.timed(request));
            }
        });
    }
}

fn spawn_on(compute: &Compute, request: impl Future<Output = ()> + Send + 'static) {
    if let Err(error) = compute.spawn(request) {
        tracing::warn!(
            "cannot start the threads of a component: {error}; its requests fail with ENOMEM"
        );
    }
}

/// Polls a task to its end, or until the clock interrupts a guest: then the task is returned. It
/// may have to wait for a lock before its guest runs.
async fn until_interrupted(request: Task) -> Option<Task> {
    let mut request = Some(request);
    poll_fn(|cx| {
        let Some(polled) = &mut request else { return Poll::Ready(None) };
        match poll_guest(polled.as_mut(), cx) {
            (Poll::Ready(()), _) => Poll::Ready(None),
            (Poll::Pending, true) => Poll::Ready(request.take()),
            (Poll::Pending, false) => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::super::time::GuestTime;
    use super::*;

    fn schedule(built_in: bool) -> Schedule {
        Schedule::new(Compute::default(), built_in, GuestUse::default())
    }

    fn poll(schedule: &Schedule, time: Duration) {
        let request = std::pin::pin!(async { std::thread::sleep(time) });
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(schedule.poll(request, &mut cx).0.is_ready());
    }

    #[test]
    fn guests_run_where_nobody_else_waits_as_long_as_they_are_quick() {
        let quick = schedule(false);
        assert!(quick.may_run_here(true));
        assert!(!quick.may_run_here(false), "others wait for this thread");
        let slow = schedule(false);
        poll(&slow, Duration::from_millis(100));
        assert!(!slow.may_run_here(true));
        let again = u128::from(slow.resting.load(Ordering::Relaxed));
        assert!(again > Duration::from_secs(1).as_nanos(), "it rests for longer than it took");
        poll(&slow, Duration::from_millis(100));
        assert!(u128::from(slow.resting.load(Ordering::Relaxed)) > again + again / 2);
        assert!(slow.used.time() >= Duration::from_millis(200));
    }

    #[test]
    fn built_in_components_are_measured_where_their_share_is_limited() {
        let time = GuestTime::default();
        let built_in = Schedule::new(Compute::default(), true, GuestUse::within(&time));
        poll(&built_in, Duration::from_millis(10));
        assert_eq!(built_in.used.time(), Duration::ZERO);
        time.set(Some("0.001".parse().unwrap()));
        poll(&built_in, Duration::from_millis(20));
        assert!(built_in.used.time() >= Duration::from_millis(20));
        assert!(time.try_begin().is_err(), "10 ms were left");
        assert!(built_in.may_run_here(false));
    }

    #[test]
    fn built_in_components_run_anywhere() {
        let built_in = schedule(true);
        poll(&built_in, Duration::from_millis(10));
        assert!(built_in.may_run_here(true) && built_in.may_run_here(false));
    }
}
