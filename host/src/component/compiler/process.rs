//! The parent's side of compiling: starting a child process, passing it the component, limiting its
//! time, and interpreting how it ends.
//!
//! The child's stdin, stdout and stderr are memory files, the first of which is sealed against
//! changes. So neither process waits for the other, and the amount that the child can write is
//! bounded by its own limit on the size of files.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::super::LoadError;
use super::super::artifact::{Artifact, Damage, Key, MAX_CODE, MAX_FRAME};
use super::broker::Broker;
use super::child::{self, Order};

/// The most threads of a child. Each takes memory of its own.
const MAX_THREADS: usize = 4;

/// How many bytes of the child's messages are reported.
const MAX_WORDS: u64 = 2048;

/// Limits on compiling one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// The wall-clock time.
    pub time: Duration,
    /// The CPU time of all threads together, in seconds.
    pub processor: u64,
    /// The memory, in bytes.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(300), processor: 240, memory: 2 << 30 }
    }
}

/// A component to compile.
pub(super) struct Job {
    pub(super) wasm: Bytes,
    pub(super) key: Key,
    /// Whether the code is for memories mapped by the host.
    pub(super) direct: bool,
}

/// Why a component was not compiled, even though it may be valid.
#[derive(Debug)]
pub enum CompileError {
    /// It took longer than this limit.
    Time(Duration),
    /// It took more than this many seconds of CPU time.
    Processor(u64),
    /// It needed more than this many bytes of memory.
    Memory(u64),
    /// The budget does not currently have this many bytes of memory for it.
    NoMemory(u64),
    /// It has more than this many bytes of code.
    Length(u64),
    /// The child process could not be started or watched.
    Start(io::Error),
    /// The child process was killed, probably by the system because memory ran out.
    Killed,
    /// The compiler failed.
    Failed {
        /// How the child process ended.
        status: ExitStatus,
        /// Its messages on stderr.
        words: String,
    },
    /// The child process wrote a damaged frame.
    Damaged(Damage),
    /// A thread of this process panicked.
    Panicked,
}

impl CompileError {
    /// Returns whether compiling may succeed another time, because the cause may be the load of the
    /// machine rather than the component.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Time(_) | Self::NoMemory(_) | Self::Start(_) | Self::Killed)
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(limit) => {
                write!(f, "compiling it takes longer than {limit:?} (--compile-timeout)")
            }
            Self::Processor(seconds) => {
                write!(f, "compiling it takes more than {seconds} s of CPU time (--compile-cpu)")
            }
            Self::Memory(limit) => {
                write!(f, "compiling it takes more than {limit} bytes of memory (--compile-memory)")
            }
            Self::NoMemory(bytes) => write!(
                f,
                "compiling it may take {bytes} bytes of memory, and the disks leave less of what the \
                 process may take (--max-process-memory)"
            ),
            Self::Length(limit) => write!(f, "it is more than {limit} bytes of machine code"),
            Self::Start(error) => write!(f, "the compiler cannot be started: {error}"),
            Self::Killed => f.write_str("the compiler was killed; perhaps the memory ran out"),
            Self::Failed { status, words } if words.is_empty() => {
                write!(f, "the compiler failed: {status}")
            }
            Self::Failed { status, words } => write!(f, "the compiler failed: {status}: {words}"),
            Self::Damaged(damage) => write!(f, "what the compiler wrote is damaged: {damage}"),
            Self::Panicked => f.write_str("the compiler failed in this process"),
        }
    }
}

/// Compiles a component in a child process, started by the broker if there is one, and waits for it.
///
/// # Errors
///
/// Returns an error if the component is invalid, as compiling in this process does, or if the child
/// fails or exceeds a limit.
pub(super) fn run(
    job: &Job,
    limits: &CompileLimits,
    broker: Option<&Broker>,
) -> Result<Artifact, LoadError> {
    let failed = |error| LoadError::Compiler(CompileError::Start(error));
    let input = input(&job.wasm).map_err(failed)?;
    let (output, words) = (memory("code").map_err(failed)?, memory("words").map_err(failed)?);
    let order = Order { direct: job.direct, key: job.key, limits: *limits };
    let files = [&input, &output, &words];
    let ended = match broker {
        Some(broker) => broker.run(&order, files),
        None => given(files).and_then(|files| run_child(&order, files, None)),
    };
    match ended {
        Ok(Some(status)) => judge(job, limits, status, output, words),
        Ok(None) => Err(LoadError::Compiler(CompileError::Time(limits.time))),
        Err(error) => Err(failed(error)),
    }
}

/// Runs a child process with these files as stdin, stdout and stderr, and returns how it ended, or
/// `None` if it was killed because it took too long, or whoever has the other end of `wanted` had gone.
pub(super) fn run_child(
    order: &Order,
    files: [Stdio; 3],
    wanted: Option<&OwnedFd>,
) -> io::Result<Option<ExitStatus>> {
    end_of(&mut start(order, files)?, order.limits.time, wanted)
}

/// Returns a sealed, read-only memory file that contains the component, positioned at its
/// beginning.
fn input(wasm: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("component", flags)?);
    file.write_all(wasm)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Creates an empty memory file.
fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// Returns the files for a child process.
fn given(files: [&File; 3]) -> io::Result<[Stdio; 3]> {
    let [input, output, words] = files.map(|file| file.try_clone().map(Stdio::from));
    Ok([input?, output?, words?])
}

fn start(order: &Order, [input, output, words]: [Stdio; 3]) -> io::Result<Child> {
    let threads = available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    // This runs the same program even if its file was replaced, or its directory is inaccessible to
    // this user.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(env!("CARGO_PKG_NAME"))
        .args(order.arguments())
        .env_clear()
        .env(child::THREADS, threads.to_string())
        .current_dir("/")
        // Ctrl-C is meant for the server, not for the child.
        .process_group(0)
        .stdin(input)
        .stdout(output)
        .stderr(words);
    command.spawn()
}

/// Waits for the child to end, and returns its exit status, or `None` if it was killed because it took too
/// long, or nobody wanted to know any more.
fn end_of(
    child: &mut Child,
    limit: Duration,
    wanted: Option<&OwnedFd>,
) -> io::Result<Option<ExitStatus>> {
    let ended = wait(child, limit, wanted);
    if !matches!(ended, Ok(true)) {
        // This fails if the child has just ended.
        let _ = child.kill();
    }
    // The child has ended, or is about to.
    let status = child.wait()?;
    Ok(ended?.then_some(status))
}

/// Returns whether a child ends in time, and while the other end of `wanted` is open. Does not reap it.
fn wait(child: &Child, limit: Duration, wanted: Option<&OwnedFd>) -> io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let end = Instant::now() + limit;
    let mut watched = vec![PollFd::new(&process, PollFlags::IN)];
    watched.extend(wanted.map(|wanted| PollFd::new(wanted, PollFlags::empty())));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(!watched[0].revents().is_empty()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Interprets how a child ended.
fn judge(
    job: &Job,
    limits: &CompileLimits,
    status: ExitStatus,
    output: File,
    words: File,
) -> Result<Artifact, LoadError> {
    let unreadable = |error| LoadError::Compiler(CompileError::Start(error));
    let error = match (status.code(), status.signal().and_then(Signal::from_named_raw)) {
        (Some(child::COMPILED), _) => {
            let frame = contents(&output, MAX_FRAME).map_err(unreadable)?;
            return Artifact::parse(frame, &job.key)
                .map_err(|damage| LoadError::Compiler(CompileError::Damaged(damage)));
        }
        (Some(child::INVALID), _) => {
            return Err(LoadError::Invalid(wasmtime::Error::msg(text(&words)?)));
        }
        (Some(child::NO_MACHINE), _) => {
            return Err(LoadError::Machine(wasmtime::Error::msg(text(&words)?)));
        }
        (Some(child::NO_MEMORY), _) => CompileError::Memory(limits.memory),
        (Some(child::TOO_LONG), _) | (_, Some(Signal::XFSZ)) => CompileError::Length(MAX_CODE),
        (_, Some(Signal::XCPU)) => CompileError::Processor(limits.processor),
        (_, Some(Signal::KILL)) => CompileError::Killed,
        _ => {
            let words = text(&words)?;
            match child::NO_MEMORY_WORDS.iter().any(|known| words.contains(known)) {
                true => CompileError::Memory(limits.memory),
                false => CompileError::Failed { status, words },
            }
        }
    };
    Err(LoadError::Compiler(error))
}

/// Returns the child's messages as one line.
fn text(words: &File) -> Result<String, LoadError> {
    let bytes = contents(words, MAX_WORDS);
    let bytes = bytes.map_err(|error| LoadError::Compiler(CompileError::Start(error)))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.split_whitespace().collect::<Vec<&str>>().join(" "))
}

/// Returns the first `most` bytes of a file, or all of it if it is shorter. The file offset is
/// wherever the child left it.
fn contents(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(most);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn job() -> Job {
        let engine = wasmtime::Engine::default();
        Job { wasm: Bytes::new(), key: Key::of(&engine, b""), direct: false }
    }

    /// Returns the result for a child that runs a shell script.
    fn end(script: &str, limit: Duration) -> Result<Artifact, LoadError> {
        let (output, words) = (memory("o").unwrap(), memory("w").unwrap());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command.stdout(OwnedFd::from(output.try_clone().unwrap()));
        command.stderr(OwnedFd::from(words.try_clone().unwrap()));
        let mut child = command.spawn().unwrap();
        let limits = CompileLimits { time: limit, ..Default::default() };
        match end_of(&mut child, limit, None).unwrap() {
            Some(status) => judge(&job(), &limits, status, output, words),
            None => Err(LoadError::Compiler(CompileError::Time(limit))),
        }
    }

    #[test]
    fn every_end_of_the_child_has_its_meaning() {
        let long = Duration::from_secs(60);
        for (script, words) in [
            ("exit 0", "it is too short"),
            ("head -c 200 /dev/zero", "does not begin as"),
            ("echo 'not  good' >&2; exit 3", "not a valid component: not good"),
            ("echo no >&2; exit 4", "no component can run on this machine: no"),
            ("exit 5", "more than 2147483648 bytes of memory (--compile-memory)"),
            ("echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$", "bytes of memory"),
            ("exit 6", "bytes of machine code"),
            ("kill -XFSZ $$", "bytes of machine code"),
            ("kill -XCPU $$", "more than 240 s of CPU time (--compile-cpu)"),
            ("kill -KILL $$", "was killed"),
            ("echo 'thread panicked' >&2; exit 101", "thread panicked"),
            ("kill -SEGV $$", "signal: 11"),
        ] {
            let error = end(script, long).err().unwrap().to_string();
            assert!(error.contains(words), "{script}: {error}");
        }
    }

    #[test]
    fn child_that_takes_too_long_is_killed() {
        let limit = Duration::from_millis(50);
        let error = end("sleep 1000", limit).err().unwrap();
        assert!(error.to_string().contains("longer than 50ms (--compile-timeout)"), "{error}");
        assert!(error.may_pass());
    }

    #[test]
    fn child_that_nobody_wants_any_more_is_killed() {
        let (ours, its) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let wanted = OwnedFd::from(its);
        let asking = std::thread::spawn(move || drop(ours));
        let ended = end_of(&mut child, Duration::from_secs(60), Some(&wanted)).unwrap();
        asking.join().unwrap();
        assert_eq!(ended, None);
    }

    #[test]
    fn only_load_passes() {
        let errors = [
            (CompileError::Time(Duration::ZERO), true),
            (CompileError::Killed, true),
            (CompileError::Start(io::ErrorKind::OutOfMemory.into()), true),
            (CompileError::Processor(1), false),
            (CompileError::Memory(1), false),
            (CompileError::Length(1), false),
            (CompileError::Damaged(Damage::Short), false),
        ];
        for (error, passes) in errors {
            assert_eq!(error.may_pass(), passes, "{error}");
        }
    }

    #[test]
    fn component_cannot_be_changed_any_more() {
        let mut input = input(b"wasm").unwrap();
        let mut found = Vec::new();
        input.read_to_end(&mut found).unwrap();
        assert_eq!(found, b"wasm");
        assert!(input.write_all(b"x").is_err());
        assert!(input.set_len(0).is_err());
    }
}
