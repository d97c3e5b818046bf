//! Requests of clients, and where their bytes are.

use alloc::vec::Vec;
use core::ops::BitOr;
use core::time::Duration;

use crate::{ErrorCode, Lower};

/// The largest number of copies and segments of a [`Route`] together.
pub const MAX_PARTS: usize = 4096;

/// The longest copy of a [`Route`], in bytes.
pub const MAX_COPY: u64 = 64 << 20;

/// The longest delay of a [`Route`], and of [`Filter::repeat`](crate::Filter::repeat).
pub const MAX_DELAY: Duration = Duration::from_secs(600);

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Makes the range read as zeroes.
    Zero,
    /// Discards the range.
    Trim,
    /// Prefetches the range.
    Cache,
    /// Reports the allocation status of the range.
    Extents,
}

impl Operation {
    /// All operations, in the order of the contract.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Zero, Self::Trim, Self::Cache, Self::Extents];

    /// Returns true for the operations that need a writable device.
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Zero | Self::Trim)
    }
}

/// Several operations, which can be combined with `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(u8);

impl Operations {
    /// No operation.
    pub const NONE: Self = Self(0);
    /// All operations.
    pub const ALL: Self = Self(0x3f);

    /// Returns true if an operation is among these.
    pub const fn contains(self, operation: Operation) -> bool {
        self.0 >> operation as u8 & 1 != 0
    }
}

impl From<Operation> for Operations {
    fn from(operation: Operation) -> Self {
        Self(1 << operation as u8)
    }
}

impl<T: Into<Self>> BitOr<T> for Operations {
    type Output = Self;

    fn bitor(self, others: T) -> Self {
        Self(self.0 | others.into().0)
    }
}

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the request does.
    pub operation: Operation,
    /// The beginning of the range.
    pub offset: u64,
    /// The length of the range: at least one byte, within the disk.
    pub length: u64,
    /// The effect is on stable storage before the reply.
    pub fua: bool,
    /// As in [`ZeroOptions`](crate::ZeroOptions).
    pub keep_allocated: bool,
    /// As in [`ZeroOptions`](crate::ZeroOptions).
    pub fast: bool,
}

impl Request {
    /// Returns a request without options.
    pub const fn new(operation: Operation, offset: u64, length: u64) -> Self {
        Self { operation, offset, length, fua: false, keep_allocated: false, fast: false }
    }

    /// Returns the offset of the first byte after the range.
    pub const fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// How a request locks the granules that it touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lock {
    /// Not at all.
    #[default]
    None,
    /// Together with other requests that lock the granule as shared.
    Shared,
    /// Alone.
    Exclusive,
}

/// The locks that requests take before they are routed. Extents always take a shared lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The length of a granule: a power of two, 1 to 2^30.
    pub granule: u64,
    /// The lock of reads.
    pub read: Lock,
    /// The lock of writes.
    pub write: Lock,
    /// The lock of zeroing.
    pub zero: Lock,
    /// The lock of trims.
    pub trim: Lock,
    /// The lock of prefetching.
    pub cache: Lock,
}

impl Rules {
    /// No locks.
    pub const NONE: Self = Self {
        granule: 1 << 30,
        read: Lock::None,
        write: Lock::None,
        zero: Lock::None,
        trim: Lock::None,
        cache: Lock::None,
    };

    /// Returns rules under which reads and prefetching share granules, and everything that changes
    /// a granule locks it exclusively.
    pub const fn shared_or_exclusive(granule: u64) -> Self {
        Self {
            granule,
            read: Lock::Shared,
            write: Lock::Exclusive,
            zero: Lock::Exclusive,
            trim: Lock::Exclusive,
            cache: Lock::Shared,
        }
    }
}

/// A place on a lower device, from [`Lower::at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The device.
    pub device: Lower,
    /// The offset on the device.
    pub offset: u64,
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self::Lower(location)
    }
}

/// Where the bytes of a segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a lower device, which must be writable for `Write`, `Zero` and `Trim`.
    Lower(Location),
    /// In the component: the host calls the function of [`Backend`](crate::Backend) for this part
    /// of the disk.
    Own,
    /// Nowhere: the segment reads as zeroes and is reported as a hole. `Zero`, `Trim` and `Cache`
    /// do nothing. Not for `Write`, and not for `Zero` with `keep_allocated`.
    Hole,
}

impl Place {
    /// Returns true if `next` is the place of what follows `length` bytes at this place.
    pub fn continues(self, length: u64, next: Self) -> bool {
        match (self, next) {
            (Self::Lower(place), Self::Lower(next)) => {
                place.device == next.device && place.offset.checked_add(length) == Some(next.offset)
            }
            (Self::Own, Self::Own) | (Self::Hole, Self::Hole) => true,
            _ => false,
        }
    }
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the bytes are.
    pub place: Place,
    /// At least one byte.
    pub length: u64,
}

/// Bytes to copy from one lower device to another, or within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeCopy {
    /// The place to copy from.
    pub from: Location,
    /// The place to copy to.
    pub to: Location,
    /// At least one byte, at most [`MAX_COPY`].
    pub length: u64,
}

/// Where the bytes of a request are, and what else has to happen.
///
/// Copies and segments together are at most [`MAX_PARTS`]. The segments are together as long as the
/// request, or shorter for [`Operation::Extents`]. No byte is the target of two copies, or of two
/// segments of a request that changes the disk.
///
/// ```
/// use std::time::Duration;
/// use memnbd_guest::{Capabilities, Place, Route, testing};
///
/// let base = testing::device(1 << 20, Capabilities::NONE);
/// let route = Route::new()
///     .segment(base.at(4096), 512)
///     .segment(Place::Hole, 512)
///     .delayed(Duration::from_millis(10));
/// assert_eq!(route.length(), 1024);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// What to copy before the segments begin, in any order.
    pub copies: Vec<RangeCopy>,
    /// The parts of the request in order.
    pub segments: Vec<Segment>,
    /// How long the host waits before it begins, at most [`MAX_DELAY`].
    pub delay: Duration,
    /// The token for [`Filter::done`](crate::Filter::done), which is not called without one.
    pub done: Option<u64>,
    /// The host holds the request, after the delay, until [`release`](crate::release) is called with
    /// this number.
    pub hold: Option<u64>,
}

impl Route {
    /// Returns a route without segments.
    pub const fn new() -> Self {
        Self {
            copies: Vec::new(),
            segments: Vec::new(),
            delay: Duration::ZERO,
            done: None,
            hold: None,
        }
    }

    /// Returns the route of a request of `length` bytes that are all on a lower device.
    pub fn lower(location: Location, length: u64) -> Self {
        Self::new().segment(location, length)
    }

    /// Adds a segment, and merges it with the last one if it continues that one.
    #[must_use]
    pub fn segment(mut self, place: impl Into<Place>, length: u64) -> Self {
        self.push(place, length);
        self
    }

    /// Adds a segment like [`segment`](Self::segment), to a route that is built in a loop.
    pub fn push(&mut self, place: impl Into<Place>, length: u64) {
        let place = place.into();
        match self.segments.last_mut() {
            Some(last) if last.place.continues(last.length, place) => last.length += length,
            _ => self.segments.push(Segment { place, length }),
        }
    }

    /// Adds a copy of `length` bytes.
    #[must_use]
    pub fn copy(mut self, from: Location, to: Location, length: u64) -> Self {
        self.copies.push(RangeCopy { from, to, length });
        self
    }

    /// Makes the host wait before it begins.
    #[must_use]
    pub fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Makes the host call [`Filter::done`](crate::Filter::done) with this token when everything is
    /// complete.
    #[must_use]
    pub fn token(self, token: u64) -> Self {
        Self { done: Some(token), ..self }
    }

    /// Makes the host hold the request until [`release`](crate::release) is called with this number.
    /// Several requests may have the same number. If the client goes away before that, nothing is
    /// executed.
    #[must_use]
    pub fn held(self, number: u64) -> Self {
        Self { hold: Some(number), ..self }
    }

    /// Returns the length of all segments.
    pub fn length(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Returns the number of copies and segments.
    pub fn parts(&self) -> usize {
        self.copies.len() + self.segments.len()
    }
}

/// A range whose route is known in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StableRoute {
    /// The length of the range, at least one byte. It may extend to the end of the disk.
    pub length: u64,
    /// Where the range is.
    pub place: Place,
}

impl StableRoute {
    /// Returns the route of a range of `length` bytes.
    pub fn new(place: impl Into<Place>, length: u64) -> Self {
        Self { length, place: place.into() }
    }
}

/// The outcomes of the parts of a route. `None` is success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// The outcome of each copy.
    pub copies: Vec<Option<ErrorCode>>,
    /// The outcome of each segment. If a copy failed, each has the error of the copy.
    pub segments: Vec<Option<ErrorCode>>,
}

impl Results {
    /// Returns true if everything succeeded.
    pub fn succeeded(&self) -> bool {
        self.copies.iter().chain(&self.segments).all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_continue_each_other_are_merged() {
        let (base, overlay) = (Lower::new(1), Lower::new(2));
        let route = Route::new()
            .segment(base.at(0), 10)
            .segment(base.at(10), 5)
            .segment(overlay.at(15), 1)
            .segment(Place::Hole, 1)
            .segment(Place::Hole, 2)
            .segment(base.at(20), 1)
            .segment(base.at(20), 1);
        let lengths: Vec<u64> = route.segments.iter().map(|segment| segment.length).collect();
        assert_eq!(lengths, [15, 1, 3, 1, 1]);
        assert_eq!(route.length(), 21);
    }
}
