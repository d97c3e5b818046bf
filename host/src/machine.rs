//! The resources of the machine that are available to this process.

use std::fs::{self, File};
use std::io::Read;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

/// Returns the number of processors that the affinity and the control group of the process allow.
/// The result is cached, because it takes a dozen system calls.
pub fn processors() -> NonZero<usize> {
    static FOUND: OnceLock<NonZero<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
}

/// Returns the memory that the process may use, in bytes: 7/8 of the machine's memory, or of the
/// lowest limit of the control groups that contain the process.
/// The result is cached, as it takes two dozen system calls.
pub fn memory() -> u64 {
    static FOUND: OnceLock<u64> = OnceLock::new();
    *FOUND.get_or_init(find_memory)
}

/// Finds out, and caches, what the other functions return.
pub fn look() {
    memory();
    address_spaces();
}

fn find_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(machine.mem_unit.into());
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = group_limits(&groups, Path::new("/sys/fs/cgroup"));
    limits.fold(machine, u64::min) / 8 * 7
}

/// Returns the memory limits of the control groups listed in `/proc/self/cgroup` and of their
/// ancestors (cgroups(7)), as far as they are set and visible. From within a container, only its
/// own group and those inside it are visible.
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
        groups.into_iter().filter_map(move |group| read(&group.join(file))?.trim().parse().ok())
    })
}

/// Reads a file that the kernel makes up, usually by one system call: `fs::read_to_string` takes five, for
/// these files do not tell how long they are, and this is done at each start.
fn read(path: &Path) -> Option<String> {
    let mut buffer = [0; 1024];
    let length = File::open(path).ok()?.read(&mut buffer).ok()?;
    match buffer.get(..length)? {
        part if part.len() == buffer.len() => fs::read_to_string(path).ok(),
        all => String::from_utf8(all.to_vec()).ok(),
    }
}

/// The number of mappings of a linear memory or a stack: what is accessible, and the guard.
const MAPPINGS_PER_SPACE: u64 = 2;

/// Returns the number of linear memories and stacks that the process may have without using more
/// than three quarters of the mappings allowed to a process (`vm.max_map_count`).
pub(crate) fn address_spaces() -> u64 {
    /// The default of Linux.
    const MAX_MAP_COUNT: u64 = 65530;
    static FOUND: OnceLock<u64> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let text = read(Path::new("/proc/sys/vm/max_map_count")).unwrap_or_default();
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

    #[test]
    fn files_of_any_length_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for length in [0, 1, 1023, 1024, 1025, 5000] {
            let text = "x".repeat(length);
            fs::write(&path, &text).unwrap();
            assert_eq!(read(&path), Some(text));
        }
        assert_eq!(read(&directory.path().join("missing")), None);
    }
}
