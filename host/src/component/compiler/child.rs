//! The child process that compiles a component: the same program, started with other arguments.
//!
//! It limits and confines itself before it reads a byte of the component, which it reads from stdin:
//! it can open no file and make no system call but those for memory, threads and what is open. It
//! writes the code to stdout as a frame, or the reason for its failure to stderr; its exit code says
//! which.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, nice, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::set_no_new_privs;

use super::super::artifact::{self, Key, MAX_CODE, MAX_FRAME};
use super::super::prepared::compiling_engine;
use super::{CompileLimits, MAX_COMPONENT, broker};
use crate::confinement::{Calls, Files};

/// The first argument of a child process. No option or parameter is spelled like this.
const WORD: &str = "--memnbd-compile-stdin";

/// The environment variable, defined by rayon, that limits the number of threads.
pub(super) const THREADS: &str = "RAYON_NUM_THREADS";

/// The exit codes. They differ from the program's own 1 and 2, and from that of a panic.
pub(super) const COMPILED: i32 = 0;
pub(super) const INVALID: i32 = 3;
pub(super) const NO_MACHINE: i32 = 4;
pub(super) const NO_MEMORY: i32 = 5;
pub(super) const TOO_LONG: i32 = 6;
const UNCONFINED: i32 = 7;

/// Messages that mean a lack of memory where the child cannot choose its exit code: a failed
/// allocation, or a stack or thread that cannot be created.
pub(super) const NO_MEMORY_WORDS: [&str; 3] =
    ["memory allocation of", "Cannot allocate memory", "Resource temporarily unavailable"];

/// The niceness of the child.
const NICENESS: i32 = 10;

/// The address space that it may use in addition to its memory, in bytes: for the program itself,
/// and for what the allocator reserves for each thread.
const ADDRESSES: u64 = 1 << 30;

/// The limit on open files. It needs fewer.
const MAX_FILES: u64 = 32;

/// What a child process is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Whether the code is for memories mapped by the host.
    pub(super) direct: bool,
    pub(super) key: Key,
    pub(super) limits: CompileLimits,
}

impl Order {
    /// Returns the arguments for a child process of this process.
    pub(super) fn arguments(&self) -> [String; 3] {
        [WORD.into(), self.to_string(), std::process::id().to_string()]
    }

    /// Understands what [`fmt::Display`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next();
        let order = Self {
            direct: match next()? {
                "direct" => true,
                "plain" => false,
                _ => return None,
            },
            key: Key::from_hex(next()?)?,
            limits: CompileLimits {
                time: Duration::from_millis(next()?.parse().ok()?),
                processor: next()?.parse().ok()?,
                memory: next()?.parse().ok()?,
            },
        };
        next().is_none().then_some(order)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.direct { "direct" } else { "plain" };
        let CompileLimits { time, processor, memory } = self.limits;
        write!(f, "{kind} {} {} {processor} {memory}", self.key.hex(), time.as_millis())
    }
}

/// Parses the arguments after the first: what to do, and the process ID of the parent.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<(Order, i32)> {
    let mut next = || arguments.next()?.into_string().ok();
    let order = Order::parse(&next()?)?;
    let parent = next()?.parse().ok()?;
    next().is_none().then_some((order, parent))
}

/// Compiles a component, or starts processes that do, if this process was started for that, and returns its
/// exit code. Must be called before anything else.
pub fn main() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next()?;
    if first == broker::WORD {
        return Some(broker::main(arguments).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS));
    }
    if first != WORD {
        return None;
    }
    let code = match parse(arguments) {
        Some((order, parent)) => run(&order, parent).unwrap_or_else(|failure| failure.tell()),
        None => Failure(UNCONFINED, "the orders make no sense".into()).tell(),
    };
    Some(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// An exit code, and the message for it.
struct Failure(i32, String);

impl Failure {
    fn new(code: i32, error: impl fmt::Display) -> Self {
        Self(code, format!("{error:#}"))
    }

    fn tell(&self) -> i32 {
        // The exit code is enough if this fails.
        let _ = writeln!(io::stderr(), "{}", self.1);
        self.0
    }
}

fn run(orders: &Order, parent: i32) -> Result<i32, Failure> {
    confine(orders, parent).map_err(|error| Failure::new(UNCONFINED, error))?;
    let mut wasm = Vec::new();
    let read = io::stdin().lock().take(MAX_COMPONENT + 1).read_to_end(&mut wasm);
    read.map_err(|error| Failure::new(UNCONFINED, error))?;
    if wasm.len() as u64 > MAX_COMPONENT {
        return Err(Failure::new(INVALID, format_args!("more than {MAX_COMPONENT} bytes")));
    }
    let engine = compiling_engine(orders.direct).map_err(|e| Failure::new(NO_MACHINE, e))?;
    let code = engine.precompile_component(&wasm).map_err(|error| {
        let no_memory = error.is::<wasmtime::OutOfMemory>();
        Failure::new(if no_memory { NO_MEMORY } else { INVALID }, error)
    })?;
    if code.len() as u64 > MAX_CODE {
        return Err(Failure::new(TOO_LONG, "too long"));
    }
    let mut output = io::stdout().lock();
    artifact::write(&mut output, &orders.key, &code).and_then(|()| output.flush()).map_err(
        |error| match error.kind() {
            io::ErrorKind::FileTooLarge => Failure::new(TOO_LONG, error),
            _ => Failure::new(NO_MEMORY, error),
        },
    )?;
    Ok(COMPILED)
}

/// Limits this process, so that whatever happens in it harms no other.
fn confine(order: &Order, parent: i32) -> anyhow::Result<()> {
    set_no_new_privs(true).context("no new privileges")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("end with the parent")?;
    let present = getppid().map(|parent| parent.as_raw_nonzero().get());
    anyhow::ensure!(present == Some(parent), "the parent has ended already");
    // If memory runs out, this is the process to kill. Not all systems allow this to be set.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    nice(NICENESS).context("nice")?;
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Fsize, MAX_FRAME),
        (Resource::Nofile, MAX_FILES),
        (Resource::Data, order.limits.memory),
        (Resource::As, order.limits.memory.saturating_add(ADDRESSES)),
        (Resource::Cpu, order.limits.processor),
    ] {
        limit(resource, most).with_context(|| format!("limit {resource:?}"))?;
    }
    // There is no other thread yet.
    Files::default().rules()?.apply_to_thread().context("give up all files")?;
    Calls::compiling().apply_to_process().context("give up other system calls")?;
    Ok(())
}

/// Limits a resource irrevocably. A lower limit that is already in place is not raised.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let least = |other: Option<u64>| other.map_or(most, |other| other.min(most));
    let Rlimit { current, maximum } = getrlimit(resource);
    let current = Some(least(current));
    // At the soft limit of CPU time, the kernel sends SIGXCPU, which tells the parent the cause; at
    // the hard limit, SIGKILL.
    let grace = u64::from(resource == Resource::Cpu);
    let maximum = Some(maximum.map_or(most + grace, |maximum| maximum.min(most + grace)));
    Ok(setrlimit(resource, Rlimit { current, maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_understood_as_they_are_given() {
        let key = Key::of(&wasmtime::Engine::default(), b"");
        let order = Order { direct: true, key, limits: CompileLimits::default() };
        let given = order.arguments();
        let parse = |given: &[String]| parse(given.iter().map(OsString::from));
        let (parsed, parent) = parse(&given[1..]).unwrap();
        assert_eq!(parsed, order);
        assert_eq!(parent.cast_unsigned(), std::process::id());
        assert!(parse(&given[1..2]).is_none());
        assert!(parse(&given).is_none());
        assert!(parse(&[&given[1..], &["x".into()]].concat()).is_none());
        assert!(Order::parse(&format!("{order} 1")).is_none());
    }
}
