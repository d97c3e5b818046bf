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

/// The idle buffers, the one that was used last at the end. They have no content.
static IDLE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that is kept when it is dropped.
struct Pooled(Vec<u8>);

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        let mut idle = idle();
        let kept: usize = idle.iter().map(Vec::capacity).sum();
        if kept + buffer.capacity() <= KEPT {
            idle.push(buffer);
        }
    }
}

fn idle() -> MutexGuard<'static, Vec<Vec<u8>>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns an empty buffer of this capacity.
pub(super) fn take(capacity: usize) -> Vec<u8> {
    if capacity >= LEAST {
        let mut idle = idle();
        if let Some(index) = idle.iter().rposition(|buffer| buffer.capacity() == capacity) {
            return idle.remove(index);
        }
        // One of another size makes room, so that the sizes that are in use are kept.
        let oldest = (!idle.is_empty()).then(|| idle.remove(0));
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
    fn buffers_are_kept_without_their_content() {
        // No other test uses this size.
        let capacity = LEAST + 4096;
        let mut buffer = take(capacity);
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        let content = bytes(buffer);
        assert_eq!(&content[..], b"secret");
        drop(content);
        let again = take(capacity);
        assert!(again.is_empty());
        assert!(again.as_ptr() == place || again.capacity() == capacity);
    }

    #[test]
    fn idle_buffers_are_bounded() {
        let buffers: Vec<Bytes> = (0..40).map(|_| bytes(take(1 << 20))).collect();
        drop(buffers);
        assert!(idle().iter().map(Vec::capacity).sum::<usize>() <= KEPT);
    }
}
