//! What the machine has for this process.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

/// How many processors the process may use, as its affinity and its control group allow; found out
/// once, for it takes a dozen system calls.
pub(crate) fn processors() -> NonZero<usize> {
    static FOUND: OnceLock<NonZero<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
}

/// The memory that the process may use, in bytes: 7/8 of the machine's, or of the least that a control
/// group allows which the process is in.
pub(crate) fn memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(machine.mem_unit.into());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = group_limits(&groups, Path::new("/sys/fs/cgroup"));
    limits.fold(machine, u64::min) / 8 * 7
}

/// The memory limits of the control groups that `/proc/self/cgroup` names and of those around them
/// (cgroups(7)), as far as there are some and they can be seen: from within a container, only its own
/// and inner ones can.
fn group_limits<'a>(groups: &'a str, mounted: &'a Path) -> impl Iterator<Item = u64> + 'a {
    let files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => Some((PathBuf::new(), "memory.max", path)),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                Some((PathBuf::from("memory"), "memory.limit_in_bytes", path))
            }
            _ => None,
        }
    });
    files.flat_map(move |(hierarchy, file, path)| {
        let root = mounted.join(hierarchy);
        let path = Path::new(path.trim_start_matches('/')).to_owned();
        let groups: Vec<PathBuf> = path.ancestors().map(|group| root.join(group)).collect();
        groups
            .into_iter()
            .filter_map(move |group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok())
    })
}

/// How many mappings a linear memory or a stack takes with its guard and what it begins with.
const MAPPINGS_PER_SPACE: u64 = 4;

/// How many linear memories and stacks the process may have, as far as its mappings count: three
/// quarters of those that the system gives to a process (`vm.max_map_count`).
pub(crate) fn address_spaces() -> u64 {
    /// The default of Linux.
    const MAX_MAP_COUNT: u64 = 65530;
    static FOUND: OnceLock<u64> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        text.trim().parse().unwrap_or(MAX_MAP_COUNT) / 4 * 3 / MAPPINGS_PER_SPACE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_all_groups_around_the_process_count() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("a.slice/b.service")).unwrap();
        fs::create_dir_all(root.join("memory/c")).unwrap();
        fs::write(root.join("memory.max"), "400\n").unwrap();
        fs::write(root.join("a.slice/memory.max"), "200\n").unwrap();
        fs::write(root.join("a.slice/b.service/memory.max"), "max\n").unwrap();
        fs::write(root.join("memory/c/memory.limit_in_bytes"), "300\n").unwrap();
        let limits = |groups: &str| {
            let mut limits: Vec<u64> = group_limits(groups, root).collect();
            limits.sort();
            limits
        };
        assert_eq!(limits("0::/a.slice/b.service\n"), [200, 400]);
        assert_eq!(limits("0::/\n"), [400]);
        assert_eq!(limits("0::/elsewhere/x\n"), [400]);
        assert_eq!(limits("1:name=systemd:/c\n5:cpu,memory:/c\n0::/\n"), [300, 400]);
        assert_eq!(limits("nonsense\n\n"), [0; 0]);
    }
}
