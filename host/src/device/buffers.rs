//! The memory for the payloads of requests: what clients send and what is read for them, while it
//! is neither in a guest nor sent.
//!
//! Each export has a share, so that its clients do not delay those of other exports. All shares
//! together are bounded for the process; as long as there is enough for every export, a share is
//! its own. Between the two, several exports may have a limit together ([`SharedBuffers`]). A request
//! for which there is no memory waits in a FIFO queue, and nothing more is read from its connection.
//!
//! The module does not know what a request is, or whose exports share a limit.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;

use super::held_back::{COUNTED, HeldBack};
use crate::budget::{Budget, Held};

/// The request memory of a process.
#[derive(Clone, Debug)]
pub struct ProcessBuffers {
    permits: Arc<Semaphore>,
    limit: u64,
}

/// The request memory of an export.
#[derive(Clone, Debug)]
pub struct Buffers {
    export: Arc<Semaphore>,
    /// The limit of several exports together, of which this is one.
    shared: Option<SharedBuffers>,
    /// The process's memory, unless the share is the export's own.
    process: Option<Arc<Semaphore>>,
    /// The most units that one request takes.
    most: u32,
}

/// A limit on the request memory of several exports together, which can change at any time.
#[derive(Clone, Debug)]
pub struct SharedBuffers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    budget: Budget,
    /// Notified when there may be memory for whoever has the turn.
    freed: Notify,
    held_back: HeldBack,
}

/// Memory taken for a request, released when dropped.
#[derive(Debug)]
pub struct Buffer {
    _export: OwnedSemaphorePermit,
    _shared: Option<FromShared>,
    _process: Option<OwnedSemaphorePermit>,
}

/// Memory that counts for the limit of several exports.
#[derive(Debug)]
struct FromShared {
    /// Given back before whoever waits is notified.
    held: Option<Held>,
    shared: SharedBuffers,
}

/// The unit of account, in bytes.
const UNIT: u64 = 4096;

fn units(bytes: u64) -> usize {
    usize::try_from(bytes / UNIT).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

impl ProcessBuffers {
    /// Creates a budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { permits: Arc::new(Semaphore::new(units(limit))), limit }
    }

    /// Returns the limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Creates a share of at most `limit` bytes, for which exports compete.
    pub fn share(&self, limit: u64) -> Buffers {
        Buffers { process: Some(self.permits.clone()), ..Buffers::own(limit.min(self.limit)) }
    }
}

impl Buffers {
    /// Creates a share of `limit` bytes that is the export's own.
    pub fn own(limit: u64) -> Self {
        let units = units(limit);
        Self {
            export: Arc::new(Semaphore::new(units)),
            shared: None,
            process: None,
            most: u32::try_from(units).unwrap_or(u32::MAX),
        }
    }

    /// Returns this share with a limit that holds for others together with it.
    #[must_use]
    pub fn within(self, shared: Option<SharedBuffers>) -> Self {
        Self { shared, ..self }
    }

    /// Returns the units for a number of bytes. A request for more than the limit takes all of it,
    /// so that it is executed when it is the only one.
    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.most)
    }

    /// Takes memory for a request, if there is enough.
    pub fn try_take(&self, bytes: u64) -> Option<Buffer> {
        let units = self.units(bytes);
        let take = |semaphore: &Arc<Semaphore>| -> Result<_, TryAcquireError> {
            semaphore.clone().try_acquire_many_owned(units)
        };
        let export = take(&self.export).ok()?;
        let shared = match &self.shared {
            Some(shared) => Some(shared.try_take(bytes)?),
            None => None,
        };
        let process = self.process.as_ref().map(take).transpose().ok()?;
        Some(Buffer { _export: export, _shared: shared, _process: process })
    }

    /// Waits for memory for a request.
    pub async fn take(self, bytes: u64) -> Buffer {
        let units = self.units(bytes);
        // From the narrowest limit to the widest, so that requests waiting for one hold nothing of what
        // more of the others compete for.
        let export = self.export.acquire_many_owned(units).await.expect("it is never closed");
        let shared = match &self.shared {
            Some(shared) => Some(shared.take(bytes).await),
            None => None,
        };
        let process = match self.process {
            Some(process) => Some(process.acquire_many_owned(units).await),
            None => None,
        };
        let process = process.transpose().expect("it is never closed");
        Buffer { _export: export, _shared: shared, _process: process }
    }
}

impl SharedBuffers {
    /// Creates a limit, in bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Shared {
            budget: Budget::new(limit),
            freed: Notify::new(),
            held_back: HeldBack::default(),
        }))
    }

    /// Changes the limit, also for requests that wait. What is in use beyond it stays so until it is given
    /// back.
    pub fn set_limit(&self, limit: u64) {
        self.0.budget.set_limit(limit);
        self.0.freed.notify_waiters();
    }

    /// Returns the memory in use, in bytes.
    pub fn used(&self) -> u64 {
        self.0.budget.used()
    }

    /// Returns the time for which requests were held back by the limit.
    pub fn held_back(&self) -> Duration {
        self.0.held_back.time()
    }

    /// Takes memory if there is enough and nobody waits.
    fn try_take(&self, bytes: u64) -> Option<FromShared> {
        let _turn = self.0.held_back.try_turn()?;
        self.hold(bytes)
    }

    async fn take(&self, bytes: u64) -> FromShared {
        if let Some(held) = self.try_take(bytes) {
            return held;
        }
        let mut turn = self.0.held_back.turn().await;
        loop {
            let mut freed = pin!(self.0.freed.notified());
            freed.as_mut().enable();
            if let Some(held) = self.hold(bytes) {
                return held;
            }
            let _ = timeout(COUNTED, freed).await;
            turn.count();
        }
    }

    /// A request for more than the limit takes all of it, so that it is executed when it is the only one.
    fn hold(&self, bytes: u64) -> Option<FromShared> {
        let held = Held::take(&self.0.budget, bytes.min(self.0.budget.limit()))?;
        Some(FromShared { held: Some(held), shared: self.clone() })
    }
}

impl Drop for FromShared {
    fn drop(&mut self) {
        drop(self.held.take());
        self.shared.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn an_export_takes_no_more_than_its_share() {
        let process = ProcessBuffers::new(3 * MIB);
        let (a, b) = (process.share(2 * MIB), process.share(2 * MIB));
        let first = a.try_take(MIB).unwrap();
        let _second = a.try_take(MIB).unwrap();
        assert!(a.try_take(1).is_none());
        let _others = b.try_take(MIB).unwrap();
        assert!(b.try_take(1).is_none(), "the process has no more");
        let waiting = tokio::spawn(b.take(MIB));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_for_more_than_all_is_executed_alone() {
        let buffers = Buffers::own(MIB);
        let small = buffers.try_take(1).unwrap();
        assert!(buffers.try_take(64 * MIB).is_none());
        drop(small);
        let large = buffers.try_take(64 * MIB).unwrap();
        assert!(buffers.try_take(1).is_none());
        drop(large);
        buffers.clone().take(u64::MAX).await;
    }

    /// Polls everything that can go on.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn exports_with_a_limit_together_leave_the_rest_to_others() {
        let process = ProcessBuffers::new(8 * MIB);
        let shared = SharedBuffers::new(3 * MIB);
        let [a, b] = [0; 2].map(|_| process.share(4 * MIB).within(Some(shared.clone())));
        let other = process.share(8 * MIB);
        let first = a.try_take(2 * MIB).unwrap();
        let second = b.try_take(MIB).unwrap();
        assert_eq!(shared.used(), 3 * MIB);
        assert!(a.try_take(1).is_none() && b.try_take(1).is_none());
        let waiting = tokio::spawn(a.clone().take(2 * MIB));
        settle().await;
        drop(second);
        assert!(b.try_take(MIB).is_none(), "the other one was there first");
        assert!(other.try_take(5 * MIB).is_some(), "who waits holds nothing of the process's");
        let pause = Duration::from_millis(50);
        tokio::time::sleep(pause).await;
        assert!(!waiting.is_finished());
        drop(first);
        let taken = waiting.await.unwrap();
        assert_eq!(shared.used(), 2 * MIB);
        assert!(shared.held_back() >= pause);
        drop(taken);
        assert_eq!(shared.used(), 0);
    }

    #[tokio::test]
    async fn limit_of_several_changes_for_those_who_wait() {
        let shared = SharedBuffers::new(MIB);
        let buffers = Buffers::own(64 * MIB).within(Some(shared.clone()));
        let first = buffers.try_take(MIB).unwrap();
        let waiting = tokio::spawn(buffers.clone().take(2 * MIB));
        settle().await;
        assert!(!waiting.is_finished());
        shared.set_limit(3 * MIB);
        let second = waiting.await.unwrap();
        assert_eq!(shared.used(), 3 * MIB);
        shared.set_limit(1);
        let waiting = tokio::spawn(buffers.clone().take(MIB));
        drop(first);
        settle().await;
        assert!(!waiting.is_finished(), "more than the limit is in use");
        drop(second);
        let alone = waiting.await.unwrap();
        assert_eq!(shared.used(), 1, "a long request takes all there is");
        assert!(buffers.try_take(1).is_none());
        drop(alone);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_turn_to_the_next() {
        let shared = SharedBuffers::new(MIB);
        let buffers = Buffers::own(64 * MIB).within(Some(shared.clone()));
        let held = buffers.try_take(MIB).unwrap();
        let [gone, next] = [0; 2].map(|_| tokio::spawn(buffers.clone().take(MIB)));
        settle().await;
        gone.abort();
        settle().await;
        drop(held);
        next.await.unwrap();
        assert_eq!(shared.used(), 0);
    }
}
