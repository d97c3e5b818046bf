//! What the answers mean by the Canonical ABI, and whether they keep to the contract in
//! `wit/routing.wit`.

use std::sync::Arc;

use memnbd::block::{ErrorCode, Operation, Span};

use super::super::memory::Memory;
use super::store::Store;
use super::{DISK, Request};

/// The limits of the contract.
const MAX_PARTS: usize = 4096;
const MAX_COPY: u64 = 64 << 20;
const MAX_DELAY: u64 = 600_000_000_000;
const MAX_GRANULE: u64 = 1 << 30;

/// The most stable routes of an operation that the host keeps.
const MAX_STABLE: usize = 64;

/// The operations of the contract, in its order.
pub(super) const OPERATIONS: [Operation; 6] = [
    Operation::Read,
    Operation::Write,
    Operation::Zero,
    Operation::Trim,
    Operation::Cache,
    Operation::Extents,
];

#[derive(Clone, Copy, Debug)]
pub(super) struct Location {
    pub(super) device: u32,
    pub(super) offset: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Lower(Location),
    Own,
    Hole,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) from: Location,
    pub(super) to: Location,
    pub(super) length: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) copies: Vec<Copy>,
    pub(super) segments: Vec<(Place, u64)>,
    pub(super) delay: u64,
    pub(super) has_token: bool,
    pub(super) is_held: bool,
}

/// A stable route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    span: Span,
    place: Place,
}

/// The answers of a script.
pub(super) struct Answers {
    pub(super) memory: Memory,
    pub(super) lowers: [Arc<Store>; 3],
}

impl Answers {
    /// The address of the answer whose address is at `pointer`, of this size.
    fn answer(&self, pointer: u32, size: u32, align: u32) -> Option<u32> {
        let at = self.memory.u32(pointer)?;
        let is_within = u64::from(at) + u64::from(size) <= Memory::LENGTH;
        (at.is_multiple_of(align) && is_within).then_some(at)
    }

    /// True if the locks are in order.
    pub(super) fn has_rules(&self) -> bool {
        let Some(at) = self.answer(0, 16, 8) else { return false };
        let granule = self.memory.u64(at).unwrap_or(0);
        granule.is_power_of_two()
            && granule <= MAX_GRANULE
            && (8..13).all(|lock| self.memory.u8(at + lock) < 3)
    }

    /// The route of an operation, if it can be lifted.
    pub(super) fn route(&self, operation: usize) -> Option<Result<Plan, ErrorCode>> {
        let memory = &self.memory;
        let at = self.answer(4 + 4 * operation as u32, 64, 8)?;
        match memory.u8(at) {
            0 => {}
            1 => return memory.error(at + 8).map(|_| Err(code(memory.u8(at + 8)))),
            _ => return None,
        }
        let at = at + 8;
        let (copies, segments) = (memory.list(at, 40, 8)?, memory.list(at + 8, 32, 8)?);
        let copy = |index| {
            let at = copies.at + 40 * index;
            let (from, to) = (self.location(at)?, self.location(at + 16)?);
            Some(Copy { from, to, length: memory.u64(at + 32)? })
        };
        let segment = |index| {
            let at = segments.at + 32 * index;
            Some((self.place(at)?, memory.u64(at + 24)?))
        };
        let has = |at| match memory.u8(at) {
            tag @ 0..2 => Some(tag == 1),
            _ => None,
        };
        Some(Ok(Plan {
            copies: (0..copies.length).map(copy).collect::<Option<_>>()?,
            segments: (0..segments.length).map(segment).collect::<Option<_>>()?,
            delay: memory.u64(at + 16)?,
            has_token: has(at + 24)?,
            is_held: has(at + 40)?,
        }))
    }

    /// What `done` returns: whether the route is to be executed again, or an error.
    pub(super) fn done(&self) -> Option<Result<bool, ErrorCode>> {
        let at = self.answer(0x1c, 24, 8)?;
        match (self.memory.u8(at), self.memory.u8(at + 8)) {
            (0, tag @ 0..2) => Some(Ok(tag == 1)),
            (1, error) => self.memory.error(at + 8).map(|_| Err(code(error))),
            _ => None,
        }
    }

    /// The stable routes of an operation, or `None` if one is not in order.
    pub(super) fn stable(&self, operation: usize) -> Option<Vec<Known>> {
        let mut list = Vec::new();
        let mut offset = 0;
        while list.len() < MAX_STABLE && offset < DISK {
            let pointer = 0x20 + 8 * operation as u32 + if offset > 0 { 4 } else { 0 };
            let at = self.answer(pointer, 40, 8)?;
            match self.memory.u8(at) {
                0 => break,
                1 => {}
                _ => return None,
            }
            let (length, place) = (self.memory.u64(at + 8)?, self.place(at + 16)?);
            let request = Request::plain(operation, Span { offset, length });
            let is_possible =
                (1..=DISK - offset).contains(&length) && self.is_possible(place, length, &request);
            if !is_possible {
                return None;
            }
            list.push(Known { span: request.span, place });
            offset += length;
        }
        Some(list)
    }

    fn place(&self, at: u32) -> Option<Place> {
        Some(match self.memory.u8(at) {
            0 => Place::Lower(self.location(at + 8)?),
            1 => Place::Own,
            2 => Place::Hole,
            _ => return None,
        })
    }

    fn location(&self, at: u32) -> Option<Location> {
        Some(Location { device: self.memory.u32(at)?, offset: self.memory.u64(at + 8)? })
    }

    /// The rules of the contract.
    pub(super) fn is_in_order(&self, plan: &Plan, request: &Request) -> bool {
        let Plan { copies, segments, delay, .. } = plan;
        let sum: u128 = segments.iter().map(|(_, length)| u128::from(*length)).sum();
        let wanted = u128::from(request.span.length);
        !segments.is_empty()
            && segments.len() + copies.len() <= MAX_PARTS
            && *delay <= MAX_DELAY
            && (sum == wanted || (sum < wanted && request.operation() == Operation::Extents))
            && segments.iter().all(|&(place, length)| self.is_possible(place, length, request))
            && copies.iter().all(|copy| {
                copy.length <= MAX_COPY
                    && self.is_within(copy.from, copy.length, false)
                    && self.is_within(copy.to, copy.length, true)
            })
            && are_apart(copies.iter().map(|copy| (copy.to, copy.length)))
            && (!request.changes()
                || are_apart(segments.iter().filter_map(|&(place, length)| match place {
                    Place::Lower(location) => Some((location, length)),
                    _ => None,
                })))
    }

    fn is_possible(&self, place: Place, length: u64, request: &Request) -> bool {
        length > 0
            && match place {
                Place::Lower(location) => self.is_within(location, length, request.changes()),
                Place::Own => true,
                Place::Hole => request.operation() != Operation::Write && !request.keep_allocated,
            }
    }

    fn is_within(&self, location: Location, length: u64, writes: bool) -> bool {
        let Some(lower) = self.lowers.get(location.device as usize) else { return false };
        length > 0
            && u128::from(location.offset) + u128::from(length) <= u128::from(lower.size())
            && (!writes || lower.offers().writable)
    }
}

/// True if no byte is in two places.
fn are_apart(places: impl Iterator<Item = (Location, u64)>) -> bool {
    let places: Vec<_> = places.collect();
    places.iter().enumerate().all(|(index, (first, length))| {
        places[..index].iter().all(|(second, other)| {
            first.device != second.device
                || first.offset + length <= second.offset
                || second.offset + other <= first.offset
        })
    })
}

/// Finds the place of a whole span.
pub(super) fn find(list: &[Known], span: Span) -> Option<Place> {
    let known = list.iter().find(|known| {
        known.span.offset <= span.offset && span.end() <= known.span.offset + known.span.length
    })?;
    let skipped = span.offset - known.span.offset;
    Some(match known.place {
        Place::Lower(Location { device, offset }) => {
            Place::Lower(Location { device, offset: offset + skipped })
        }
        place => place,
    })
}

/// An error code of the contract; the number was checked.
fn code(number: u8) -> ErrorCode {
    [
        ErrorCode::Perm,
        ErrorCode::Io,
        ErrorCode::NoMem,
        ErrorCode::Inval,
        ErrorCode::NoSpc,
        ErrorCode::Overflow,
        ErrorCode::NotSup,
        ErrorCode::Shutdown,
    ][usize::from(number)]
}
