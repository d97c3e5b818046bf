//! Gives memory back to the system after many disks were closed.
//!
//! The C library returns by itself only what is free at the end of an arena. The tables of disks lie between
//! what lives on, so most of their memory would stay resident: 120 MiB after 10,000 disks. When it is asked,
//! the library returns all whole pages that are free, in 1 to 10 ms. Other allocators (mimalloc, jemalloc)
//! return more by themselves, but the server starts or opens disks more slowly with them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How many disks were closed since memory was given back last.
static CLOSED: AtomicUsize = AtomicUsize::new(0);

/// How many closed disks are worth a look at the whole heap.
const WORTH_IT: usize = 100;

/// The time between two looks.
const PAUSE: Duration = Duration::from_secs(5);

/// Counts a disk that was closed.
pub(super) fn count_closed() {
    CLOSED.fetch_add(1, Ordering::Relaxed);
}

/// Gives memory back from time to time, when many disks were closed.
pub(super) async fn give_back() {
    loop {
        tokio::time::sleep(PAUSE).await;
        if CLOSED.load(Ordering::Relaxed) < WORTH_IT {
            continue;
        }
        let closed = CLOSED.swap(0, Ordering::Relaxed);
        let begun = std::time::Instant::now();
        // It takes milliseconds.
        if tokio::task::spawn_blocking(trim).await.is_ok() {
            let took = begun.elapsed();
            tracing::debug!("gave free memory back after {closed} disks were closed, in {took:?}");
        }
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // No crate wraps it.
    // SAFETY: the function has no conditions: it takes no pointers, leaves alone what is allocated, and
    // locks the arenas against other threads (malloc_trim(3): MT-Safe).
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other C libraries return free memory by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
