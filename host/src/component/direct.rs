//! The pages of a disk that the host can read and write for itself: what the interface
//! `direct-access` said.
//!
//! It knows where pages are, not what is in them, and nothing of how a component is asked.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::RangeInclusive;

use super::check::Sharing;
use super::fault::Breach;
use super::hint::Hint;
use super::places::{MAX_RUNS, Places};
use super::region::{Memories, Region};
use crate::block::Span;

/// The logarithms of the shortest and the longest page.
const SHORTEST: u32 = 12;
const LONGEST: u32 = 21;

/// A page: its offset divided by its length.
pub(super) type Number = u64;

/// The pages that are known.
///
/// There are no more than the component has memory for. Each takes some 20 bytes here, less than 0.1 %
/// of the 32 KiB of a page of the memory component.
pub(super) struct Pages {
    /// The logarithm of the length.
    shift: u32,
    /// The size of the disk, as the component said it.
    size: u64,
    /// Where they are in the region.
    known: HashMap<Number, u32, BuildHasherDefault<Spread>>,
    /// The memory that they are in, once there are some.
    region: Option<Region>,
    /// The memories that they may be in.
    memories: Memories,
}

/// A stretch of memory within a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    at: u32,
    length: u32,
}

/// A span, at least one byte long, of which all pages are known.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    span: Span,
    /// Where its first part is.
    first: Place,
}

impl Pages {
    /// None are known yet.
    pub(super) fn new(
        page_size: u32,
        size: u64,
        sharing: Sharing,
        memories: Memories,
    ) -> Result<Self, Breach> {
        let shift = page_size.trailing_zeros();
        let longest = match sharing {
            Sharing::Striped { shift } => shift.min(LONGEST),
            _ => LONGEST,
        };
        if !page_size.is_power_of_two() || !(SHORTEST..=longest).contains(&shift) {
            return Err(Breach::PageSize(page_size));
        }
        Ok(Self { shift, size, known: HashMap::default(), region: None, memories })
    }

    /// The page that an offset lies in.
    fn number(&self, offset: u64) -> Number {
        offset >> self.shift
    }

    /// Where a page begins.
    pub(super) fn offset(&self, number: Number) -> u64 {
        number << self.shift
    }

    /// The first part of a span, which lies in one page.
    fn first_part(&self, span: Span) -> Span {
        let left = (1 << self.shift) - (span.offset & ((1 << self.shift) - 1));
        Span { offset: span.offset, length: span.length.min(left) }
    }

    /// Whether a span lies within one page.
    pub(super) fn is_one(&self, span: Span) -> bool {
        self.first_part(span).length == span.length
    }

    /// A span, if all of its pages are known.
    #[inline]
    pub(super) fn known(&self, span: Span) -> Option<Known> {
        let part = self.first_part(span);
        let first = self.find(part)?;
        let rest = span.after(part.length);
        let known = rest.length == 0 || self.numbers(rest).all(|number| self.knows(number));
        known.then_some(Known { span, first })
    }

    /// The bytes of a known span in the page of an index, from its first page on.
    #[inline]
    pub(super) fn chunk(&self, known: Known, index: usize) -> Option<&[u8]> {
        if index == 0 {
            return Some(self.bytes(known.first));
        }
        let offset = self.offset(self.number(known.span.offset) + index as u64);
        let length = known.span.end().checked_sub(offset).filter(|&length| length > 0)?;
        self.find(self.first_part(Span { offset, length })).map(|place| self.bytes(place))
    }

    /// Where a span is, if it lies within one page that is known.
    #[inline]
    fn find(&self, span: Span) -> Option<Place> {
        if !self.is_one(span) {
            return None;
        }
        let number = self.number(span.offset);
        let at = self.known.get(&number)? + (span.offset - self.offset(number)) as u32;
        Some(Place { at, length: span.length as u32 })
    }

    /// The pages that a span reaches.
    pub(super) fn numbers(&self, span: Span) -> RangeInclusive<Number> {
        self.number(span.offset)..=self.number(span.end() - 1)
    }

    /// Whether a page is known.
    pub(super) fn knows(&self, number: Number) -> bool {
        self.known.contains_key(&number)
    }

    /// Makes a page known, which is these bytes of the guest, as a component said that has so many bytes
    /// of memory. If it says more pages than fit into that, which it may, it is as if they had all
    /// been forgotten. False when the page is of no use: when it is in another memory than the
    /// first one.
    pub(super) fn insert(&mut self, number: Number, bytes: &[u8], memory: u64) -> bool {
        if self.known.len() as u64 >= memory >> self.shift {
            self.known = HashMap::default();
        }
        if self.region.is_none() {
            self.region = self.memories.take(bytes);
        }
        let Some(at) = self.region.as_ref().and_then(|region| region.position(bytes)) else {
            return false;
        };
        self.known.insert(number, at);
        true
    }

    /// How long the list must be that is a page.
    pub(super) fn length(&self, number: Number) -> u64 {
        (self.size - self.offset(number)).min(1 << self.shift)
    }

    /// The bytes at a place that was found.
    #[inline]
    fn bytes(&self, place: Place) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| region.bytes(place.at, place.length))
    }

    /// Where a span begins, if it lies within one page that is known.
    #[inline]
    pub(super) fn hint(&self, span: Span) -> Option<Hint> {
        self.find(span).map(|place| Hint::new(self.bytes(place)))
    }

    /// Writes to pages that are all known. False, and nothing is written, if one is not.
    pub(super) fn write(&mut self, span: Span, data: &[u8]) -> bool {
        if !self.numbers(span).all(|number| self.knows(number)) {
            return false;
        }
        let (mut left, mut data) = (span, data);
        while left.length > 0 {
            let part = self.first_part(left);
            let (now, later) = data.split_at(part.length as usize);
            let (Some(place), Some(region)) = (self.find(part), &mut self.region) else {
                return false;
            };
            region.write(place.at, now);
            data = later;
            left = left.after(part.length);
        }
        true
    }

    /// The places of a span, as far as its first pages are known, and `behind` for what comes after the
    /// span. None when there is none of use: when the first page is not known, or one page is in
    /// the place of another.
    pub(super) fn places<'a>(&'a mut self, span: Span, behind: &'a mut [u8]) -> Option<Places<'a>> {
        let mut runs = [(0_u32, 0_u32); MAX_RUNS];
        let mut count = 0;
        let mut left = span;
        while left.length > 0 {
            let part = self.first_part(left);
            let Some(Place { at, length }) = self.find(part) else { break };
            match runs[..count].last_mut() {
                Some((start, so_far)) if start.checked_add(*so_far) == Some(at) => {
                    *so_far += length;
                }
                _ if count == MAX_RUNS => break,
                _ => {
                    runs[count] = (at, length);
                    count += 1;
                }
            }
            left = left.after(part.length);
        }
        let mut places = self.region.as_mut()?.places(&runs[..count])?;
        if left.length == 0 {
            places.push(behind);
        }
        (count > 0).then_some(places)
    }

    /// Forgets the pages that a span reaches.
    pub(super) fn forget(&mut self, span: Span) {
        let reached = self.numbers(span);
        if reached.end() - reached.start() < self.known.len() as u64 {
            for number in reached {
                self.known.remove(&number);
            }
        } else {
            self.known.retain(|number, _| !reached.contains(number));
        }
        if self.known.is_empty() {
            self.known = HashMap::default();
        }
    }
}

/// A hash of page numbers. Nobody gains by choosing numbers that collide: it is the client's own
/// requests that take longer then.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing spreads the top bits well, of which the map takes some, as it takes some
        // from below.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}
