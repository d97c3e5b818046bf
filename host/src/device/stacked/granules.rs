//! Locks on ranges of a disk, in the order of arrival.
//!
//! A request that waits for a lock occupies an entry of a list, and no thread. The list is as long as
//! there are requests in flight; searching it is faster than maintaining a tree. tokio's locks have no
//! ranges.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::block::Span;

/// The locks of a device.
#[derive(Debug)]
pub(super) struct Granules {
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next entry.
    next: u64,
    /// The locks that are held or waited for, in the order of arrival.
    entries: Vec<Entry>,
}

/// A lock that is held or waited for.
#[derive(Debug)]
struct Entry {
    id: u64,
    /// The bytes of the granules.
    range: Range<u64>,
    exclusive: bool,
    held: bool,
    /// Wakes the task that waits for the lock.
    waker: Option<Waker>,
}

impl Entry {
    fn conflicts(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

impl State {
    fn position(&self, id: u64) -> Option<usize> {
        // Entries are sorted by number.
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    /// Returns true if no earlier entry conflicts with this one.
    fn is_grantable(&self, position: usize) -> bool {
        let entry = &self.entries[position];
        !self.entries[..position].iter().any(|before| before.conflicts(entry))
    }
}

impl Granules {
    /// Creates the locks on granules of `size` bytes, a power of two.
    pub(super) fn new(size: u64) -> Self {
        Self { size, state: Mutex::default() }
    }

    /// Locks the granules that a span touches. Dropping the returned value unlocks them.
    pub(super) async fn lock(&self, span: Span, exclusive: bool) -> Locked<'_> {
        let locked = self.enqueue(span, exclusive);
        Waiting(&locked).await;
        locked
    }

    /// Adds an entry for a lock. The lock is held at once if no earlier entry conflicts with it.
    fn enqueue(&self, span: Span, exclusive: bool) -> Locked<'_> {
        let mask = self.size - 1;
        // The size of a disk is at most 2^63-1, and that of a granule 2^30, so this does not overflow.
        let range = span.offset & !mask..(span.end() + mask) & !mask;
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.entries.push(Entry { id, range, exclusive, held: false, waker: None });
        let last = state.entries.len() - 1;
        state.entries[last].held = state.is_grantable(last);
        Locked { granules: self, id }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the lock is held.
struct Waiting<'a, 'b>(&'a Locked<'b>);

impl Future for Waiting<'_, '_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.granules.state();
        let Some(position) = state.position(self.0.id) else { return Poll::Ready(()) };
        let entry = &mut state.entries[position];
        if entry.held {
            return Poll::Ready(());
        }
        entry.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A lock that is held or waited for. Dropping it unlocks the granules, or stops waiting.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    granules: &'a Granules,
    id: u64,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut state = self.granules.state();
        let Some(position) = state.position(self.id) else { return };
        let gone = state.entries.remove(position);
        let mut wakers = Vec::new();
        for position in position..state.entries.len() {
            let entry = &state.entries[position];
            if entry.held || !entry.conflicts(&gone) || !state.is_grantable(position) {
                continue;
            }
            let entry = &mut state.entries[position];
            entry.held = true;
            wakers.extend(entry.waker.take());
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    fn span(offset: u64, length: u64) -> Span {
        Span { offset, length }
    }

    #[test]
    fn requests_conflict_where_their_granules_do() {
        let granules = Granules::new(4096);
        let first = granules.lock(span(4000, 1), true).now_or_never().expect("it is free");
        assert!(granules.lock(span(0, 512), true).now_or_never().is_none(), "the same granule");
        assert!(
            granules.lock(span(4095, 2), false).now_or_never().is_none(),
            "one of its granules"
        );
        let second = granules.lock(span(4096, 1), true).now_or_never().expect("another granule");
        drop(first);
        assert!(granules.lock(span(0, 512), true).now_or_never().is_some());
        assert!(granules.lock(span(4095, 2), false).now_or_never().is_none());
        drop(second);
        assert!(
            granules.state().entries.is_empty(),
            "locks that are no longer waited for are gone"
        );
    }

    #[test]
    fn readers_share_and_do_not_overtake_a_writer_who_waits() {
        let granules = Granules::new(1);
        let first = granules.lock(span(0, 10), false).now_or_never().unwrap();
        let second = granules.lock(span(5, 10), false).now_or_never().expect("they share");
        let mut writer = Box::pin(granules.lock(span(0, 20), true));
        assert!(writer.as_mut().now_or_never().is_none());
        let mut late = Box::pin(granules.lock(span(0, 1), false));
        assert!(late.as_mut().now_or_never().is_none(), "the writer came first");
        assert!(granules.lock(span(20, 1), false).now_or_never().is_some(), "it is elsewhere");
        drop(first);
        assert!(writer.as_mut().now_or_never().is_none(), "there is another reader");
        drop(second);
        let writing = writer.as_mut().now_or_never().expect("its turn");
        assert!(late.as_mut().now_or_never().is_none());
        drop(writing);
        assert!(late.as_mut().now_or_never().is_some());
    }

    #[test]
    fn whoever_gives_up_lets_the_next_pass() {
        let granules = Granules::new(1);
        let first = granules.lock(span(0, 10), false).now_or_never().unwrap();
        let mut writer = Box::pin(granules.lock(span(0, 10), true));
        assert!(writer.as_mut().now_or_never().is_none());
        let mut reader = Box::pin(granules.lock(span(0, 10), false));
        assert!(reader.as_mut().now_or_never().is_none());
        drop(writer);
        assert!(reader.as_mut().now_or_never().is_some());
        drop(first);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn tasks_that_add_lose_nothing() {
        let granules = Arc::new(Granules::new(8));
        let cells: Arc<Vec<_>> =
            Arc::new((0..4).map(|_| std::sync::atomic::AtomicU64::new(0)).collect());
        let task = |number: u64| {
            let (granules, cells) = (granules.clone(), cells.clone());
            async move {
                for round in 0..500 {
                    let cell = (number + round) % 4;
                    let _locked = granules.lock(span(cell * 8 + number % 8, 1), true).await;
                    let cell = &cells[cell as usize];
                    let before = cell.load(std::sync::atomic::Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    cell.store(before + 1, std::sync::atomic::Ordering::Relaxed);
                }
            }
        };
        let tasks: Vec<_> = (0..8).map(|number| tokio::spawn(task(number))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let sum: u64 =
            cells.iter().map(|cell| cell.load(std::sync::atomic::Ordering::Relaxed)).sum();
        assert_eq!(sum, 8 * 500);
        assert!(granules.state().entries.is_empty());
    }
}
