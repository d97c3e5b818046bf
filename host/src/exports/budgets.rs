//! The memory budget of the process, and how its exports share it.

use crate::component::MemoryBudget;
use crate::device::guest::{Budgets, GuestTime, GuestUse};
use crate::device::{Buffers, ProcessBuffers, SharedBuffers};

/// The minimum and the maximum memory for request buffers, in bytes: two requests of the maximum
/// length, and enough to keep some hundred clients busy.
const LEAST_BUFFERS: u64 = 128 << 20;
const MOST_BUFFERS: u64 = 512 << 20;

/// The memory guaranteed to each export, in bytes, as long as all guarantees together do not exceed
/// half of the total.
const GUARANTEED: u64 = 64 << 20;

/// What several exports may take together.
#[derive(Clone, Debug)]
pub struct SharedBudgets {
    /// The memory of their disks.
    pub memory: MemoryBudget,
    /// The memory of requests that are under way.
    pub buffers: SharedBuffers,
    /// The processor time of their guests.
    pub time: GuestTime,
}

/// The budgets of the process.
pub struct ProcessBudgets {
    memory: MemoryBudget,
    buffers: ProcessBuffers,
    exports: u64,
    /// The memory limit of each export, if one was given.
    max_memory: Option<u64>,
}

impl ProcessBudgets {
    /// Divides `total` bytes, for disks and requests together, among this number of exports. Each may
    /// take at most `max_memory`, if that is given.
    pub fn new(total: u64, max_memory: Option<u64>, exports: usize) -> Self {
        let buffers = (total / 16).clamp(LEAST_BUFFERS, MOST_BUFFERS).min(total / 2);
        Self {
            memory: MemoryBudget::new(total - buffers),
            buffers: ProcessBuffers::new(buffers),
            exports: exports.max(1) as u64,
            max_memory,
        }
    }

    /// The memory budget that all disks share.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Creates the budgets of an export to which nothing is guaranteed: it competes for what the others
    /// leave.
    pub fn extra(&self) -> Budgets {
        let limit = self.max_memory.unwrap_or(self.memory.limit());
        Budgets {
            memory: self.memory.child_up_to(limit),
            buffers: self.buffers.share(LEAST_BUFFERS / 2),
            used: GuestUse::default(),
        }
    }

    /// Creates the budgets of an export like [`Self::extra`], which takes from these what it takes.
    pub fn extra_of(&self, shared: &SharedBudgets) -> Budgets {
        let extra = self.extra();
        Budgets {
            memory: shared.memory.child_up_to(extra.memory.limit()),
            buffers: extra.buffers.within(Some(shared.buffers.clone())),
            used: GuestUse::within(&shared.time),
        }
    }

    /// Creates the budgets of one more of the exports among which the budgets are divided.
    pub fn export(&self) -> Budgets {
        let all = self.memory.limit();
        let guaranteed = GUARANTEED.min(all / 2 / self.exports);
        let limit = self.max_memory.unwrap_or(all);
        // However many exports there are, each can have one request of the maximum length in
        // flight.
        let least = LEAST_BUFFERS / 2;
        let buffers = match self.buffers.limit() / self.exports {
            enough if enough >= least => Buffers::own(enough),
            _ => self.buffers.share(least),
        };
        Budgets { memory: self.memory.child(limit, guaranteed), buffers, used: GuestUse::default() }
    }

    /// The number of exports, and the memory limit of each if one was given.
    pub fn limits(&self) -> (u64, Option<u64>) {
        (self.exports, self.max_memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_share_what_the_process_has() {
        let process = ProcessBudgets::new(8 << 30, None, 2);
        let (a, b) = (process.export(), process.export());
        let all = (8 << 30) - MOST_BUFFERS;
        assert_eq!((a.memory.limit(), b.memory.limit()), (all, all));
        assert_eq!(process.memory.used(), 2 * GUARANTEED);
    }

    #[test]
    fn extra_exports_take_nothing_until_they_need_it() {
        let process = ProcessBudgets::new(8 << 30, Some(1 << 30), 1);
        let extra = process.extra();
        assert_eq!((extra.memory.limit(), process.memory.used()), (1 << 30, 0));
    }

    #[test]
    fn small_machines_have_something_for_both() {
        let process = ProcessBudgets::new(64 << 20, None, 3);
        assert_eq!(process.buffers.limit(), 32 << 20);
        assert_eq!(process.memory.limit(), 32 << 20);
    }
}
