//! Where pages come from: a memory that only grows, and a list of the pages that came back.
//!
//! The memory is one run of pages:
//!
//! ```text
//!   | pages given out or on the free list, and the landing zone | fresh: never touched |
//! ```
//!
//! The landing zone is where the payload of a write arrives before it is known where it belongs.
//! It is set aside from the start and no page of it is ever given out, so that a write can arrive
//! however full the memory is. It moves when its pages are adopted, see [`Pages::adopt`].
//!
//! This module does not know what pages are for.

use core::ops::Range;

/// The length of a page in bytes.
pub const PAGE_SIZE: u32 = 1 << PAGE_BITS;
/// The logarithm of [`PAGE_SIZE`].
pub const PAGE_BITS: u32 = 15;

/// The longest payload of a write, in bytes: the length of the landing zone.
pub const LANDING_SIZE: u32 = 2 << 20;
const LANDING_PAGES: u32 = LANDING_SIZE / PAGE_SIZE;

/// A page: its address divided by [`PAGE_SIZE`]. No page has the number 0.
pub type Page = u32;

/// The address of the first byte of a page.
pub fn address(page: Page) -> u32 {
    page << PAGE_BITS
}

/// Memory that can grow, addressed by bytes with 32 bits.
///
/// The methods panic when what they are given does not lie within what [`Memory::grow`] returned.
pub trait Memory {
    /// Adds pages at the end, all zeroes, and returns the first. They begin where the ones of
    /// the call before ended, and at an address above 0. `count` is a multiple of
    /// [`GROW_UNIT`]. `None` when there is no more memory; nothing is added then.
    fn grow(&mut self, count: u32) -> Option<Page>;

    /// The bytes in a range.
    fn bytes(&self, start: u32, length: u32) -> &[u8];

    /// The bytes in a range, to change.
    fn bytes_mut(&mut self, start: u32, length: u32) -> &mut [u8];

    /// Copies bytes from one range to another; they may overlap.
    fn copy(&mut self, from: u32, to: u32, length: u32);

    /// The little-endian number at an address.
    fn word(&self, at: u32) -> u32;

    /// Changes the number at an address.
    fn set_word(&mut self, at: u32, value: u32);
}

/// The pages by which a WebAssembly memory (in units of 64 KiB) can grow.
pub const GROW_UNIT: u32 = (64 << 10) / PAGE_SIZE;

/// A page that [`Pages::allocate`] gave.
pub struct Allocated {
    /// Which.
    pub page: Page,
    /// Whether all of its bytes are zero. If not, they are anything.
    pub zeroed: bool,
}

/// The allocator.
pub struct Pages<M> {
    memory: M,
    /// The first page of the free list, or 0. The first word of a free page is the next one.
    free: Page,
    /// Pages that were never touched, at the end of the memory.
    fresh: Range<Page>,
    landing: Page,
    /// How many pages the memory has.
    total: u32,
}

impl<M: Memory> Pages<M> {
    /// Sets the landing zone aside; `None` when the memory is too small even for that.
    pub fn new(mut memory: M) -> Option<Self> {
        let landing = memory.grow(LANDING_PAGES)?;
        let end = landing + LANDING_PAGES;
        Some(Self { memory, free: 0, fresh: end..end, landing, total: LANDING_PAGES })
    }

    /// The address at which the next payload is to be put, at most [`LANDING_SIZE`] bytes. It is
    /// that of a page.
    pub fn landing(&self) -> u32 {
        address(self.landing)
    }

    /// The memory, to read and change the bytes of allocated pages.
    pub fn memory(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Takes a page; `None` when there is none.
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

    /// Gives a page back. The page given back last is the first to be allocated again.
    pub fn release(&mut self, page: Page) {
        self.memory.set_word(address(page), self.free);
        self.free = page;
    }

    /// Whether [`Pages::adopt`] is worth trying: no, while there are free pages to use up.
    pub fn can_adopt(&self) -> bool {
        self.free == 0
    }

    /// Gives out the first `count` pages of the landing zone (at most all of them) with what is in
    /// them, and sets up another zone. Returns the first, or `None` when copying is better or
    /// the only way: when there are free pages to use up, or no more memory.
    ///
    /// After this the content of the old landing zone beyond the adopted pages is lost.
    pub fn adopt(&mut self, count: u32) -> Option<Page> {
        if !self.can_adopt() {
            return None;
        }
        let first = self.landing;
        let rest = first + count..first + LANDING_PAGES;
        if rest.end == self.fresh.start {
            // Nothing was allocated since the zone came here: it slides on.
            self.ensure_fresh(count)?;
            self.landing = rest.start;
            self.fresh.start += count;
        } else {
            self.ensure_fresh(LANDING_PAGES)?;
            self.landing = self.fresh.start;
            self.fresh.start += LANDING_PAGES;
            // Backwards, so that they are allocated forwards and make long runs.
            rest.rev().for_each(|page| self.release(page));
        }
        Some(first)
    }

    fn ensure_fresh(&mut self, count: u32) -> Option<()> {
        let missing = count.saturating_sub(self.fresh.end - self.fresh.start);
        if missing == 0 { Some(()) } else { self.extend(missing) }
    }

    /// Grows the memory by at least `needed` pages: in steps that are small at first, and large
    /// enough later that growing costs nothing per page, but by less when memory is short.
    fn extend(&mut self, needed: u32) -> Option<()> {
        const MIB: u32 = (1 << 20) / PAGE_SIZE;
        let needed = needed.next_multiple_of(GROW_UNIT);
        let usual = if self.total < 16 * MIB {
            MIB
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

/// What tests ask of the allocator.
#[cfg(test)]
impl<M: Memory> Pages<M> {
    /// Every page that is free, fresh or in the landing zone.
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

    /// How many pages there are.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }
}
