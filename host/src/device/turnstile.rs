//! Keeps users out for a moment, between two uses of something that is to be replaced.
//!
//! It costs its users one atomic instruction to enter and one to leave. It does not know what they use,
//! and wakes nobody: waiting is left to its callers.
//!
//! tokio's RwLock does the same with a queue, which makes each entry as expensive as a lock; arc-swap
//! replaces a pointer, but does not tell when nobody uses the old one any more.

use crate::sync::{AtomicUsize, Ordering};

/// Set while the turnstile is closed.
const CLOSED: usize = 1;

/// What one user inside adds to the state.
const USER: usize = 2;

/// A gate that counts who is inside, and can be closed.
#[derive(Debug, Default)]
pub struct Turnstile {
    /// The number of users inside times [`USER`], and [`CLOSED`].
    state: AtomicUsize,
}

impl Turnstile {
    /// Enters. Returns false if the turnstile is closed.
    #[inline]
    pub fn try_enter(&self) -> bool {
        let add = |state: usize| (state & CLOSED == 0).then_some(state + USER);
        self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, add).is_ok()
    }

    /// Enters once more. Only for users who are inside, who may do so even if the turnstile is closed.
    pub fn enter_again(&self) {
        self.state.fetch_add(USER, Ordering::Relaxed);
    }

    /// Leaves. Returns true if the turnstile is closed and this was the last user inside.
    #[inline]
    pub fn leave(&self) -> bool {
        self.state.fetch_sub(USER, Ordering::Release) == CLOSED + USER
    }

    /// Lets nobody in any more.
    pub fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Returns true if nobody is inside. What was done there has happened before then.
    pub fn is_empty(&self) -> bool {
        self.state.load(Ordering::Acquire) < USER
    }

    /// Lets users in again. What was done before is visible to them.
    pub fn open(&self) {
        self.state.fetch_and(!CLOSED, Ordering::Release);
    }
}
