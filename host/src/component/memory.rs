//! How much memory the instances of a disk may have together.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

/// An upper bound on the linear memory of all instances that share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Budget { limit, used: AtomicU64::new(0) }))
    }

    /// The bound, in bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// What the instances have now, in bytes.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.0.limit);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The share of one instance; what it holds goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: MemoryBudget,
    held: u64,
    /// It asked for more than the budget has.
    refused: bool,
}

impl Share {
    /// A table element costs this much on a 64-bit host.
    const TABLE_ELEMENT: u64 = 16;

    /// The modules, tables and memories of one instance, which cost address space and bookkeeping
    /// even when they are empty. Components that are linked of many modules have some dozens.
    const MODULES: usize = 1000;
    const TABLES: usize = 1000;
    const MEMORIES: usize = 100;

    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self { budget, held: 0, refused: false }
    }

    /// Takes what it holds from another budget, and gives it back to its own; false when the other
    /// one has not so much.
    pub(super) fn move_to(&mut self, budget: &MemoryBudget) -> bool {
        if !budget.take(self.held) {
            return false;
        }
        self.budget.give_back(self.held);
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

    /// Whether something may grow to `desired` units of so many bytes. Wasmtime asks before it looks
    /// at the `maximum` that a memory or table has itself. What it would refuse afterwards must not
    /// be charged.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>, unit: u64) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let bytes = (desired - current) as u64 * unit;
        let granted = self.budget.take(bytes);
        if granted {
            self.held += bytes;
        } else {
            self.refused = true;
        }
        granted
    }
}

impl ResourceLimiter for Share {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, 1))
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
        Ok(self.grow(current, desired, maximum, Self::TABLE_ELEMENT))
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
        self.budget.give_back(self.held);
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
}
