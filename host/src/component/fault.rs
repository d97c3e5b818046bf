//! Faults, which end an instance. They are always the component's fault, or the host's, never a
//! client's.

use std::fmt;
use std::time::Duration;

use rustc_demangle::demangle;
use wasmtime::{FrameInfo, Trap, WasmBacktrace};

use super::breach::Breach;
use super::call::Call;
use super::check::printable_up_to;

/// Why an instance is dead. The receiver logs the fault and never calls the instance again.
#[derive(Debug)]
pub enum Fault {
    /// It could not be started.
    Start(wasmtime::Error),
    /// It was refused memory, and could not start or continue without it.
    OutOfMemory {
        /// The call, or `None` while it was started.
        call: Option<Call>,
        /// Which limit it met.
        limit: Limit,
        /// The error that it failed with.
        error: wasmtime::Error,
    },
    /// It was refused memory, and reported that it cannot do without.
    NoMemory {
        /// What all instances of the disk may use together, in bytes.
        limit: u64,
    },
    /// It trapped, one of its imports failed, or its return value could not be decoded.
    Trap {
        /// The call.
        call: Call,
        /// The error that it failed with, which may have a backtrace.
        error: wasmtime::Error,
    },
    /// A call exceeded this deadline. `None` means that it was being started.
    Deadline(Option<Call>, Duration),
    /// The host panicked while handling a request, perhaps in the middle of a call.
    Panic,
    /// It returned something that the contract forbids.
    Breach {
        /// The call that returned it.
        call: Call,
        /// What was wrong with the answer.
        breach: Breach,
    },
}

/// The limit that an instance met when it asked for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// What all instances of the disk may use together, in bytes. The system may have less.
    Budget(u64),
    /// The most that a memory of its own may have, in bytes: 4 GiB, or what the component declares.
    Memory(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(bytes) => write!(
                f,
                "the component needs more memory than there is (--max-memory allows {bytes} bytes)"
            ),
            Self::Memory(bytes) => write!(
                f,
                "the memory of an instance is full: it has {bytes} bytes and cannot grow further \
                 (a WebAssembly memory ends at 4 GiB)"
            ),
        }
    }
}

impl Fault {
    /// Returns whether another instance may succeed, because there may be more memory or time by
    /// then.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::OutOfMemory { limit: Limit::Budget(_), .. } | Self::Deadline(..))
    }
}

/// A call, as the subject of a sentence.
struct Subject(Option<Call>);

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(call) => call.fmt(f),
            None => f.write_str("the component"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the component could not be started: {error:#}"),
            Self::OutOfMemory { call, limit, error } => {
                let call = Subject(*call);
                write!(f, "{limit}: {call} failed: {}", cause(error))
            }
            Self::NoMemory { limit } => Limit::Budget(*limit).fmt(f),
            Self::Trap { call, error } => match error.downcast_ref::<Trap>() {
                Some(trap) => write!(f, "{call} trapped: {trap}{}", Frames(error)),
                None => write!(f, "{call} failed: {}", error.root_cause()),
            },
            Self::Deadline(call, deadline) => {
                let call = Subject(*call);
                write!(f, "{call} did not return within its deadline of {deadline:?}")
            }
            Self::Panic => f.write_str("the server panicked at a request, see above"),
            Self::Breach { call, breach } => {
                write!(f, "the component broke the contract: {call} returned {breach}")
            }
        }
    }
}

/// The cause of a failed call. Of a trap this is its kind, which its backtrace hides.
fn cause(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    }
}

/// The functions that were active at a trap, innermost first, if the component's file has names.
struct Frames<'a>(&'a wasmtime::Error);

impl Frames<'_> {
    /// The most functions that are shown.
    const SHOWN: usize = 8;

    /// The longest name that is shown in full, in bytes.
    const NAME: usize = 80;

    /// The longest name that is demangled, in bytes: a component can have names of any length.
    const MANGLED: usize = 1024;
}

impl fmt::Display for Frames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(backtrace) = self.0.downcast_ref::<WasmBacktrace>() else { return Ok(()) };
        let names = backtrace.frames().iter().filter_map(FrameInfo::func_name);
        for (index, name) in names.take(Self::SHOWN).enumerate() {
            let name = match name.len() <= Self::MANGLED {
                true => printable_up_to(&format!("{:#}", demangle(name)), Self::NAME),
                false => printable_up_to(name, Self::NAME),
            };
            let before = if index == 0 { " in " } else { ", called by " };
            write!(f, "{before}{name}")?;
        }
        Ok(())
    }
}
