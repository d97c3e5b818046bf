//! Routes: where the bytes of a request are, as the interface `routing` of the contract has it, checked
//! (`check`).

mod check;

use std::time::Duration;

use super::bindings;
use crate::block::{Command, ErrorCode, Operation, Span};
use crate::budget::Held;
use crate::component::lower::Hold;
pub use check::PlaceError;
pub(super) use check::{check_repeat, check_route, check_rules, check_stable};

/// The locks that requests take on the granules that they touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The length of a granule: a power of two, at most 2^30.
    pub granule: u64,
    read: Lock,
    write: Lock,
    zero: Lock,
    trim: Lock,
    cache: Lock,
}

/// How a request locks the granules that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Not at all.
    None,
    /// Together with others that lock as shared.
    Shared,
    /// Alone.
    Exclusive,
}

impl Rules {
    /// Returns how requests of this kind lock.
    pub fn lock(&self, operation: Operation) -> Lock {
        match operation {
            Operation::Read => self.read,
            Operation::Write => self.write,
            Operation::Zero => self.zero,
            Operation::Trim => self.trim,
            Operation::Cache => self.cache,
            Operation::Extents => Lock::Shared,
            Operation::Flush => Lock::None,
        }
    }

    /// Returns true if there is an operation that locks anything against another one.
    pub fn has_locks(&self) -> bool {
        [self.read, self.write, self.zero, self.trim, self.cache].contains(&Lock::Exclusive)
    }
}

/// A request that is to be routed. It is not a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub operation: Operation,
    /// The range, at least one byte.
    pub span: Span,
    /// The effect must be durable.
    pub fua: bool,
    /// The range must stay allocated.
    pub keep_allocated: bool,
    /// It must be fast, or fail.
    pub fast: bool,
}

impl Request {
    /// Returns the request that a command makes.
    pub fn of(command: &Command) -> Self {
        let (mut fua, mut keep_allocated, mut fast) = (false, false, false);
        match *command {
            Command::Write { fua: durable, .. } | Command::Trim { fua: durable, .. } => {
                fua = durable;
            }
            Command::Zero { fua: durable, keep_allocated: kept, fast: quick, .. } => {
                (fua, keep_allocated, fast) = (durable, kept, quick);
            }
            _ => {}
        }
        let (operation, span) = (command.operation(), command.span());
        Self { operation, span, fua, keep_allocated, fast }
    }

    pub(super) fn lowered(&self) -> Option<bindings::Request> {
        Some(bindings::Request {
            operation: lowered(self.operation)?,
            offset: self.span.offset,
            length: self.span.length,
            fua: self.fua,
            keep_allocated: self.keep_allocated,
            fast: self.fast,
        })
    }
}

/// Returns the contract's name of an operation. Flushes are not routed.
pub(super) fn lowered(operation: Operation) -> Option<bindings::Operation> {
    Some(match operation {
        Operation::Read => bindings::Operation::Read,
        Operation::Write => bindings::Operation::Write,
        Operation::Zero => bindings::Operation::Zero,
        Operation::Trim => bindings::Operation::Trim,
        Operation::Cache => bindings::Operation::Cache,
        Operation::Extents => bindings::Operation::Extents,
        Operation::Flush => return None,
    })
}

/// A place on a lower device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The number of the device.
    pub device: usize,
    /// The offset on it.
    pub offset: u64,
}

/// Where the bytes of a segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a lower device.
    Lower(Location),
    /// In the component itself, through `block-store`.
    Own,
    /// Nowhere: they are zeroes.
    Hole,
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub place: Place,
    /// The length in bytes, at least one.
    pub length: u64,
}

/// Bytes to copy between lower devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The source.
    pub from: Location,
    /// The target, which is writable.
    pub to: Location,
    /// The length in bytes, at least one.
    pub length: u64,
}

/// Where the bytes of a request are. The places are within their devices and may be used for the
/// operation.
#[derive(Debug)]
pub struct Route {
    /// What to copy first.
    pub copies: Vec<Copy>,
    /// The parts of the request in order, at least one. Except for `extents`, they are as long as the
    /// request.
    pub segments: Vec<Segment>,
    /// How long to wait first.
    pub delay: Duration,
    /// Passed to `done` when everything is complete.
    pub token: Option<u64>,
    /// The request waits until the component releases it.
    pub hold: Option<Hold>,
    /// The memory of a long route, taken from the budget of the disk.
    pub(super) _held: Option<Held>,
}

/// The number of copies and segments of a route whose memory is not counted: it is as much as that of
/// the request around it.
const UNCOUNTED: usize = 16;

/// Returns the memory that a route takes, if that is to be counted.
pub(super) fn counted(said: &bindings::Route) -> Option<u64> {
    let parts = said.copies.len() + said.segments.len();
    let size = size_of::<Copy>().max(size_of::<Segment>()) as u64;
    (parts > UNCOUNTED).then(|| parts as u64 * size)
}

/// What became of the parts of a route; `None` is success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// For each copy.
    pub copies: Vec<Option<ErrorCode>>,
    /// For each segment.
    pub segments: Vec<Option<ErrorCode>>,
}

impl Results {
    /// Returns the results of a route no part of which was attempted.
    pub fn failed(route: &Route, code: ErrorCode) -> Self {
        Self {
            copies: vec![Some(code); route.copies.len()],
            segments: vec![Some(code); route.segments.len()],
        }
    }
}

impl From<Results> for bindings::Results {
    fn from(results: Results) -> Self {
        let lowered = |list: Vec<Option<ErrorCode>>| {
            list.into_iter().map(|code| code.map(Into::into)).collect()
        };
        Self { copies: lowered(results.copies), segments: lowered(results.segments) }
    }
}

/// A range whose route is known in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StableRoute {
    /// The length of the range, at least one byte, within the disk.
    pub length: u64,
    /// Where its first byte is; the others follow.
    pub place: Place,
}
