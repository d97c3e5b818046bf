//! The page allocator: a memory that only grows, and a free list of released pages.
//!
//! The memory is one contiguous run of pages:
//!
//! ```text
//!   | pages given out or on the free list, and the landing zone | fresh: never touched |
//! ```
//!
//! The payload of a write arrives in the landing zone, before its destination is known. The zone is
//! reserved from the start and its pages are never allocated, so that a write can arrive however
//! full the memory is. The zone moves when its pages are adopted; see [`Pages::adopt`].
//!
//! This module does not depend on how pages are used.

use core::ops::Range;

/// The length of a page in bytes.
pub const PAGE_SIZE: u32 = 1 << PAGE_BITS;
/// The base-2 logarithm of [`PAGE_SIZE`].
pub const PAGE_BITS: u32 = 15;

/// The length of the landing zone in bytes, which is the maximum length of a write's payload.
///
/// Each disk takes it, however little is written: a clone has two disks in memory, and a server a thousand
/// clones. Writes to pages that the host knows do not pass through it, and first writes that are longer are
/// split, which costs a call for each part.
pub const LANDING_SIZE: u32 = 256 << 10;
const LANDING_PAGES: u32 = LANDING_SIZE / PAGE_SIZE;

/// A page, identified by its address divided by [`PAGE_SIZE`]. No page has the number 0.
pub type Page = u32;

/// Returns the address of the first byte of a page.
pub fn address(page: Page) -> u32 {
    page << PAGE_BITS
}

/// Memory that can grow, with 32-bit byte addresses.
///
/// # Panics
///
/// The methods panic if a range is not within the memory that [`Memory::grow`] has added.
pub trait Memory {
    /// Adds `count` pages of zeroes at the end, and returns the first. They begin where the pages
    /// of the previous call ended, and at an address above 0. `count` must be a multiple of
    /// [`GROW_UNIT`]. Returns `None` and adds nothing if there is not enough memory.
    fn grow(&mut self, count: u32) -> Option<Page>;

    /// Returns the bytes in a range.
    fn bytes(&self, start: u32, length: u32) -> &[u8];

    /// Returns the bytes in a range, mutably.
    fn bytes_mut(&mut self, start: u32, length: u32) -> &mut [u8];

    /// Copies bytes from one range to another. The ranges may overlap.
    fn copy(&mut self, from: u32, to: u32, length: u32);

    /// Returns the little-endian number at an address.
    fn word(&self, at: u32) -> u32;

    /// Sets the little-endian number at an address.
    fn set_word(&mut self, at: u32, value: u32);
}

/// The unit in which a WebAssembly memory grows (64 KiB), in pages.
pub const GROW_UNIT: u32 = (64 << 10) / PAGE_SIZE;

/// A page that [`Pages::allocate`] returned.
pub struct Allocated {
    /// The page.
    pub page: Page,
    /// Whether all of its bytes are zero. If not, they are arbitrary.
    pub zeroed: bool,
}

/// The page allocator.
pub struct Pages<M> {
    memory: M,
    /// The first page of the free list, or 0. The first word of a free page is the next one.
    free: Page,
    /// Pages that were never touched, at the end of the memory.
    fresh: Range<Page>,
    landing: Page,
    /// The number of pages in the memory.
    total: u32,
}

impl<M: Memory> Pages<M> {
    /// Creates an allocator and reserves its landing zone. Returns `None` if the memory is too
    /// small for the zone.
    pub fn new(mut memory: M) -> Option<Self> {
        let landing = memory.grow(LANDING_PAGES)?;
        let end = landing + LANDING_PAGES;
        Some(Self { memory, free: 0, fresh: end..end, landing, total: LANDING_PAGES })
    }

    /// Returns the address at which to put the next payload of at most [`LANDING_SIZE`] bytes. It
    /// is the address of a page.
    pub fn landing(&self) -> u32 {
        address(self.landing)
    }

    /// The memory, to read and change the bytes of allocated pages.
    pub fn memory(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Allocates a page. Returns `None` if there is none left.
    pub fn allocate(&mut self) -> Option<Allocated> {
        if self.free != 0 {
            let page = self.free;
            self.free = self.memory.word(address(page));
            return Some(Allocated { page, zeroed: false });
        }
        if self.fresh.is_empty() {
            self.extend(1)?;
        }
        self.fresh.next().map(|page| Allocated { page, zeroed: true })
    }

    /// Releases a page. The page released last is the first to be allocated again.
    pub fn release(&mut self, page: Page) {
        self.memory.set_word(address(page), self.free);
        self.free = page;
    }

    /// Returns whether [`Pages::adopt`] is worth trying, which is not the case while the free list
    /// has pages to use up.
    pub fn can_adopt(&self) -> bool {
        self.free == 0
    }

    /// Allocates the first `count` pages of the landing zone (at most all of them) with their
    /// content, and sets up another zone. Returns the first page, or `None` if the caller should
    /// copy instead: if the free list has pages to use up, or there is not enough memory for
    /// another zone.
    ///
    /// On success the content of the old landing zone beyond the adopted pages is lost.
    pub fn adopt(&mut self, count: u32) -> Option<Page> {
        if !self.can_adopt() {
            return None;
        }
        let first = self.landing;
        let rest = first + count..first + LANDING_PAGES;
        if rest.end == self.fresh.start {
            // No fresh page was allocated since the zone was set up here: it slides forward.
            self.ensure_fresh(count)?;
            self.landing = rest.start;
            self.fresh.start += count;
        } else {
            self.ensure_fresh(LANDING_PAGES)?;
            self.landing = self.fresh.start;
            self.fresh.start += LANDING_PAGES;
            // In descending order, so that they are allocated in ascending order as long runs.
            rest.rev().for_each(|page| self.release(page));
        }
        Some(first)
    }

    fn ensure_fresh(&mut self, count: u32) -> Option<()> {
        let missing = count.saturating_sub(self.fresh.end - self.fresh.start);
        if missing == 0 { Some(()) } else { self.extend(missing) }
    }

    /// Grows the memory by at least `needed` pages. The steps are small at first, later large
    /// enough to make the cost of growing per page negligible, and smaller again when memory is
    /// short.
    fn extend(&mut self, needed: u32) -> Option<()> {
        const MIB: u32 = (1 << 20) / PAGE_SIZE;
        let needed = needed.next_multiple_of(GROW_UNIT);
        let usual = if self.total < 16 * MIB {
            (self.total / 2).clamp(2 * GROW_UNIT, MIB).next_multiple_of(GROW_UNIT)
        } else {
            (self.total / 16).clamp(4 * MIB, 16 * MIB).next_multiple_of(GROW_UNIT)
        };
        let mut step = usual.max(needed);
        loop {
            if self.memory.grow(step).is_some() {
                self.total += step;
                self.fresh.end += step;
                return Some(());
            }
            if step == needed {
                return None;
            }
            step = (step / 2).next_multiple_of(GROW_UNIT).max(needed);
        }
    }
}

/// Helpers for tests.
#[cfg(test)]
impl<M: Memory> Pages<M> {
    /// Returns all pages that are free, fresh or in the landing zone.
    pub(crate) fn not_in_use(&self) -> Vec<Page> {
        let mut pages: Vec<Page> = self.fresh.clone().collect();
        pages.extend(self.landing..self.landing + LANDING_PAGES);
        let mut free = self.free;
        while free != 0 {
            pages.push(free);
            free = self.memory.word(address(free));
        }
        pages
    }

    /// Returns the number of pages in the memory.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }
}
