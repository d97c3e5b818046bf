//! Limits on the memory and the address spaces that the instances of a disk use together.

use wasmtime::ResourceLimiter;

use super::fault::Limit;
use crate::budget::{Budget, Held};
use crate::machine;

/// An upper bound on what the instances that share it use: linear memory and tables, in bytes, and
/// address spaces. Each linear memory and each stack takes one address space, of which the system
/// gives a process a limited number.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    bytes: Budget,
    spaces: Budget,
}

impl MemoryBudget {
    /// How many address spaces a budget with guaranteed memory is guaranteed, if there are that many.
    const GUARANTEED_SPACES: u64 = 64;

    /// Creates a budget of `limit` bytes, and of all the address spaces that a process can have.
    pub fn new(limit: u64) -> Self {
        Self { bytes: Budget::new(limit), spaces: Budget::new(machine::address_spaces()) }
    }

    /// Creates a budget within this one, of at most `limit` bytes, of which `guaranteed` bytes are
    /// reserved for it, and some address spaces with them.
    pub fn child(&self, limit: u64, guaranteed: u64) -> Self {
        let spaces = if guaranteed > 0 { Self::GUARANTEED_SPACES } else { 0 };
        let spaces = self.spaces.child(self.spaces.limit(), spaces);
        Self { bytes: self.bytes.child(limit.min(self.limit()), guaranteed), spaces }
    }

    /// Creates a budget within this one, of at most `limit` bytes whatever becomes of the limit of this one.
    /// Nothing is reserved for it.
    pub fn child_up_to(&self, limit: u64) -> Self {
        let spaces = self.spaces.child(self.spaces.limit(), 0);
        Self { bytes: self.bytes.child(limit, 0), spaces }
    }

    /// Changes the limit, in bytes. What is in use beyond it stays, but there is no more.
    pub fn set_limit(&self, limit: u64) {
        self.bytes.set_limit(limit);
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.bytes.limit()
    }

    /// The memory in use, in bytes.
    pub fn used(&self) -> u64 {
        self.bytes.used()
    }

    /// The number of address spaces that can be taken now.
    pub(crate) fn spaces_left(&self) -> u64 {
        self.spaces.available()
    }

    /// Takes memory for something other than a guest, until the returned value is dropped.
    pub(crate) fn hold(&self, bytes: u64) -> Option<Held> {
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

/// The part of a budget that one instance holds. It is returned to the budget on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: MemoryBudget,
    held: u64,
    spaces: u64,
    table_elements: usize,
    /// The limit that refused a request since this was last taken. The budget's comes before that of
    /// a memory itself, which an instance may have tried on purpose.
    refused: Option<Limit>,
}

impl Share {
    /// The size of a table element on a 64-bit host, in bytes.
    const TABLE_ELEMENT: u64 = 16;

    /// How many elements the tables of one instance may have together. The largest seen, those of
    /// Python components, have some 20,000.
    const TABLE_ELEMENTS: usize = 1 << 20;

    /// The most modules, tables and memories of one instance, which cost address space and
    /// bookkeeping even when they are empty. Components that are linked from many modules, such as
    /// Python's, have some dozens of modules and one memory; composed components have one memory
    /// for each part.
    const MODULES: usize = 256;
    const TABLES: usize = 64;
    const MEMORIES: usize = 8;

    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self { budget, held: 0, spaces: 0, table_elements: 0, refused: None }
    }

    /// Takes an address space for the stack. Returns false if there is none left.
    pub(super) fn take_stack(&mut self) -> bool {
        self.take(0, 1)
    }

    /// Moves what it holds to another budget. Returns false, and changes nothing, if that budget
    /// does not have enough.
    pub(super) fn move_to(&mut self, budget: &MemoryBudget) -> bool {
        if !budget.take(self.held, self.spaces) {
            return false;
        }
        self.budget.give_back(self.held, self.spaces);
        self.budget = budget.clone();
        true
    }

    /// The memory that the instance holds, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// The limit on all instances of the budget together, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.budget.limit()
    }

    /// Takes memory from the budget for the host, until the returned value is dropped.
    pub(super) fn hold(&self, bytes: u64) -> Option<Held> {
        self.budget.hold(bytes)
    }

    /// Returns the limit that has refused something since the last call of this method.
    pub(super) fn take_refusal(&mut self) -> Option<Limit> {
        self.refused.take()
    }

    fn take(&mut self, bytes: u64, spaces: u64) -> bool {
        let granted = self.budget.take(bytes, spaces);
        if granted {
            self.held += bytes;
            self.spaces += spaces;
        } else {
            self.refused = Some(Limit::Budget(self.limit()));
        }
        granted
    }
}

// Wasmtime asks before it checks the `maximum` of the memory or table itself. A request that it
// would refuse afterwards must not be charged.
impl ResourceLimiter for Share {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.refused.get_or_insert(Limit::Memory(current as u64));
            return Ok(false);
        }
        // The memory is new. One that was empty before counts once more.
        let spaces = u64::from(current == 0);
        Ok(self.take((desired - current) as u64, spaces))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // The charge remains: the system rarely fails to provide memory, and charging too much
        // still respects the limit.
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
        assert_eq!(b.take_refusal(), Some(Limit::Budget(100)));
        assert!(!b.memory_growing(10, 30, Some(20)).unwrap(), "its own maximum is lower");
        assert_eq!(b.take_refusal(), Some(Limit::Memory(10)));
        assert_eq!(b.take_refusal(), None);
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
        assert_eq!(share.take_refusal(), Some(Limit::Budget(1000)));
        assert_eq!(budget.used(), 5, "what was refused is not charged");
        drop(share);
        assert_eq!((budget.used(), budget.spaces.used()), (0, 0));
        assert_eq!(process.spaces.used(), 0, "nothing is guaranteed without memory");
        let guaranteed = process.child(1000, 1);
        assert_eq!(process.spaces.used(), 5, "all are guaranteed to the only one with some");
        assert_eq!((guaranteed.spaces_left(), budget.spaces_left()), (5, 0));
    }

    #[test]
    fn tables_are_bounded_together() {
        let mut share = Share::new(MemoryBudget::new(1 << 30));
        assert!(share.table_growing(0, Share::TABLE_ELEMENTS - 1, None).unwrap());
        assert!(share.table_growing(0, 1, None).unwrap());
        assert!(!share.table_growing(1, 2, None).unwrap());
        assert!(!share.table_growing(0, usize::MAX, None).unwrap());
        assert_eq!(share.take_refusal(), None, "which is not for want of memory");
    }
}
