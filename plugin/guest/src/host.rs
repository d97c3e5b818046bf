//! What the host offers to a backend: a log and random numbers.
//!
//! Natively, messages go to standard error, and random numbers come from the standard library.

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
