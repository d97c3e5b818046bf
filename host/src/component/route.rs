//! Routes: where the bytes of a request are, as the interface `routing` of the contract has it, checked.
//!
//! These functions depend on the answers and on the sizes of the lower devices alone: they know no
//! instance and call nothing.

use std::time::Duration;

use super::bindings;
use super::contract::{MAX_COPY, MAX_DELAY, MAX_GRANULE, MAX_PARTS};
use super::fault::Breach;
use super::lower::Below;
use crate::block::{Command, ErrorCode, Operation, Span};
use crate::budget::Held;

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

/// Checks the rules of a disk.
pub(super) fn check_rules(said: &bindings::Rules) -> Result<Rules, Breach> {
    if !said.granule.is_power_of_two() || said.granule > MAX_GRANULE {
        return Err(Breach::Granule(said.granule));
    }
    let lock = |lock| match lock {
        bindings::Lock::None => Lock::None,
        bindings::Lock::Shared => Lock::Shared,
        bindings::Lock::Exclusive => Lock::Exclusive,
    };
    Ok(Rules {
        granule: said.granule,
        read: lock(said.read),
        write: lock(said.write),
        zero: lock(said.zero),
        trim: lock(said.trim),
        cache: lock(said.cache),
    })
}

/// Checks the route of a request.
pub(super) fn check_route(
    said: bindings::Route,
    request: &Request,
    below: &dyn Below,
) -> Result<Route, Breach> {
    let parts = said.copies.len() + said.segments.len();
    if said.segments.is_empty() || parts > MAX_PARTS {
        return Err(Breach::PartCount { segments: said.segments.len(), parts });
    }
    let delay = Duration::from_nanos(said.delay);
    if delay > MAX_DELAY {
        return Err(Breach::Delay(delay));
    }
    let copies = said.copies.iter().enumerate().map(|(index, copy)| {
        if copy.length == 0 || copy.length > MAX_COPY {
            return Err(Breach::CopyLength { index, length: copy.length });
        }
        let checked = |location, writes| {
            let location = check_location(location, copy.length, writes, below);
            location.map_err(|error| Breach::Place { part: "copy", index, error })
        };
        Ok(Copy {
            from: checked(copy.from, false)?,
            to: checked(copy.to, true)?,
            length: copy.length,
        })
    });
    let copies = copies.collect::<Result<Vec<_>, _>>()?;
    let mut left = request.span.length;
    let segments = said.segments.iter().enumerate().map(|(index, segment)| {
        let length = segment.length;
        if length == 0 {
            return Err(Breach::EmptySegment { index });
        }
        let total = || said.segments.iter().map(|segment| u128::from(segment.length)).sum();
        left = left
            .checked_sub(length)
            .ok_or_else(|| Breach::RouteLength { wanted: request.span.length, got: total() })?;
        let place = check_place(segment.place, length, request, below);
        let place = place.map_err(|error| Breach::Place { part: "segment", index, error })?;
        Ok(Segment { place, length })
    });
    let segments = segments.collect::<Result<Vec<_>, _>>()?;
    if left > 0 && request.operation != Operation::Extents {
        let (wanted, got) = (request.span.length, request.span.length - left);
        return Err(Breach::RouteLength { wanted, got: got.into() });
    }
    check_targets("copies", copies.iter().map(|copy| (copy.to, copy.length)).collect())?;
    if changes(request.operation) {
        let target = |segment: &Segment| match segment.place {
            Place::Lower(location) => Some((location, segment.length)),
            Place::Own | Place::Hole => None,
        };
        check_targets("segments", segments.iter().filter_map(target).collect())?;
    }
    Ok(Route { copies, segments, delay, token: said.done, _held: None })
}

/// Checks the route of everything from an offset on, which is `left` bytes before the end of the disk.
pub(super) fn check_stable(
    said: &bindings::StableRoute,
    operation: Operation,
    left: u64,
    below: &dyn Below,
) -> Result<StableRoute, Breach> {
    if said.length == 0 || said.length > left {
        return Err(Breach::StableLength { length: said.length, left });
    }
    let span = Span { offset: 0, length: said.length };
    let request = Request { operation, span, fua: false, keep_allocated: false, fast: false };
    let place = check_place(said.place, said.length, &request, below);
    let place = place.map_err(|error| Breach::Place { part: "stable route", index: 0, error })?;
    Ok(StableRoute { length: said.length, place })
}

/// Returns true if an operation writes to its places.
fn changes(operation: Operation) -> bool {
    matches!(operation, Operation::Write | Operation::Zero | Operation::Trim)
}

fn check_place(
    said: bindings::Place,
    length: u64,
    request: &Request,
    below: &dyn Below,
) -> Result<Place, PlaceError> {
    match said {
        bindings::Place::Own => Ok(Place::Own),
        bindings::Place::Hole => {
            let possible = request.operation != Operation::Write && !request.keep_allocated;
            if possible { Ok(Place::Hole) } else { Err(PlaceError::Hole) }
        }
        bindings::Place::Below(location) => {
            let writes = changes(request.operation);
            check_location(location, length, writes, below).map(Place::Lower)
        }
    }
}

fn check_location(
    said: bindings::Location,
    length: u64,
    writes: bool,
    below: &dyn Below,
) -> Result<Location, PlaceError> {
    let bindings::Location { device, offset } = said;
    let index = device as usize;
    let Some(geometry) = below.geometry(index) else {
        return Err(PlaceError::NoSuchDevice { device, devices: below.count() });
    };
    if offset.checked_add(length).is_none_or(|end| end > geometry.size) {
        return Err(PlaceError::BeyondEnd { device, offset, length, size: geometry.size });
    }
    if writes && !geometry.capabilities.writable {
        return Err(PlaceError::ReadOnly(device));
    }
    Ok(Location { device: index, offset })
}

/// Checks that no byte is the target of two parts.
fn check_targets(parts: &'static str, mut targets: Vec<(Location, u64)>) -> Result<(), Breach> {
    targets.sort_unstable_by_key(|(location, _)| (location.device, location.offset));
    for pair in targets.windows(2) {
        let [(first, length), (second, _)] = *pair else { continue };
        if first.device == second.device && first.offset + length > second.offset {
            let (device, offset) = (second.device, second.offset);
            return Err(Breach::TargetTwice { parts, device, offset });
        }
    }
    Ok(())
}

/// What is wrong with a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// The component has no device of this number.
    NoSuchDevice {
        /// The number.
        device: u32,
        /// How many devices it has.
        devices: usize,
    },
    /// The range does not end within the device.
    BeyondEnd {
        /// The number of the device.
        device: u32,
        /// The offset of the range.
        offset: u64,
        /// The length of the range.
        length: u64,
        /// The size of the device.
        size: u64,
    },
    /// The device of this number is not writable.
    ReadOnly(u32),
    /// A hole, where something has to be stored.
    Hole,
}

impl std::fmt::Display for PlaceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchDevice { device, devices } => write!(
                f,
                "on the lower device {device}, which was not among its arguments; it has {devices}"
            ),
            Self::BeyondEnd { device, offset, length, size } => write!(
                f,
                "of {length} bytes at {offset} on the lower device {device}, which has {size} bytes"
            ),
            Self::ReadOnly(device) => {
                write!(f, "that writes to the lower device {device}, which is not writable")
            }
            Self::Hole => f.write_str(
                "that is a hole, for a write or a zero that keeps its range allocated; a hole stores \
                 nothing",
            ),
        }
    }
}
