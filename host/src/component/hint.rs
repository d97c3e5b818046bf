//! Telling the processor what memory is needed soon.
//!
//! A page of a large disk is in no cache, and its address in no cache of addresses. For 4 KiB at
//! random, half of the server's time was waiting for the two. Waiting for several pages at a time
//! takes hardly longer than for one: on 4 connections with 16 requests each, the server's 2.5 us
//! for a read become 1.9, and its 2.6 us for a write 2.2.

/// The beginning of some bytes in the memory of an instance, which may be gone by now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint {
    address: usize,
}

impl Hint {
    #[inline]
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { address: bytes.as_ptr().addr() }
    }

    /// Says that the bytes are needed soon. To say it of several at once is what helps.
    #[inline]
    pub fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // So many that the processor sees by itself how it goes on.
            for line in 0..8 {
                let address = self.address.wrapping_add(64 * line);
                // SAFETY: it neither reads nor writes, and does not fault, whatever the address is.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address)) };
            }
        }
    }
}
