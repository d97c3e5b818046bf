//! Dropping what takes long to drop: devices and snapshots, whose memory has to be freed.
//!
//! A few threads do that for the whole process. Hundreds of idle disks may be closed at once, and a thread for
//! each would keep a stack and a heap of its own.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most threads that drop at a time.
const MAX_THREADS: usize = 4;

/// What is left to drop.
static QUEUE: Mutex<Queue> = Mutex::new(Queue { left: VecDeque::new(), threads: 0 });

struct Queue {
    left: VecDeque<Box<dyn Discarded>>,
    /// The number of threads that drop.
    threads: usize,
}

/// Anything that can be dropped elsewhere.
trait Discarded: Send {}

impl<T: Send> Discarded for T {}

/// Drops something soon, on another thread. It must be called inside of a tokio runtime.
pub(super) fn discard(what: impl Send + 'static) {
    let mut queue = queue();
    queue.left.push_back(Box::new(what));
    if queue.threads < MAX_THREADS {
        queue.threads += 1;
        let thread = Thread { counted: true };
        drop(queue);
        tokio::task::spawn_blocking(move || thread.drop_all());
    }
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the threads.
struct Thread {
    /// The queue counts it.
    counted: bool,
}

impl Thread {
    fn drop_all(mut self) {
        // The lock is not held while it is dropped.
        while let Some(next) = self.next() {
            drop(next);
        }
    }

    /// Returns what is to be dropped next. If there is nothing, the thread is not counted any more, so whoever
    /// adds something then starts another one.
    fn next(&mut self) -> Option<Box<dyn Discarded>> {
        let mut queue = queue();
        let next = queue.left.pop_front();
        if next.is_none() {
            self.counted = false;
            queue.threads -= 1;
            // There may have been thousands.
            queue.left = VecDeque::new();
        }
        next
    }
}

impl Drop for Thread {
    /// After a panic, or if the runtime ends, the rest is left to the next thread.
    fn drop(&mut self) {
        if self.counted {
            queue().threads -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{self, ThreadId};

    use super::*;

    /// Records on which thread it is dropped.
    struct Dropped(Arc<Mutex<Vec<ThreadId>>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(thread::current().id());
        }
    }

    /// Panics when it is dropped.
    struct Broken(Arc<AtomicUsize>);

    impl Drop for Broken {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("for a test");
        }
    }

    #[tokio::test]
    async fn everything_is_dropped_by_few_threads() {
        let (dropped, broken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        for index in 0..2000 {
            if index % 500 == 0 {
                discard(Broken(broken.clone()));
            }
            discard(Dropped(dropped.clone()));
        }
        let count = || dropped.lock().unwrap().len();
        while count() < 2000 || broken.load(Ordering::Relaxed) < 4 {
            // What a thread leaves that panics is dropped by the next one.
            discard(());
            tokio::task::yield_now().await;
        }
        let mut threads = dropped.lock().unwrap().clone();
        assert!(!threads.contains(&thread::current().id()));
        threads.sort_unstable_by_key(|id| format!("{id:?}"));
        threads.dedup();
        // A thread of the pool that ends with a panic of a task goes on with others.
        assert!(threads.len() <= 2 * MAX_THREADS, "{} threads", threads.len());
    }
}
