//! How much memory the instances of a disk may have together, and how many address spaces.

use std::mem;

use wasmtime::ResourceLimiter;

use crate::budget::{Budget, Held};
use crate::machine;

/// An upper bound on what the instances that share it take: linear memory and tables, in bytes, and
/// address spaces, of which each linear memory and each stack is one, and which the system gives to a
/// process in bounded numbers.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    bytes: Budget,
    spaces: Budget,
}

impl MemoryBudget {
    /// How many address spaces an export has for sure, if there are so many.
    const GUARANTEED_SPACES: u64 = 64;

    /// A budget of `limit` bytes, and of the address spaces that a process can have.
    pub fn new(limit: u64) -> Self {
        Self { bytes: Budget::new(limit), spaces: Budget::new(machine::address_spaces()) }
    }

    /// A budget within this one, of at most `limit` bytes, of which it has `guaranteed` for sure.
    pub fn child(&self, limit: u64, guaranteed: u64) -> Self {
        let spaces = self.spaces.child(self.spaces.limit(), Self::GUARANTEED_SPACES);
        Self { bytes: self.bytes.child(limit.min(self.limit()), guaranteed), spaces }
    }

    /// The bound, in bytes.
    pub fn limit(&self) -> u64 {
        self.bytes.limit()
    }

    /// What the instances have now, in bytes.
    pub fn used(&self) -> u64 {
        self.bytes.used()
    }

    /// Takes memory that is not a guest's, until the return value is dropped.
    pub(super) fn hold(&self, bytes: u64) -> Option<Held> {
        Held::take(&self.bytes, bytes)
    }

    fn take(&self, bytes: u64, spaces: u64) -> bool {
        if !self.bytes.take(bytes) {
            return false;
        }
        let taken = self.spaces.take(spaces);
        if !taken {
            self.bytes.give_back(bytes);
        }
        taken
    }

    fn give_back(&self, bytes: u64, spaces: u64) {
        self.bytes.give_back(bytes);
        self.spaces.give_back(spaces);
    }
}

/// The share of one instance; what it holds goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: MemoryBudget,
    held: u64,
    spaces: u64,
    table_elements: usize,
    /// It asked for more than the budget has.
    refused: bool,
}

impl Share {
    /// A table element costs this much on a 64-bit host.
    const TABLE_ELEMENT: u64 = 16;

    /// How many elements the tables of one instance may have together. Python's, the largest seen,
    /// have some 20,000.
    const TABLE_ELEMENTS: usize = 1 << 20;

    /// The modules, tables and memories of one instance, which cost address space and bookkeeping
    /// even when they are empty. Components that are linked of many modules, as Python is, have some
    /// dozens of modules, and one memory; those that are composed have one memory for each part.
    const MODULES: usize = 256;
    const TABLES: usize = 64;
    const MEMORIES: usize = 8;

    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self { budget, held: 0, spaces: 0, table_elements: 0, refused: false }
    }

    /// Takes the address space of the stack. False when there is none.
    pub(super) fn take_stack(&mut self) -> bool {
        self.take(0, 1)
    }

    /// Takes what it holds from another budget, and gives it back to its own; false when the other
    /// one has not so much.
    pub(super) fn move_to(&mut self, budget: &MemoryBudget) -> bool {
        if !budget.take(self.held, self.spaces) {
            return false;
        }
        self.budget.give_back(self.held, self.spaces);
        self.budget = budget.clone();
        true
    }

    /// What the instance has now, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// The bound on what all instances of the budget may have, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.budget.limit()
    }

    /// Whether the budget refused something since this was last asked.
    pub(super) fn take_refusal(&mut self) -> bool {
        mem::take(&mut self.refused)
    }

    fn take(&mut self, bytes: u64, spaces: u64) -> bool {
        let granted = self.budget.take(bytes, spaces);
        if granted {
            self.held += bytes;
            self.spaces += spaces;
        } else {
            self.refused = true;
        }
        granted
    }
}

// Wasmtime asks before it looks at the `maximum` that a memory or table has itself. What it would
// refuse afterwards must not be charged.
impl ResourceLimiter for Share {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        // It is new, or was empty and counts once more.
        let spaces = u64::from(current == 0);
        Ok(self.take((desired - current) as u64, spaces))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // The charge stays: a failure of the system to give memory is rare, and to count too
        // much keeps the bound.
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired - current;
        let sum = self.table_elements.checked_add(more);
        let Some(sum) = sum.filter(|&sum| sum <= Self::TABLE_ELEMENTS) else { return Ok(false) };
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let granted = self.take(more as u64 * Self::TABLE_ELEMENT, 0);
        if granted {
            self.table_elements = sum;
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        Self::MODULES
    }

    fn tables(&self) -> usize {
        Self::TABLES
    }

    fn memories(&self) -> usize {
        Self::MEMORIES
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.held, self.spaces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_compete_for_one_budget_and_give_back_on_drop() {
        let budget = MemoryBudget::new(100);
        let mut a = Share::new(budget.clone());
        let mut b = Share::new(budget.clone());
        assert!(a.memory_growing(0, 60, None).unwrap());
        assert!(!b.memory_growing(0, 60, None).unwrap());
        assert!(b.take_refusal());
        assert!(!b.memory_growing(0, 30, Some(20)).unwrap(), "its own maximum is lower");
        assert!(!b.take_refusal(), "which is not for want of memory");
        assert!(b.memory_growing(0, 40, None).unwrap());
        assert!(!a.memory_growing(60, usize::MAX, None).unwrap());
        assert_eq!(budget.used(), 100);
        let small = MemoryBudget::new(59);
        assert!(!a.move_to(&small));
        assert_eq!((budget.used(), small.used()), (100, 0), "which changes nothing");
        let other = MemoryBudget::new(60);
        assert!(a.move_to(&other));
        assert_eq!((budget.used(), other.used()), (40, 60));
        drop(a);
        assert_eq!((budget.used(), other.used()), (40, 0));
    }
    #[test]
    fn memories_and_stacks_are_counted() {
        let process = MemoryBudget { bytes: Budget::new(1000), spaces: Budget::new(5) };
        let budget = process.child(1000, 0);
        let mut share = Share::new(budget.clone());
        assert!(share.take_stack());
        for _ in 0..4 {
            assert!(share.memory_growing(0, 1, None).unwrap());
        }
        assert!(share.memory_growing(1, 2, None).unwrap(), "that is no further one");
        assert!(!share.memory_growing(0, 1, None).unwrap());
        assert!(share.take_refusal());
        assert_eq!(budget.used(), 5, "what was refused is not charged");
        drop(share);
        assert_eq!((budget.used(), budget.spaces.used()), (0, 0));
        assert_eq!(process.spaces.used(), 5, "all are guaranteed to the one there is");
    }

    #[test]
    fn tables_are_bounded_together() {
        let mut share = Share::new(MemoryBudget::new(1 << 30));
        assert!(share.table_growing(0, Share::TABLE_ELEMENTS - 1, None).unwrap());
        assert!(share.table_growing(0, 1, None).unwrap());
        assert!(!share.table_growing(1, 2, None).unwrap());
        assert!(!share.table_growing(0, usize::MAX, None).unwrap());
        assert!(!share.take_refusal(), "which is not for want of memory");
    }
}
