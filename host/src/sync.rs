//! The locks and atomics of modules that loom tests: there, a module of this name has loom's (`tests/loom`).

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
