//! The processor time that the guests of a disk used, and how often they failed.
//!
//! Reading the clock costs a good part of what a short call takes. So time is counted where the clock is
//! read anyway, or where the thread was switched for the guest.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::time::GuestTime;

/// What the guests of a disk used since it was created. Clones are of the same disk.
#[derive(Clone, Debug, Default)]
pub struct GuestUse(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    nanos: AtomicU64,
    faults: AtomicU64,
    /// What the time is charged to as well, if the disk shares processors with others.
    shared: Option<GuestTime>,
}

impl GuestUse {
    /// Creates the use of a disk whose guests have a share of the processors together with others.
    pub fn within(shared: &GuestTime) -> Self {
        let counters = Counters { shared: Some(shared.clone()), ..Counters::default() };
        Self(Arc::new(counters))
    }

    /// Returns the share of the processors, if there is one and it is limited.
    #[inline]
    pub(super) fn limited(&self) -> Option<&GuestTime> {
        self.0.shared.as_ref().filter(|shared| shared.is_limited())
    }

    /// Returns the time of components that are not built in, and of calls of built-in ones that took so
    /// long that another thread went on with them. The other calls of built-in components are measured only
    /// while the disk's share of the processors is limited.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed))
    }

    /// Returns how often an instance failed: it trapped, exceeded a limit, or broke the contract.
    pub fn faults(&self) -> u64 {
        self.0.faults.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(shared) = &self.0.shared {
            shared.charge(time);
        }
    }

    pub(super) fn fault(&self) {
        self.0.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the processor time in which a future is polled.
    pub(super) async fn timed<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let begun = thread_time();
            let polled = future.as_mut().poll(cx);
            self.add(thread_time().saturating_sub(begun));
            polled
        })
        .await
    }
}

/// Returns the processor time that the calling thread has used.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn time_in_which_a_future_waits_is_not_counted() {
        let used = GuestUse::default();
        let pause = Duration::from_millis(50);
        let work = async {
            let begun = thread_time();
            while thread_time() - begun < pause {}
            tokio::time::sleep(4 * pause).await;
        };
        let begun = Instant::now();
        used.clone().timed(work).await;
        assert!(used.time() >= pause && used.time() < begun.elapsed() - 2 * pause);
        assert_eq!(used.faults(), 0);
    }
}
