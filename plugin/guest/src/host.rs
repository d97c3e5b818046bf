//! What the host offers to a backend: a log, random numbers and clocks.
//!
//! Natively, messages go to standard error, and random numbers and times come from the standard library.

use core::time::Duration;

/// The importance of a message. By default the host's log has errors, warnings and information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is probably wrong.
    Warn,
    /// Something that users want to know.
    Info,
    /// Something for the author of the component.
    Debug,
    /// Every step, for the author of the component.
    Trace,
}

/// Writes a line to the host's log. Text beyond 1024 bytes is cut off.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::exports::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    std::eprintln!("{level:?}: {message}");
}

/// Returns a random number that nobody can predict.
pub fn random_u64() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::random::wasi::random::random::get_random_u64();
    #[cfg(not(target_arch = "wasm32"))]
    {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(())
    }
}

/// Returns the time since 1970, in UTC. It may be set back.
pub fn time() -> Duration {
    #[cfg(target_arch = "wasm32")]
    {
        let now = crate::bindings::clocks::wasi::clocks::wall_clock::now();
        return Duration::new(now.seconds, now.nanoseconds);
    }
    #[cfg(not(target_arch = "wasm32"))]
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// Returns the time since some moment, which never goes back.
pub fn uptime() -> Duration {
    #[cfg(target_arch = "wasm32")]
    return Duration::from_nanos(crate::bindings::clocks::wasi::clocks::monotonic_clock::now());
    #[cfg(not(target_arch = "wasm32"))]
    {
        static BEGINNING: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        crate::testing::clock::stopped_at()
            .unwrap_or_else(|| BEGINNING.get_or_init(std::time::Instant::now).elapsed())
    }
}
