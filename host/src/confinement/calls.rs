//! Which system calls the process can make, by seccomp (seccomp(2)).
//!
//! The lists say what is used, so that what is new in the kernel is refused. A call that is not on the
//! list fails as if the kernel did not have it (ENOSYS), because that is what the C library expects of a kernel that is
//! older than itself: it then does the same by another call.
//!
//! Two programs are installed. That of the crate seccompiler refuses calls by their arguments. The other allows
//! calls by their numbers, and is built here (`program`), because seccompiler compares a number with one
//! after the other: the kernel tries all its numbers when a filter is installed, which took half a
//! millisecond of each start.

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::Extent;

/// A number of a system call.
type Number = i64;

/// A set of system calls.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    allowed: BTreeSet<Number>,
    /// What arguments of calls that are allowed must not be.
    refused: BTreeMap<Number, Vec<SeccompRule>>,
}

impl Calls {
    /// Returns what a server needs once its sockets are there and its user is the one that serves.
    ///
    /// It can start threads, but no process and no program; it gets no other user or privileges, and
    /// looks into no other process. Of new sockets, those for TCP and within the machine are allowed.
    pub fn serving() -> Self {
        let mut calls = Self::compiling();
        calls.allow(FILES);
        calls.allow(EVENTS);
        calls.allow(SOCKETS);
        calls.allow(OLD_FILES);
        // A server leaves its terminal and directory when it goes to the background.
        calls.allow(&[libc::SYS_setsid, libc::SYS_chdir]);
        // A thread may restrict its files after the calls are restricted.
        calls.allow(&[libc::SYS_landlock_restrict_self]);
        calls.allow(&[libc::SYS_socket, libc::SYS_socketpair, libc::SYS_ioctl]);
        let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_VSOCK];
        calls.refuse(libc::SYS_socket, &families.map(|family| unequal(0, family)));
        for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET] {
            // The top bits of the type are flags: SOCK_NONBLOCK and SOCK_CLOEXEC.
            let kind = masked(1, 0xf, kind);
            calls.refuse(libc::SYS_socket, &[unequal(0, libc::AF_UNIX), kind]);
        }
        calls.refuse(libc::SYS_socketpair, &[unequal(0, libc::AF_UNIX)]);
        // These two would type into the terminal of whoever started the server.
        for request in [libc::TIOCSTI, libc::TIOCLINUX] {
            calls.refuse(libc::SYS_ioctl, &[equal(1, request & u64::from(u32::MAX))]);
        }
        calls
    }

    /// Returns what compiling a component needs: memory, threads, and the files that are open.
    pub fn compiling() -> Self {
        let mut calls = Self::default();
        calls.allow(MEMORY);
        calls.allow(THREADS);
        calls.allow(DATA);
        // No processes or namespaces. The arguments of clone3 cannot be seen, so it is not allowed, and the
        // C library uses clone in its place.
        calls.allow(&[libc::SYS_clone, libc::SYS_prctl]);
        calls.refuse(libc::SYS_clone, &[masked(0, libc::CLONE_THREAD as u64, 0)]);
        calls.refuse(libc::SYS_prctl, &PRCTL.map(|option| unequal(0, option)));
        calls
    }

    /// Restricts all threads of the process to these calls. On a processor whose calls are not known
    /// here nothing is restricted, nor by a kernel without seccomp.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses for another reason.
    pub fn apply_to_process(self) -> io::Result<Extent> {
        let Some(by_number) = program::allowing(&self.allowed) else { return Ok(Extent::None) };
        let by_arguments = self.refusing()?;
        // The second can still be installed under the first: prctl and seccomp are what seccompiler uses.
        for program in [by_arguments, by_number] {
            match apply_filter_all_threads(&program) {
                Ok(()) => {}
                Err(seccompiler::Error::Seccomp(error)) if is_missing(&error) => {
                    return Ok(Extent::None);
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(Extent::Full)
    }

    /// Returns the program that refuses calls by their arguments.
    fn refusing(&self) -> io::Result<BpfProgram> {
        let processor = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
        let refused = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        let rules = self.refused.clone();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, processor);
        filter.and_then(BpfProgram::try_from).map_err(io::Error::other)
    }

    fn allow(&mut self, calls: &[Number]) {
        self.allowed.extend(calls);
    }

    /// Refuses a call whose arguments meet all conditions.
    fn refuse(&mut self, call: Number, conditions: &[SeccompCondition]) {
        let rule = SeccompRule::new(conditions.to_vec()).expect("there are conditions");
        self.refused.entry(call).or_default().push(rule);
    }
}

/// Returns true if the kernel has no seccomp.
fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| code == libc::ENOSYS || code == libc::EINVAL)
}

fn equal(argument: u8, value: u64) -> SeccompCondition {
    condition(argument, Is::Eq, value)
}

fn unequal(argument: u8, value: i32) -> SeccompCondition {
    condition(argument, Is::Ne, u64::from(value.cast_unsigned()))
}

fn masked(argument: u8, mask: u64, value: i32) -> SeccompCondition {
    condition(argument, Is::MaskedEq(mask), u64::from(value.cast_unsigned()))
}

/// The kernel takes all these arguments as 32 bits.
fn condition(argument: u8, is: Is, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, Length::Dword, is, value).expect("a call has six arguments")
}

/// The names of threads, the end of the parent, and what can be read about the process.
const PRCTL: [i32; 6] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_PDEATHSIG,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_SET_VMA,
];

/// Memory of the process.
const MEMORY: &[Number] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_membarrier,
];

/// Threads, their signals, time, and what can be known about the process.
const THREADS: &[Number] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_nanosleep,
    libc::SYS_prlimit64,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_setpriority,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    // A thread of the process, as abort(3) and raise(3) do.
    libc::SYS_tgkill,
    libc::SYS_times,
    libc::SYS_uname,
];

/// Reading and writing what is open.
const DATA: &[Number] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Files and directories; which of them, the rules for files say.
const FILES: &[Number] = &[
    libc::SYS_copy_file_range,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

/// Waiting.
const EVENTS: &[Number] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
];

/// Sockets; which of them can be made, the conditions say.
const SOCKETS: &[Number] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Calls that newer processors do not have, and that do what others of the lists do.
#[cfg(target_arch = "x86_64")]
const OLD_FILES: &[Number] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: &[Number] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_lets_a_process_be_started_or_looked_into() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_setuid,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_init_module,
            libc::SYS_open_by_handle_at,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
        ];
        for calls in [Calls::serving(), Calls::compiling()] {
            assert!(never.iter().all(|call| !calls.allowed.contains(call)));
            // Every call that is refused by its arguments is allowed otherwise.
            assert!(calls.refused.keys().all(|call| calls.allowed.contains(call)));
            assert!(calls.refused.contains_key(&libc::SYS_clone), "a process could be started");
            assert!(!calls.refusing().unwrap().is_empty());
        }
        assert!(!Calls::compiling().allowed.contains(&libc::SYS_openat));
        assert!(!Calls::compiling().allowed.contains(&libc::SYS_socket));
    }
}
