//! What the system says of the process, by the names that Prometheus has for it.

use std::fs;
use std::time::Duration;

/// What the system says of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu: Duration,
    pub(super) resident: u64,
    pub(super) virtual_memory: u64,
    pub(super) threads: u64,
    pub(super) open_files: u64,
    pub(super) max_files: u64,
    /// In seconds since 1970.
    pub(super) started: f64,
}

impl Process {
    /// Reads them now. What cannot be read is zero.
    pub(super) fn look() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let max_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let open_files = u64::try_from(files).unwrap_or(u64::MAX);
        Self { open_files, max_files: max_files.unwrap_or(u64::MAX), ..Self::of(&stat, &boot) }
    }

    /// Reads the text of /proc/self/stat and /proc/stat (proc(5)).
    fn of(stat: &str, boot: &str) -> Self {
        // The name of the program comes before them, in parentheses, and may contain anything.
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let fields: Vec<u64> =
            fields.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect();
        // The first field after the name is the third one of the manual page.
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let seconds = |ticks_: u64| ticks_ as f64 / ticks;
        let booted = boot.lines().find_map(|line| line.strip_prefix("btime "));
        let booted = booted.and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
        Self {
            cpu: Duration::from_secs_f64(seconds(field(14).saturating_add(field(15)))),
            threads: field(20),
            started: booted + seconds(field(22)),
            virtual_memory: field(23),
            resident: field(24).saturating_mul(rustix::param::page_size() as u64),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn names_of_programs_do_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 1000 8192 2 1";
        let process = Process::of(stat, "cpu 1 2\nbtime 100\n");
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(process.cpu, Duration::from_secs_f64(300.0 / ticks));
        assert_eq!((process.threads, process.virtual_memory), (3, 8192));
        assert_eq!(process.resident, 2 * rustix::param::page_size() as u64);
        assert_eq!(process.started, 100.0 + 1000.0 / ticks);
    }

    #[test]
    fn this_process_is_looked_at() {
        let process = Process::look();
        assert!(process.resident > 1 << 20 && process.virtual_memory > process.resident);
        assert!(process.threads >= 1 && process.open_files >= 3);
        assert!(process.max_files >= process.open_files);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!(process.started > 1e9 && process.started < now + 1.0, "{}", process.started);
    }
}
