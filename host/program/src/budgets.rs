//! The memory that the command line gives to disks and requests.

use super::args::Args;
use memnbd::exports::ProcessBudgets;
use memnbd::machine;

/// Creates the budgets of a process with this number of exports.
pub(super) fn process(args: &Args, exports: usize) -> ProcessBudgets {
    ProcessBudgets::new(total(args), args.max_memory, exports)
}

/// Returns a warning if the limits of all exports together exceed the memory of the process.
pub(super) fn promises_too_much(process: &ProcessBudgets) -> Option<String> {
    let (exports, each) = process.limits();
    let (all, each) = (process.memory().limit(), each?);
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

/// Returns the memory limit of the process, in bytes.
pub(super) fn total(args: &Args) -> u64 {
    args.max_process_memory.unwrap_or_else(machine::memory)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn process(typed: &[&str], exports: usize) -> ProcessBudgets {
        let args = Args::try_parse_from(["memnbd-host"].iter().chain(typed)).unwrap();
        super::process(&args, exports)
    }

    #[test]
    fn more_than_there_is_is_told() {
        let text = process(&["--max-process-memory", "8G", "--max-memory", "5G"], 2);
        let text = promises_too_much(&text).unwrap();
        assert!(text.contains("10240 MiB together") && text.contains("7680 MiB"), "{text}");
        assert!(
            promises_too_much(&process(&["--max-process-memory", "8G", "--max-memory", "3G"], 2))
                .is_none()
        );
        let nothing = process(&["--max-process-memory", "8G"], 2);
        assert_eq!(promises_too_much(&nothing), None, "nobody has promised anything");
    }
}
