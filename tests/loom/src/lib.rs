//! Modules of the host as they are, on loom's locks and atomics.

/// What the host has in its own module of this name.
mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
}

/// A clock that stands still: what is done must not depend on the time.
mod clock {
    pub(crate) fn nanos() -> u64 {
        0
    }
}

/// What an account needs of the host's module of this name. There is one operation here, for each takes
/// more than a hundred counters.
pub mod block {
    /// What a command does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Operation {
        /// Read.
        Read,
    }

    impl Operation {
        /// All operations.
        pub const ALL: [Self; 1] = [Self::Read];

        /// Returns the name of the operation.
        pub fn name(self) -> &'static str {
            "read"
        }
    }

    /// The code of an error.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ErrorCode {
        /// EIO.
        Io,
    }

    impl ErrorCode {
        /// All codes.
        pub const ALL: [Self; 1] = [Self::Io];
    }
}

#[path = "../../../host/src/device/account/mod.rs"]
pub mod account;

#[path = "../../../host/src/budget.rs"]
pub mod budget;

#[path = "../../../host/src/device/turnstile.rs"]
pub mod turnstile;
