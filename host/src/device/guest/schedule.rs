//! Where the guests of a disk run: at once on the thread that has the request, or on the threads of
//! their export (`compute`).
//!
//! Threads that do IO for several exports run no guest that could keep them: only the built-in
//! components, whose calls are short, and those no longer than until the clock first interrupts them.
//! A thread of one busy connection runs other guests as well, for it is only that connection which
//! waits. That costs less than a change of threads as long as the calls are short. A component that
//! takes longer pays with time in which all its calls go to the threads of the export, whose
//! priority is low.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::component::poll_guest;
use crate::compute::Compute;
use crate::device::Task;

/// A call that takes no longer than this may take it on the thread of a connection: to change threads
/// costs a good part of it.
const SHORT: Duration = Duration::from_micros(200);

/// For the time that calls take beyond that, they leave so many times as much to others.
const REST: u32 = 20;

/// Where the guests of a disk run.
#[derive(Debug)]
pub(super) struct Schedule {
    compute: Compute,
    /// The component is a built-in one.
    built_in: bool,
    start: Instant,
    /// Until when guests run on their own threads only, in nanoseconds after the start; 0 when they
    /// never did.
    resting: AtomicU64,
}

impl Schedule {
    pub(super) fn new(compute: Compute, built_in: bool) -> Self {
        Self { compute, built_in, start: Instant::now(), resting: AtomicU64::new(0) }
    }

    /// Whether a guest may be called on this thread, which serves one connection only or several.
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

    /// Polls a request on this thread. If it is not ready, tells whether a guest was interrupted.
    #[inline]
    pub(super) fn poll<F>(
        &self,
        request: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> (Poll<F::Output>, bool)
    where
        F: Future + ?Sized,
    {
        if self.built_in {
            return poll_guest(request, cx);
        }
        let begin = Instant::now();
        let polled = poll_guest(request, cx);
        if let Some(excess) = begin.elapsed().checked_sub(SHORT) {
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

    /// Runs what may call a guest to its end, where it keeps nobody waiting.
    pub(super) async fn run<F>(&self, task: F) -> io::Result<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        match self.built_in {
            true => Ok(task.await),
            false => self.compute.run(task).await,
        }
    }

    /// Makes a request that was not ready at once a task of its own. It is dropped if there are no
    /// threads for it.
    pub(super) fn spawn(&self, request: Task, interrupted: bool) {
        if !self.built_in || interrupted {
            return spawn_on(&self.compute, request);
        }
        let compute = self.compute.clone();
        tokio::spawn(async move {
            if let Some(request) = until_interrupted(request).await {
                spawn_on(&compute, request);
            }
        });
    }
}

fn spawn_on(compute: &Compute, request: Task) {
    if let Err(error) = compute.spawn(request) {
        tracing::warn!("no threads for a component: {error}; its requests fail with ENOMEM");
    }
}

/// Polls a request to its end, or until a guest was interrupted: then it comes back. It may wait for
/// others before its guest runs.
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
    use super::*;

    fn schedule(built_in: bool) -> Schedule {
        Schedule::new(Compute::default(), built_in)
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
    }

    #[test]
    fn built_in_components_run_anywhere() {
        let built_in = schedule(true);
        poll(&built_in, Duration::from_millis(10));
        assert!(built_in.may_run_here(true) && built_in.may_run_here(false));
    }
}
