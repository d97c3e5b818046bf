//! Buffers for long reads, which are used again: the kernel takes as long to make their pages as to
//! fill them.
//!
//! Buffers that are in use belong to their requests. The idle ones of all devices together are bounded.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The shortest buffer that is kept, in bytes. malloc keeps the pages of shorter ones.
const LEAST: usize = 64 << 10;

/// How many idle bytes are kept.
const KEPT: usize = 16 << 20;

/// The idle buffers.
static IDLE: Mutex<Idle> = Mutex::new(Idle(Vec::new()));

/// Idle buffers, the one that was used last at the end. They have no content.
struct Idle(Vec<Vec<u8>>);

impl Idle {
    /// Keeps a buffer, without its content, unless there are enough.
    fn keep(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let kept: usize = self.0.iter().map(Vec::capacity).sum();
        if kept + buffer.capacity() <= KEPT {
            self.0.push(buffer);
        }
    }

    /// Takes a buffer of this capacity.
    fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        let index = self.0.iter().rposition(|buffer| buffer.capacity() == capacity)?;
        Some(self.0.remove(index))
    }

    /// Takes the buffer that was not used for the longest time.
    fn take_oldest(&mut self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
}

/// A buffer that is kept when it is dropped.
struct Pooled(Vec<u8>);

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        idle().keep(std::mem::take(&mut self.0));
    }
}

fn idle() -> MutexGuard<'static, Idle> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns an empty buffer of this capacity.
pub(super) fn take(capacity: usize) -> Vec<u8> {
    if capacity >= LEAST {
        let mut idle = idle();
        if let Some(buffer) = idle.take(capacity) {
            return buffer;
        }
        // One of another size makes room, so that the sizes that are in use are kept.
        let oldest = idle.take_oldest();
        drop(idle);
        drop(oldest);
    }
    Vec::with_capacity(capacity)
}

/// Turns the content of a buffer into bytes, after which the buffer is kept.
pub(super) fn bytes(buffer: Vec<u8>) -> Bytes {
    match buffer.capacity() >= LEAST {
        true => Bytes::from_owner(Pooled(buffer)),
        false => buffer.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_without_their_content() {
        let mut idle = Idle(Vec::new());
        let mut buffer = Vec::with_capacity(LEAST);
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        idle.keep(buffer);
        assert!(idle.take(LEAST + 1).is_none(), "of another size");
        let again = idle.take(LEAST).expect("it was kept");
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(idle.take(LEAST).is_none(), "once");
    }

    #[test]
    fn idle_buffers_are_bounded() {
        let mut idle = Idle(Vec::new());
        (0..40).for_each(|_| idle.keep(Vec::with_capacity(1 << 20)));
        assert_eq!(idle.0.len(), KEPT >> 20);
        assert!(idle.take_oldest().is_some());
    }

    #[test]
    fn content_is_that_of_the_buffer() {
        for length in [0, 10, LEAST, LEAST + 1] {
            let mut buffer = take(length);
            buffer.resize(length, 7);
            assert_eq!(bytes(buffer), vec![7; length]);
        }
    }
}
