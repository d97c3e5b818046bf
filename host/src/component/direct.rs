//! The page table of an instance: where the pages are that the host can read and write without a call,
//! as the component said through the interface `direct-access`.
//!
//! It knows where pages are, not what is in them, and nothing of how a component is asked.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::RangeInclusive;

use super::check::Sharing;
use super::fault::Breach;
use super::region::{Memories, Region};
use crate::block::{MAX_RUNS, Scatter, Span};

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
    known: HashMap<Number, u32, BuildHasherDefault<PageHasher>>,
    /// The memory that they are in, once there are some.
    region: Option<Region>,
    /// The memories that they may be in.
    memories: Memories,
}

/// A stretch of a page, in the memory of the guest.
#[derive(Clone, Copy, Debug)]
struct PageSlice {
    at: u32,
    length: u32,
}

/// The beginning of a span, as far as its pages are known: their addresses do not change until the
/// guest is called.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    span: Span,
    /// Where the part in the first page is.
    first: PageSlice,
}

impl Resident {
    /// How many bytes of the span it covers.
    #[inline]
    pub fn length(&self) -> u64 {
        self.span.length
    }
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

    /// The beginning of a span, as far as its pages are known. None if the first one is not.
    #[inline]
    pub(super) fn resident(&self, span: Span) -> Option<Resident> {
        let part = self.first_part(span);
        let first = self.find(part)?;
        if part.length == span.length {
            return Some(Resident { span, first });
        }
        let rest = span.after(part.length);
        let missing = self.numbers(rest).find(|&number| !self.contains(number));
        let end = missing.map_or(span.end(), |number| self.offset(number));
        Some(Resident { span: Span { length: end - span.offset, ..span }, first })
    }

    /// The bytes in the page of an index, from the first page on; none after the last.
    #[inline]
    pub(super) fn chunk(&self, resident: Resident, index: usize) -> Option<&[u8]> {
        if index == 0 {
            return Some(self.bytes(resident.first));
        }
        let span = resident.span;
        let offset = self.offset(self.number(span.offset) + index as u64);
        let length = span.end().checked_sub(offset).filter(|&length| length > 0)?;
        self.find(self.first_part(Span { offset, length })).map(|slice| self.bytes(slice))
    }

    /// Where a span is, if it lies within one page that is known.
    #[inline]
    fn find(&self, span: Span) -> Option<PageSlice> {
        if !self.is_one(span) {
            return None;
        }
        let number = self.number(span.offset);
        let at = self.known.get(&number)? + (span.offset - self.offset(number)) as u32;
        Some(PageSlice { at, length: span.length as u32 })
    }

    /// Where a span, which is resident, is: page by page.
    fn slices(&self, resident: Resident) -> impl Iterator<Item = PageSlice> {
        let mut left = resident.span;
        std::iter::from_fn(move || {
            if left.length == 0 {
                return None;
            }
            let part = self.first_part(left);
            let is_first = part.offset == resident.span.offset;
            left = left.after(part.length);
            if is_first { Some(resident.first) } else { self.find(part) }
        })
    }

    /// The pages that a span reaches.
    pub(super) fn numbers(&self, span: Span) -> RangeInclusive<Number> {
        self.number(span.offset)..=self.number(span.end() - 1)
    }

    /// Whether a page is known.
    pub(super) fn contains(&self, number: Number) -> bool {
        self.known.contains_key(&number)
    }

    /// Remembers where a page is: at these bytes of the guest, which has so many bytes of memory in all.
    /// What was remembered is forgotten when it is more than fits into that. False when the page is
    /// of no use: when it is in another memory than the first one.
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

    #[inline]
    fn bytes(&self, slice: PageSlice) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| region.bytes(slice.at, slice.length))
    }

    /// Has the processor fetch the beginning of what is resident.
    #[inline]
    pub(super) fn prefetch(&self, resident: Resident) {
        if let Some(region) = &self.region {
            region.prefetch(resident.first.at);
        }
    }

    /// Writes to the beginning of what is resident.
    ///
    /// # Panics
    ///
    /// When that is shorter than the data.
    pub(super) fn write(&mut self, resident: Resident, mut data: &[u8]) {
        assert!(data.len() as u64 <= resident.span.length, "what is written is resident");
        let mut left = Span { length: data.len() as u64, ..resident.span };
        let mut slice = Some(resident.first);
        while left.length > 0 {
            let part = self.first_part(left);
            let (now, later) = data.split_at(part.length as usize);
            let (Some(PageSlice { at, .. }), Some(region)) = (slice, &mut self.region) else {
                return;
            };
            region.write(at, now);
            data = later;
            left = left.after(part.length);
            slice = if left.length > 0 { self.find(self.first_part(left)) } else { None };
        }
    }

    /// What is resident as memory to receive to, and `behind` for what follows. Of many pages it is the
    /// first ones. None when one page is in the place of another.
    pub(super) fn scatter<'a>(
        &'a mut self,
        resident: Resident,
        behind: &'a mut [u8],
    ) -> Option<Scatter<'a>> {
        let mut runs = [(0_u32, 0_u32); MAX_RUNS];
        let (mut count, mut covered) = (0, 0);
        for PageSlice { at, length } in self.slices(resident) {
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
            covered += u64::from(length);
        }
        let mut scatter = self.region.as_mut()?.scatter(&runs[..count])?;
        if covered == resident.span.length {
            scatter.push(behind);
        }
        Some(scatter)
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
struct PageHasher(u64);

impl Hasher for PageHasher {
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
