//! What was written and is not on the disk beneath yet.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use memnbd_guest::{Error, Extent, Lower, Status};

/// The shortest page.
const MIN_PAGE: u64 = 4096;

/// The longest write to the disk beneath.
const MAX_WRITE: usize = 1 << 20;

/// The most extents of an answer.
const MAX_EXTENTS: usize = 4096;

/// A volatile cache, in pages.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    base: Lower,
    /// The size of the disk.
    size: u64,
    /// The length of a page; the last one of the disk may be shorter.
    page: u64,
    /// The most pages.
    limit: usize,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Cache {
    /// Returns an empty cache for up to `limit` bytes.
    pub(crate) fn new(base: Lower, limit: u64) -> Self {
        let geometry = base.geometry();
        // So that extents consist of whole blocks.
        let page = MIN_PAGE.max(geometry.minimum_block.into());
        let limit = usize::try_from(limit / page).unwrap_or(usize::MAX);
        Self { base, size: geometry.size, page, limit, pages: BTreeMap::new() }
    }

    /// Returns how many bytes are in the cache.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.values().map(|page| page.len() as u64).sum()
    }

    /// Returns true if the pages of another cache do not exceed the limit.
    pub(crate) fn has_room_for(&self, other: &Self) -> bool {
        other.pages.len() <= self.limit
    }

    /// Takes the pages of another cache of the same disk.
    pub(crate) fn take(&mut self, other: &mut Self) {
        self.pages.append(&mut other.pages);
    }

    /// Drops everything. Returns how many bytes that were.
    pub(crate) fn lose(&mut self) -> u64 {
        let lost = self.bytes();
        self.pages.clear();
        lost
    }

    fn numbers(&self, offset: u64, end: u64) -> Range<u64> {
        offset / self.page..end.div_ceil(self.page)
    }

    /// Returns the bytes of the disk that a page has.
    fn span(&self, number: u64) -> Range<u64> {
        let start = number * self.page;
        start..(start.saturating_add(self.page)).min(self.size)
    }

    /// Returns true if a byte from `offset` up to `end` is in the cache.
    pub(crate) fn touches(&self, offset: u64, end: u64) -> bool {
        self.pages.range(self.numbers(offset, end)).next().is_some()
    }

    /// Reads from the cache, and where that has nothing, from the disk beneath.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)?;
        let end = offset + buffer.len() as u64;
        for (number, page) in self.pages.range(self.numbers(offset, end)) {
            let span = self.span(*number);
            let (start, stop) = (span.start.max(offset), span.end.min(end));
            let from = &page[(start - span.start) as usize..(stop - span.start) as usize];
            buffer[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(from);
        }
        Ok(())
    }

    /// Writes to the cache, or to the disk beneath if it is more than the cache takes.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let end = offset + data.len() as u64;
        if !self.make_room(offset, end)? {
            return self.base.write(offset, data, false);
        }
        self.change(offset, end, |part, at| {
            part.copy_from_slice(&data[at as usize..at as usize + part.len()]);
        })
    }

    /// Writes zeroes to the cache, or to the disk beneath.
    pub(crate) fn zero(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        if !self.make_room(offset, offset + length)? {
            return self.base.zero(offset, length, memnbd_guest::ZeroOptions::default());
        }
        self.change(offset, offset + length, |part, _| part.fill(0))
    }

    /// Makes room for the pages of a range. Returns false if there cannot be enough, and then there is
    /// nothing in the cache.
    fn make_room(&mut self, offset: u64, end: u64) -> Result<bool, Error> {
        let numbers = self.numbers(offset, end);
        let all = (numbers.end - numbers.start) as usize;
        let new = all - self.pages.range(numbers).count();
        if self.pages.len() + new > self.limit {
            self.write_back()?;
        }
        Ok(all <= self.limit)
    }

    /// Changes a range in the cache. `change` gets each part of it, and where in the range that is.
    fn change(
        &mut self,
        offset: u64,
        end: u64,
        change: impl Fn(&mut [u8], u64),
    ) -> Result<(), Error> {
        for number in self.numbers(offset, end) {
            let span = self.span(number);
            let (start, stop) = (span.start.max(offset), span.end.min(end));
            if !self.pages.contains_key(&number) {
                let length = (span.end - span.start) as usize;
                let mut page = Vec::new();
                page.try_reserve_exact(length).map_err(|_| Error::ENOMEM)?;
                page.resize(length, 0);
                if start > span.start || stop < span.end {
                    self.base.read(span.start, &mut page)?;
                }
                self.pages.insert(number, page);
            }
            if let Some(page) = self.pages.get_mut(&number) {
                let part = (start - span.start) as usize..(stop - span.start) as usize;
                change(&mut page[part], start - offset);
            }
        }
        Ok(())
    }

    /// Removes the pages that lie within a range, which is on the disk beneath.
    pub(crate) fn discard(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        let touched: Vec<u64> =
            self.pages.range(self.numbers(offset, end)).map(|(number, _)| *number).collect();
        for number in touched {
            let span = self.span(number);
            if offset <= span.start && span.end <= end {
                self.pages.remove(&number);
            }
        }
    }

    /// Removes a range that reads as zeroes on the disk beneath: its pages, and what others have of it.
    pub(crate) fn forget(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.discard(offset, length);
        let end = offset + length;
        let touched: Vec<u64> =
            self.pages.range(self.numbers(offset, end)).map(|(number, _)| *number).collect();
        for number in touched {
            let span = self.span(number);
            let (start, stop) = (span.start.max(offset), span.end.min(end));
            self.change(start, stop, |part, _| part.fill(0))?;
        }
        Ok(())
    }

    /// Writes everything to the disk beneath. After an error, what was not written stays.
    pub(crate) fn write_back(&mut self) -> Result<(), Error> {
        let mut run: Vec<u8> = Vec::new();
        while let Some((first, _)) = self.pages.first_key_value() {
            let first = *first;
            run.clear();
            let mut next = first;
            while let Some(page) = self.pages.get(&next) {
                if !run.is_empty() && run.len() + page.len() > MAX_WRITE {
                    break;
                }
                run.try_reserve(page.len()).map_err(|_| Error::ENOMEM)?;
                run.extend_from_slice(page);
                next += 1;
            }
            self.base.write(first * self.page, &run, false)?;
            for number in first..next {
                self.pages.remove(&number);
            }
        }
        Ok(())
    }

    /// Returns the extents of the disk beneath, where what is in the cache is data.
    pub(crate) fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        for extent in self.base.extents(offset, length)? {
            let end = at + extent.length;
            for (number, _) in self.pages.range(self.numbers(at, end)) {
                let span = self.span(*number);
                let (start, stop) = (span.start.max(at), span.end.min(end));
                push(&mut extents, start - at, extent.status);
                push(&mut extents, stop - start, Status::DATA);
                if extents.len() + 1 >= MAX_EXTENTS {
                    return Ok(extents);
                }
                at = stop;
            }
            push(&mut extents, end - at, extent.status);
            if extents.len() + 1 >= MAX_EXTENTS {
                return Ok(extents);
            }
            at = end;
        }
        Ok(extents)
    }
}

/// Adds a run to extents.
fn push(extents: &mut Vec<Extent>, length: u64, status: Status) {
    match extents.last_mut() {
        _ if length == 0 => {}
        Some(last) if last.status == status => last.length += length,
        _ => extents.push(Extent { length, status }),
    }
}
