//! The memory budget of the process, and how its exports share it.

use super::args::Args;
use crate::component::MemoryBudget;
use crate::device::guest::Budgets;
use crate::device::{Buffers, ProcessBuffers};
use crate::machine;

/// The minimum and the maximum memory for request buffers, in bytes: two requests of the maximum
/// length, and enough to keep some hundred clients busy.
const LEAST_BUFFERS: u64 = 128 << 20;
const MOST_BUFFERS: u64 = 512 << 20;

/// The memory guaranteed to each export, in bytes, as long as all guarantees together do not exceed
/// half of the total.
const GUARANTEED: u64 = 64 << 20;

/// The budgets of the process.
pub(super) struct Process {
    memory: MemoryBudget,
    buffers: ProcessBuffers,
    exports: u64,
    /// The memory limit of each export, if one was given.
    max_memory: Option<u64>,
}

impl Process {
    /// Divides the memory of the process among this number of exports.
    pub(super) fn new(args: &Args, exports: usize) -> Self {
        let total = total(args);
        let buffers = (total / 16).clamp(LEAST_BUFFERS, MOST_BUFFERS).min(total / 2);
        Self {
            memory: MemoryBudget::new(total - buffers),
            buffers: ProcessBuffers::new(buffers),
            exports: exports.max(1) as u64,
            max_memory: args.max_memory,
        }
    }

    /// The memory budget that all disks share.
    pub(super) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Creates the budgets of one more export.
    pub(super) fn export(&self) -> Budgets {
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
        Budgets { memory: self.memory.child(limit, guaranteed), buffers }
    }

    /// Returns a warning if the limits of all exports together exceed the memory of the process.
    pub(super) fn promises_too_much(&self) -> Option<String> {
        let (all, each) = (self.memory.limit(), self.max_memory?);
        let exports = self.exports;
        let sum = each.saturating_mul(exports);
        (sum > all).then(|| {
            format!(
                "--max-memory allows {exports} disks {} MiB each, {} MiB together, but the process may \
                 take {} MiB for them: when that is used up, writes fail with ENOSPC; {} MiB each \
                 would always be there (--max-process-memory, the machine and its control group \
                 bound the process)",
                each >> 20,
                sum >> 20,
                all >> 20,
                (all / exports) >> 20
            )
        })
    }
}

/// Returns the memory limit of the process, in bytes.
pub(super) fn total(args: &Args) -> u64 {
    args.max_process_memory.unwrap_or_else(machine::memory)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn process(typed: &[&str], exports: usize) -> Process {
        let args = Args::try_parse_from(["memnbd-host"].iter().chain(typed)).unwrap();
        Process::new(&args, exports)
    }

    #[test]
    fn exports_share_what_the_process_has() {
        let process = process(&["--max-process-memory", "8G"], 2);
        let (a, b) = (process.export(), process.export());
        let all = (8 << 30) - MOST_BUFFERS;
        assert_eq!((a.memory.limit(), b.memory.limit()), (all, all));
        assert_eq!(process.memory.used(), 2 * GUARANTEED);
        assert_eq!(process.promises_too_much(), None, "nobody has promised anything");
    }

    #[test]
    fn more_than_there_is_is_told() {
        let text = process(&["--max-process-memory", "8G", "--max-memory", "5G"], 2);
        let text = text.promises_too_much().unwrap();
        assert!(text.contains("10240 MiB together") && text.contains("7680 MiB"), "{text}");
        assert!(
            process(&["--max-process-memory", "8G", "--max-memory", "3G"], 2)
                .promises_too_much()
                .is_none()
        );
    }

    #[test]
    fn small_machines_have_something_for_both() {
        let process = process(&["--max-process-memory", "64M"], 3);
        assert_eq!(process.buffers.limit(), 32 << 20);
        assert_eq!(process.memory.limit(), 32 << 20);
    }
}
