//! Checks a component's routes against the contract.
//!
//! These functions depend on the answers and on the sizes of the lower devices alone: they know no
//! instance and call nothing.

use std::time::Duration;

use super::{Copy, Location, Lock, Place, Request, Route, Rules, Segment, StableRoute};
use crate::block::{Operation, Span};
use crate::component::bindings;
use crate::component::breach::Breach;
use crate::component::contract::{MAX_COPY, MAX_DELAY, MAX_GRANULE, MAX_PARTS, MAX_REPEATS};
use crate::component::lower::Below;

/// Checks the rules of a disk.
pub(in crate::component) fn check_rules(said: &bindings::Rules) -> Result<Rules, Breach> {
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
pub(in crate::component) fn check_route(
    said: bindings::Route,
    request: &Request,
    below: &dyn Below,
) -> Result<Route, Breach> {
    let parts = said.copies.len() + said.segments.len();
    if said.segments.is_empty() || parts > MAX_PARTS {
        return Err(Breach::PartCount { segments: said.segments.len(), parts });
    }
    let delay = check_delay(said.delay)?;
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
    Ok(Route { copies, segments, delay, token: said.done, hold: None, _held: None })
}

/// Checks the time after which a route is to be executed again, which has been done this often.
pub(in crate::component) fn check_repeat(delay: u64, repeats: u32) -> Result<Duration, Breach> {
    if repeats >= MAX_REPEATS {
        return Err(Breach::Repeats);
    }
    check_delay(delay)
}

fn check_delay(nanoseconds: u64) -> Result<Duration, Breach> {
    let delay = Duration::from_nanos(nanoseconds);
    if delay > MAX_DELAY { Err(Breach::Delay(delay)) } else { Ok(delay) }
}

/// Checks the route of everything from an offset on, which is `left` bytes before the end of the disk.
pub(in crate::component) fn check_stable(
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
