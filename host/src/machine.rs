//! What the machine has for this process.

use std::fs;
use std::num::NonZero;
use std::sync::OnceLock;
use std::thread;

/// How many processors the process may use, as its affinity and its control group allow; found out
/// once, for it takes a dozen system calls.
pub(crate) fn processors() -> NonZero<usize> {
    static FOUND: OnceLock<NonZero<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
}

/// 7/8 of the memory of the machine, or of the control group that the process is in, in bytes.
pub(crate) fn memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(machine.mem_unit.into());
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    group.map_or(machine, |group: u64| group.min(machine)) / 8 * 7
}
