//! The component's own memory as a source of pages.
//!
//! This module turns pages into raw addresses. It is sound because `start..end` is one contiguous
//! run obtained from `memory.grow`: nothing else in the component (stack, statics, heap) lies in it
//! or will ever be given a part of it, as `memory.grow` returns each byte only once. The heap may
//! also grow the memory. If it does so between two calls of `Linear::grow`, the run would have a
//! gap, so the second call fails instead. Every access is checked against the bounds of the run.
//!
//! The host also reads and writes in the run (payloads, chunks), but only while no call is in
//! progress, when no reference into the run is live.

use core::arch::wasm32::{memory_grow, memory_size};
use core::slice;

use crate::pages::{GROW_UNIT, Memory, PAGE_BITS, Page};

const WASM_PAGE_BITS: u32 = 16;

/// The run of memory that belongs to the disk. There is only one.
pub(crate) struct Linear {
    start: usize,
    /// The length, stored instead of the end because the end may be 2^32.
    length: usize,
}

impl Linear {
    /// Creates an empty run.
    pub(crate) fn new() -> Self {
        Self { start: 0, length: 0 }
    }

    /// Returns a pointer to a range of the run.
    ///
    /// # Panics
    ///
    /// Panics if the range is not within the run.
    fn range(&self, start: u32, length: u32) -> *mut u8 {
        let at = (start as usize).wrapping_sub(self.start);
        assert!(at <= self.length && length as usize <= self.length - at);
        core::ptr::with_exposed_provenance_mut(start as usize)
    }
}

impl Memory for Linear {
    fn grow(&mut self, count: u32) -> Option<Page> {
        let end = (memory_size::<0>() as u64) << WASM_PAGE_BITS;
        if self.length != 0 && (self.start + self.length) as u64 != end {
            return None;
        }
        let first = memory_grow::<0>((count / GROW_UNIT) as usize);
        if first == usize::MAX {
            return None;
        }
        let first = first << WASM_PAGE_BITS;
        if self.length == 0 {
            self.start = first;
        }
        self.length += (count as usize) << PAGE_BITS;
        Some((first >> PAGE_BITS) as Page)
    }

    fn bytes(&self, start: u32, length: u32) -> &[u8] {
        // SAFETY: the range is within the run, initialised (with zeroes, by `memory.grow`), and
        // changed only through `&mut self`.
        unsafe { slice::from_raw_parts(self.range(start, length), length as usize) }
    }

    fn bytes_mut(&mut self, start: u32, length: u32) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { slice::from_raw_parts_mut(self.range(start, length), length as usize) }
    }

    fn copy(&mut self, from: u32, to: u32, length: u32) {
        let (from, to) = (self.range(from, length), self.range(to, length));
        // SAFETY: both ranges are within the run; `copy` allows them to overlap.
        unsafe { core::ptr::copy(from, to, length as usize) }
    }

    fn word(&self, at: u32) -> u32 {
        let bytes = self.range(at, 4).cast::<[u8; 4]>();
        // SAFETY: the range is within the run, and bytes need no alignment.
        u32::from_le_bytes(unsafe { bytes.read() })
    }

    fn set_word(&mut self, at: u32, value: u32) {
        let bytes = self.range(at, 4).cast::<[u8; 4]>();
        // SAFETY: the range is within the run, and bytes need no alignment.
        unsafe { bytes.write(value.to_le_bytes()) }
    }
}
