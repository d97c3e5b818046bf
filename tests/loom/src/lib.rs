//! Modules of the host as they are, on loom's locks and atomics.

/// What the host has in its own module of this name.
mod sync {
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}

#[path = "../../../host/src/budget.rs"]
pub mod budget;

#[path = "../../../host/src/device/turnstile.rs"]
pub mod turnstile;
