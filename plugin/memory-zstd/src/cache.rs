//! The few pages that are uncompressed: those used last, and those written last.
//!
//! A page that was written is compressed when its slot is needed, which may be after many writes.
//! Until then the slot is the only place where it is stored. When there is no memory to compress
//! it into, it stays where it is, so what was written is never lost.

use alloc::vec::Vec;

use crate::codec::{PAGE_SIZE, SLACK};

/// The number of slots.
const SLOTS: usize = 4;

/// The most slots whose pages are not stored elsewhere. The others are for reads, which so find one
/// without compressing anything.
pub(crate) const MOST_DIRTY: usize = 2;

/// A slot with a page.
pub(crate) struct Slot {
    /// The index of the page, if there is one.
    pub(crate) index: Option<u64>,
    /// The page is stored nowhere else.
    pub(crate) dirty: bool,
    /// The page stays allocated although it may be all zeroes.
    pub(crate) keep: bool,
    /// The page, [`PAGE_SIZE`] bytes, or fewer while there is none.
    pub(crate) bytes: Vec<u8>,
    /// When it was used last.
    used: u64,
}

impl Slot {
    /// Makes the slot empty.
    pub(crate) fn clear(&mut self) {
        (self.index, self.dirty, self.keep, self.used) = (None, false, false, 0);
    }
}

/// The slots.
pub(crate) struct Cache {
    slots: Vec<Slot>,
    clock: u64,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let bytes = || Vec::with_capacity(PAGE_SIZE + SLACK);
        let slot = || Slot { index: None, dirty: false, keep: false, bytes: bytes(), used: 0 };
        Self { slots: (0..SLOTS).map(|_| slot()).collect(), clock: 0 }
    }

    /// Returns the number of the slot of a page, if it has one, and marks it as used.
    pub(crate) fn find(&mut self, index: u64) -> Option<usize> {
        let found = self.slots.iter().position(|slot| slot.index == Some(index))?;
        self.clock += 1;
        self.slots[found].used = self.clock;
        Some(found)
    }

    /// Returns the slot of a page without marking it as used.
    pub(crate) fn peek(&self, index: u64) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.index == Some(index))
    }

    pub(crate) fn slot(&mut self, number: usize) -> &mut Slot {
        &mut self.slots[number]
    }

    /// Returns the pages that are in a slot.
    pub(crate) fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut()
    }

    /// Returns the number of pages that are stored nowhere else.
    pub(crate) fn dirty(&self) -> usize {
        self.slots.iter().filter(|slot| slot.dirty).count()
    }

    /// Returns true if another page can become dirty without one being compressed.
    pub(crate) fn has_room(&self) -> bool {
        self.dirty() < MOST_DIRTY
    }

    /// Returns the slot whose use is the longest ago, among those that are dirty or not. There is
    /// always one that is not.
    pub(crate) fn oldest(&self, dirty: bool) -> Option<usize> {
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| slot.dirty == dirty);
        slots.min_by_key(|(_, slot)| slot.used).map(|(number, _)| number)
    }
}
