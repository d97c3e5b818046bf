//! The instances of an interchangeable component, as many as there are requests at the same time.
//!
//! Idle instances are on a stack, so the one that was used last is used next: a client with one
//! request in flight uses one instance. An instance that no request needed for a while is dropped.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::shard::Shard;
use crate::component::Instance;

/// The most instances: a connection has as many requests in flight.
const MOST: usize = 128;

/// The number of instances that a disk may have however much memory the first one takes. Each takes its
/// memory from the disk's budget all the same.
const ALWAYS_ALLOWED: usize = 16;

/// Beyond [`ALWAYS_ALLOWED`], all instances together may take this fraction of the disk's budget, if
/// each takes as much as the first.
const SHARE: u64 = 16;

/// An instance that was idle for one to two of these is dropped.
const PERIOD: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// The instances of a disk.
pub(super) struct Pool {
    limit: usize,
    state: Mutex<State>,
    /// A permit for each idle instance, in the order of arrival. It is closed with the pool.
    permits: Semaphore,
}

struct State {
    /// Idle instances, the one that was used last at the end.
    idle: VecDeque<Box<Shard>>,
    /// The number of instances: those that are idle, in use, or being started.
    count: usize,
    /// The least number of idle instances since the last period ended.
    least_idle: usize,
    /// A task drops instances that stay idle.
    shrinking: bool,
    closed: bool,
}

/// An instance that is in use, or a place to start one in. It is returned to the pool on drop.
pub(super) struct Pooled {
    /// Always there until drop.
    shard: Option<Box<Shard>>,
    pool: Arc<Pool>,
}

impl Pool {
    /// Creates a pool with the first instance, which takes `memory` bytes of a budget of `budget`.
    pub(super) fn new(first: Instance, memory: u64, budget: u64) -> Arc<Self> {
        let state = State {
            idle: VecDeque::from([Box::new(Shard::new(Some(first)))]),
            count: 1,
            least_idle: 0,
            shrinking: false,
            closed: false,
        };
        let limit = most_instances(memory, budget);
        Arc::new(Self { limit, state: Mutex::new(state), permits: Semaphore::new(1) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle instance, or else a place to start one in. If there are as many instances as
    /// there may be, waits for one. The place is empty if the pool was closed.
    pub(super) async fn take(self: &Arc<Self>) -> Pooled {
        if let Ok(permit) = self.permits.try_acquire() {
            permit.forget();
            return self.pop();
        }
        if let Some(place) = self.place_for_another() {
            return place;
        }
        match self.take_started().await {
            Some(started) => started,
            None => self.place(self.state()),
        }
    }

    /// Takes a started instance, and waits for one if all are busy. Returns `None` if the pool was
    /// closed.
    pub(super) async fn take_started(self: &Arc<Self>) -> Option<Pooled> {
        self.permits.acquire().await.ok()?.forget();
        Some(self.pop())
    }

    /// Takes the idle instance that was used last. The caller has a permit.
    fn pop(self: &Arc<Self>) -> Pooled {
        let mut state = self.state();
        let Some(shard) = state.idle.pop_back() else {
            // The pool was closed after the permit was given.
            return self.place(state);
        };
        state.least_idle = state.least_idle.min(state.idle.len());
        drop(state);
        Pooled { shard: Some(shard), pool: self.clone() }
    }

    /// Returns a place to start another instance in, if there may be another.
    fn place_for_another(self: &Arc<Self>) -> Option<Pooled> {
        let mut state = self.state();
        if state.closed || state.count >= self.limit {
            return None;
        }
        if !state.shrinking
            && let Ok(runtime) = Handle::try_current()
        {
            state.shrinking = true;
            runtime.spawn(shrink(Arc::downgrade(self)));
        }
        Some(self.place(state))
    }

    fn place(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Pooled {
        state.count += 1;
        drop(state);
        Pooled { shard: Some(Box::new(Shard::new(None))), pool: self.clone() }
    }

    fn give_back(&self, shard: Box<Shard>) {
        let mut state = self.state();
        if state.closed || !shard.is_started() {
            state.count -= 1;
            drop(state);
            return drop(shard);
        }
        state.idle.push_back(shard);
        drop(state);
        self.permits.add_permits(1);
    }

    /// Drops the idle instances, and from now on all others as they are returned. Ends all waiting.
    pub(super) fn close(&self) {
        self.permits.close();
        let mut state = self.state();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        state.count -= idle.len();
        drop(state);
        drop(idle);
    }

    /// Removes the instance that has been idle for the longest time, if there is an idle one.
    fn remove_oldest(&self) -> Option<Box<Shard>> {
        self.permits.try_acquire().ok()?.forget();
        let mut state = self.state();
        let oldest = state.idle.pop_front()?;
        state.count -= 1;
        state.least_idle = state.least_idle.min(state.idle.len());
        Some(oldest)
    }

    /// Ends a period. Returns how many instances to drop, which were idle for all of it, or `None` if
    /// there is only one instance left, so that no further periods are needed.
    fn end_period(&self) -> Option<usize> {
        let mut state = self.state();
        if state.closed || state.count <= 1 {
            state.shrinking = false;
            return None;
        }
        let unused = state.least_idle.min(state.count - 1);
        state.least_idle = state.idle.len();
        Some(unused)
    }
}

/// Drops instances that stay idle, until there is one left.
async fn shrink(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(pool) = pool.upgrade() else { return };
        let Some(unused) = pool.end_period() else { return };
        for _ in 0..unused {
            drop(pool.remove_oldest());
            // Unmapping memory takes its time.
            tokio::task::yield_now().await;
        }
    }
}

impl Deref for Pooled {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        self.shard.as_ref().expect("it is there until drop")
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Shard {
        self.shard.as_mut().expect("it is there until drop")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(shard) = self.shard.take() {
            self.pool.give_back(shard);
        }
    }
}

/// Returns how many instances a disk may have, by the memory of the first and the disk's budget.
fn most_instances(memory: u64, budget: u64) -> usize {
    let affordable = budget / SHARE / memory.max(1);
    usize::try_from(affordable).unwrap_or(MOST).clamp(ALWAYS_ALLOWED, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_instances_may_be_more_than_large_ones() {
        const MIB: u64 = 1 << 20;
        assert_eq!(most_instances(MIB, 20 << 30), MOST);
        assert_eq!(most_instances(30 * MIB, 20 << 30), 42);
        assert_eq!(most_instances(30 * MIB, 256 * MIB), ALWAYS_ALLOWED);
        assert_eq!(most_instances(0, u64::MAX), MOST);
        assert_eq!(most_instances(u64::MAX, 0), ALWAYS_ALLOWED);
    }
}
