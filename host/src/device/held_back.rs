//! The time for which a limit holds requests back, and their turns to wait for it.
//!
//! The module does not know what is limited.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::clock;

/// How often the time of a request that waits is counted.
pub(super) const COUNTED: Duration = Duration::from_secs(1);

/// The requests that a limit holds back: the first one waits for it, and the others for their turns.
#[derive(Debug)]
pub(super) struct HeldBack {
    turn: Semaphore,
    /// The time for which they were held back, in nanoseconds.
    nanos: AtomicU64,
}

impl Default for HeldBack {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), nanos: AtomicU64::new(0) }
    }
}

impl HeldBack {
    /// Returns the time for which requests were held back.
    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// Takes the turn, unless another request has it.
    pub(super) fn try_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.try_acquire().ok()
    }

    /// Waits for the turn, in the order in which requests come. The time from now on until the turn is dropped
    /// counts, also that of a request that gives up.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let mut waiting = Waiting { held_back: self, since: clock::nanos() };
        let mut turn = pin!(self.turn.acquire());
        let permit = loop {
            match timeout(COUNTED, turn.as_mut()).await {
                Ok(turn) => break turn.expect("it is never closed"),
                Err(_) => waiting.count(),
            }
        };
        Turn { waiting, _permit: permit }
    }
}

/// The turn of a request.
pub(super) struct Turn<'a> {
    waiting: Waiting<'a>,
    _permit: SemaphorePermit<'a>,
}

impl Turn<'_> {
    /// Counts the time until now.
    pub(super) fn count(&mut self) {
        self.waiting.count();
    }
}

/// A request that waits. The rest of the time is counted when this is dropped.
struct Waiting<'a> {
    held_back: &'a HeldBack,
    /// When the time was last counted.
    since: u64,
}

impl Waiting<'_> {
    fn count(&mut self) {
        let now = clock::nanos();
        self.held_back.nanos.fetch_add(now.saturating_sub(self.since), Ordering::Relaxed);
        self.since = now;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count();
    }
}
