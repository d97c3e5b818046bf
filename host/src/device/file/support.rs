//! Optional operations of the kernel and the file system.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, Result};

/// An optional operation. Once it was not supported, it is not tried again.
#[derive(Debug)]
pub(super) struct Support(AtomicBool);

impl Default for Support {
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl Support {
    /// Tries the operation. Returns `None` if it is not supported.
    pub(super) fn attempt<T>(&self, call: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
        if !self.0.load(Ordering::Relaxed) {
            return None;
        }
        match call() {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.exclude();
                None
            }
            result => Some(result),
        }
    }

    /// Excludes the operation from now on.
    pub(super) fn exclude(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_not_tried_again() {
        let support = Support::default();
        assert_eq!(support.attempt(|| Ok(1)), Some(Ok(1)));
        let failed = support.attempt(|| Err::<(), _>(Errno::NOSPC));
        assert_eq!(failed, Some(Err(Errno::NOSPC)), "this says nothing of support");
        assert_eq!(support.attempt(|| Err::<(), _>(Errno::OPNOTSUPP)), None);
        assert_eq!(support.attempt::<()>(|| panic!("it is tried again")), None);
    }
}
