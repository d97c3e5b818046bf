//! The memory of the component itself, as pages.
//!
//! This is where pages meet raw addresses. What makes it safe: `start..end` is one run that
//! came from `memory.grow`, so nothing else in the component (stack, statics, heap) lies in it, and
//! nothing else ever gets a part of it, as `memory.grow` gives each byte out once. The heap may
//! grow as well; if it does between two growths of ours, the run would have a gap, and then ours
//! fails instead. Every access is checked against the run.
//!
//! The host reads and writes in the run too (payloads, chunks), but only while no call is under
//! way, so that no reference into it lives then.

use core::arch::wasm32::{memory_grow, memory_size};
use core::slice;

use crate::pages::{GROW_UNIT, Memory, PAGE_BITS, Page};

const WASM_PAGE_BITS: u32 = 16;

/// The run of memory that belongs to the disk. There is one.
pub(crate) struct Linear {
    start: usize,
    /// The end, less `start`: the end itself may be 2^32.
    length: usize,
}

impl Linear {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { start: 0, length: 0 }
    }

    /// The pointer to a range that was checked to be ours.
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
        // SAFETY: the range is ours, initialised (with zeroes, by `memory.grow`), and changed only
        // through `&mut self`.
        unsafe { slice::from_raw_parts(self.range(start, length), length as usize) }
    }

    fn bytes_mut(&mut self, start: u32, length: u32) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { slice::from_raw_parts_mut(self.range(start, length), length as usize) }
    }

    fn copy(&mut self, from: u32, to: u32, length: u32) {
        let (from, to) = (self.range(from, length), self.range(to, length));
        // SAFETY: both ranges are ours; `copy` allows them to overlap.
        unsafe { core::ptr::copy(from, to, length as usize) }
    }

    fn word(&self, at: u32) -> u32 {
        let bytes = self.range(at, 4).cast::<[u8; 4]>();
        // SAFETY: the range is ours, and bytes need no alignment.
        u32::from_le_bytes(unsafe { bytes.read() })
    }

    fn set_word(&mut self, at: u32, value: u32) {
        let bytes = self.range(at, 4).cast::<[u8; 4]>();
        // SAFETY: the range is ours, and bytes need no alignment.
        unsafe { bytes.write(value.to_le_bytes()) }
    }
}
