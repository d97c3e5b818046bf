//! The page table of an instance: the locations of the pages that the host can read and write
//! without a call, as reported by the component through the interface `direct-access`.
//!
//! This module knows where pages are, but not what they contain or how a component is asked for
//! them.

use std::ops::RangeInclusive;

use rustc_hash::FxHashMap;

use super::breach::Breach;
use super::check::Sharing;
use super::region::{Hint, Memories, Region};
use crate::block::{MAX_RUNS, Scatter, Span};

/// The base-2 logarithms of the shortest and the longest page length.
const SHORTEST: u32 = 12;
const LONGEST: u32 = 21;

/// The number of a page: its offset on the disk divided by the page length.
pub(super) type Number = u64;

/// The page table of an instance.
///
/// It never has more entries than pages that fit into the component's memory. An entry takes some
/// 20 bytes, less than 0.1 % of the 32 KiB of a page of the memory component.
pub(super) struct Pages {
    /// The base-2 logarithm of the page length.
    shift: u32,
    /// The size of the disk, as reported by the component.
    size: u64,
    /// The position of each known page in the region. The hash need not resist collisions: a client
    /// that provokes them only slows down its own requests.
    known: FxHashMap<Number, u32>,
    /// The memory that contains the pages, once one is known.
    region: Option<Region>,
    /// The memories that may contain the pages.
    memories: Memories,
}

/// A range of bytes within a page, by its position in the memory of the guest.
#[derive(Clone, Copy, Debug)]
struct PageSlice {
    at: u32,
    length: u32,
}

/// The beginning of a span, as far as its pages are in the page table. Their addresses do not
/// change until the guest is called.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    span: Span,
    /// The location of the part in the first page.
    first: PageSlice,
}

impl Resident {
    /// The number of bytes of the span that are resident.
    #[inline]
    pub fn length(&self) -> u64 {
        self.span.length
    }
}

impl Pages {
    /// Creates an empty page table.
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
        Ok(Self { shift, size, known: FxHashMap::default(), region: None, memories })
    }

    /// Returns the number of the page that contains an offset.
    fn number(&self, offset: u64) -> Number {
        offset >> self.shift
    }

    /// Returns the offset of a page on the disk.
    pub(super) fn offset(&self, number: Number) -> u64 {
        number << self.shift
    }

    /// Returns the first part of a span, up to the end of its first page.
    fn first_part(&self, span: Span) -> Span {
        let left = (1 << self.shift) - (span.offset & ((1 << self.shift) - 1));
        Span { offset: span.offset, length: span.length.min(left) }
    }

    /// Returns whether a span lies within one page.
    pub(super) fn is_one(&self, span: Span) -> bool {
        self.first_part(span).length == span.length
    }

    /// Returns the beginning of a span, as far as its pages are known, or `None` if the first one
    /// is not.
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

    /// Returns the resident bytes in the page of the given index, counted from the first page of
    /// the span, or `None` after the last page.
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

    /// Returns the location of a span if it lies within one known page.
    #[inline]
    fn find(&self, span: Span) -> Option<PageSlice> {
        if !self.is_one(span) {
            return None;
        }
        let number = self.number(span.offset);
        let at = self.known.get(&number)? + (span.offset - self.offset(number)) as u32;
        Some(PageSlice { at, length: span.length as u32 })
    }

    /// Returns the locations of the resident bytes, page by page.
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

    /// Returns the numbers of the pages that a span overlaps.
    pub(super) fn numbers(&self, span: Span) -> RangeInclusive<Number> {
        self.number(span.offset)..=self.number(span.end() - 1)
    }

    /// Returns whether the location of a page is known.
    pub(super) fn contains(&self, number: Number) -> bool {
        self.known.contains_key(&number)
    }

    /// Records the location of a page: `bytes` of a guest whose memory is `memory` bytes long in
    /// all. If the table already has as many entries as pages that fit into that memory, it is
    /// cleared first. Returns false if the page cannot be used because it is in another memory than
    /// the first page.
    pub(super) fn insert(&mut self, number: Number, bytes: &[u8], memory: u64) -> bool {
        if self.known.len() as u64 >= memory >> self.shift {
            self.known = FxHashMap::default();
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

    /// Returns the length that the component must return for a page: the last page of the disk may
    /// be shorter.
    pub(super) fn length(&self, number: Number) -> u64 {
        (self.size - self.offset(number)).min(1 << self.shift)
    }

    #[inline]
    fn bytes(&self, slice: PageSlice) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| region.bytes(slice.at, slice.length))
    }

    /// Returns the place of the resident bytes, to be prefetched.
    #[inline]
    pub(super) fn hint(&self, resident: Resident) -> Option<Hint> {
        Some(self.region.as_ref()?.hint(resident.first.at))
    }

    /// Writes to the beginning of the resident bytes.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer resident bytes than `data` has.
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

    /// Returns the resident bytes as buffers to receive into, followed by `behind` for the bytes
    /// after them. If the pages are too scattered, the result covers only the first ones and does
    /// not include `behind`. Returns `None` if two pages overlap in memory.
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

    /// Removes the pages that a span overlaps.
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
            self.known = FxHashMap::default();
        }
    }
}
