//! Which blocks are in the cache, and where.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// A block that has a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The number of the slot.
    pub(crate) slot: u64,
    /// The slot has what the disk beneath has not.
    pub(crate) is_dirty: bool,
    /// The slot is being filled for the first time, by one request.
    pub(crate) is_new: bool,
    /// The number of requests under way that use the slot.
    pub(crate) users: u32,
    /// The number of those that write to it.
    pub(crate) writers: u32,
    /// When it was last used, in requests.
    used: u64,
}

/// The slots of the cache.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    entries: BTreeMap<u64, Entry>,
    /// Blocks by when they were last used.
    order: BTreeSet<(u64, u64)>,
    /// The dirty blocks.
    dirty: BTreeSet<u64>,
    free: Vec<u64>,
    /// The slots from here on were never used.
    fresh: u64,
    /// The number of slots.
    limit: u64,
    clock: u64,
}

impl Slots {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: BTreeSet::new(),
            dirty: BTreeSet::new(),
            free: Vec::new(),
            fresh: 0,
            limit,
            clock: 0,
        }
    }

    /// Returns the number of slots in use.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn get(&self, block: u64) -> Option<&Entry> {
        self.entries.get(&block)
    }

    pub(crate) fn get_mut(&mut self, block: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&block)
    }

    /// Returns the blocks of a range that have slots.
    pub(crate) fn within(
        &self,
        blocks: core::ops::Range<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, &Entry)> {
        self.entries.range(blocks).map(|(block, entry)| (*block, entry))
    }

    /// Marks a block as used now.
    pub(crate) fn touch(&mut self, block: u64) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&block) {
            self.order.remove(&(entry.used, block));
            entry.used = self.clock;
            self.order.insert((self.clock, block));
        }
    }

    /// Gives a block a slot, unless there is none left. It is new, and has no users.
    pub(crate) fn insert(&mut self, block: u64) -> Option<u64> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.fresh < self.limit => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.clock += 1;
        let used = self.clock;
        let entry = Entry { slot, is_dirty: false, is_new: true, users: 0, writers: 0, used };
        self.entries.insert(block, entry);
        self.order.insert((used, block));
        Some(slot)
    }

    /// Takes the slot of a block back.
    pub(crate) fn remove(&mut self, block: u64) {
        if let Some(entry) = self.entries.remove(&block) {
            self.order.remove(&(entry.used, block));
            self.dirty.remove(&block);
            self.free.push(entry.slot);
        }
    }

    /// Returns the blocks that nobody uses, up to a number, the least recently used first.
    pub(crate) fn idle(&self, count: usize) -> Vec<u64> {
        let idle = |block: &u64| {
            self.entries.get(block).is_some_and(|entry| entry.users == 0 && !entry.is_new)
        };
        self.order.iter().map(|(_, block)| *block).filter(idle).take(count).collect()
    }

    /// Says whether the slot of a block has what the disk beneath has not.
    pub(crate) fn set_dirty(&mut self, block: u64, is_dirty: bool) {
        if let Some(entry) = self.entries.get_mut(&block) {
            entry.is_dirty = is_dirty;
            match is_dirty {
                true => self.dirty.insert(block),
                false => self.dirty.remove(&block),
            };
        }
    }

    /// Returns the number of dirty blocks.
    pub(crate) fn count_dirty(&self) -> u64 {
        self.dirty.len() as u64
    }

    /// Returns the dirty blocks whose content is complete.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = u64> {
        let is_complete = |block: &&u64| self.entries.get(block).is_some_and(|one| !one.is_new);
        self.dirty.iter().filter(is_complete).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_given_and_taken_back() {
        let mut slots = Slots::new(2);
        assert_eq!(
            (slots.insert(10), slots.insert(20), slots.insert(30)),
            (Some(0), Some(1), None)
        );
        slots.remove(10);
        slots.remove(10);
        assert_eq!((slots.len(), slots.insert(30)), (1, Some(0)));
        assert_eq!(slots.within(15..31).map(|(block, _)| block).collect::<Vec<_>>(), [20, 30]);
    }

    #[test]
    fn idle_blocks_come_in_the_order_of_their_last_use() {
        let mut slots = Slots::new(9);
        for block in [1, 2, 3, 4] {
            slots.insert(block);
        }
        for block in [1, 2, 3] {
            slots.get_mut(block).unwrap().is_new = false;
        }
        slots.touch(1);
        assert_eq!(slots.idle(9), [2, 3, 1]);
        slots.get_mut(2).unwrap().users = 1;
        assert_eq!(slots.idle(1), [3]);
    }
}
