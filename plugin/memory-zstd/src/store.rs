//! The disk: implements reads, writes, zeroing and extents in terms of compressed pages.
//!
//! A page exists from the first write into it until a zero or trim leaves nothing but zeroes in it,
//! or until it is compressed and holds nothing else. Parts of the disk without a page read as
//! zeroes. Callers must uphold the guarantees of the contract: every range has at least one byte
//! and lies within the disk.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

pub use crate::answer::{Chunk, Status, StoreError};
pub use crate::codec::PAGE_SIZE;

use crate::cache::Cache;
use crate::codec::{Codec, SLACK};
use crate::heap::Heap;
use crate::part::{PAGE, Part, is_zero};

/// What an entry of the map of pages takes, in bytes: nodes of a B-tree are half full or fuller.
const ENTRY: u64 = 32;

/// The most entries that one call of [`Store::extents`] examines, which bounds its duration.
const EXTENT_PAGES: usize = 4096;

/// More than the cache and the tables of the codec take, in bytes.
const WORKSPACE: usize = 2 << 20;

/// A sparse disk whose pages are compressed.
pub struct Store<H> {
    size: u64,
    /// The compressed pages. An empty one is all zeroes, or dirty in the cache.
    pages: BTreeMap<u64, Box<[u8]>>,
    /// The sum of the lengths of the compressed pages.
    compressed: u64,
    cache: Cache,
    codec: Codec,
    heap: H,
}

impl<H: Heap> Store<H> {
    /// Creates a disk of `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory for calls.
    pub fn new(size: u64, heap: H) -> Result<Self, StoreError> {
        let mut heap = heap;
        // Allocating these cannot fail, so there must be memory for them.
        heap.allocate(0, WORKSPACE, || ()).ok_or(StoreError::NoSpace)?;
        let (cache, codec) = (Cache::new(), Codec::new()?);
        Ok(Self { size, pages: BTreeMap::new(), compressed: 0, cache, codec, heap })
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of bytes that the content of the disk takes.
    pub fn stored(&self) -> u64 {
        self.used() + self.cache.dirty() as u64 * PAGE
    }

    /// Reads a range as chunks, of which neighbours are of different kinds.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory for the chunks, or a page is corrupt.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<Chunk>, StoreError> {
        let mut chunks = Vec::new();
        let mut left = length as usize;
        for part in Part::all(offset, length.into()) {
            if self.is_zero(part.index) {
                match chunks.last_mut() {
                    Some(Chunk::Hole(run)) => *run += part.length as u32,
                    _ => push(&mut chunks, Chunk::Hole(part.length as u32))?,
                }
            } else {
                if !matches!(chunks.last(), Some(Chunk::Data(_))) {
                    let mut bytes = Vec::new();
                    // It ends where the range does, or earlier.
                    let reserved = bytes.try_reserve_exact(left + SLACK);
                    reserved.map_err(|_| StoreError::NoSpace)?;
                    push(&mut chunks, Chunk::Data(bytes))?;
                }
                if let Some(Chunk::Data(bytes)) = chunks.last_mut() {
                    self.read_part(part, bytes)?;
                }
            }
            left -= part.length;
        }
        Ok(chunks)
    }

    /// Appends a part of a page that exists.
    fn read_part(&mut self, part: Part, bytes: &mut Vec<u8>) -> Result<(), StoreError> {
        if let Some(number) = self.cache.find(part.index) {
            bytes.extend_from_slice(&self.cache.slot(number).bytes[part.range()]);
            return Ok(());
        }
        if part.is_whole() {
            let frame = self.pages.get(&part.index).ok_or(StoreError::Corrupt)?;
            return Ok(self.codec.decompress(frame, bytes)?);
        }
        let number = self.cache.oldest(false).ok_or(StoreError::Corrupt)?;
        self.load(number, part.index)?;
        bytes.extend_from_slice(&self.cache.slot(number).bytes[part.range()]);
        Ok(())
    }

    /// Writes `data`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory. Part of the range may have been written.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let mut rest = data;
        for part in Part::all(offset, data.len() as u64) {
            let (own, next) = rest.split_at(part.length);
            self.change(part, false, |bytes| bytes.copy_from_slice(own))?;
            rest = next;
        }
        Ok(())
    }

    /// Makes a range read as zeroes, and releases its pages unless they hold other nonzero bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory to change pages that lie in the range in
    /// part. The others have been released nevertheless.
    pub fn zero(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        let end = offset + length;
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        if first < last {
            self.remove(first, last);
        }
        let head = Part::first(offset, length);
        let tail = Part::first((end - 1) / PAGE * PAGE, (end - 1) % PAGE + 1);
        let tail = (tail.index != head.index).then_some(tail);
        let mut result = Ok(());
        for part in [Some(head), tail].into_iter().flatten() {
            if !part.is_whole() {
                result = result.and(self.zero_part(part));
            }
        }
        result
    }

    /// Zeroes a part of a page, and releases the page if it then holds only zeroes.
    fn zero_part(&mut self, part: Part) -> Result<(), StoreError> {
        if !self.is_zero(part.index) {
            self.change(part, false, |bytes| bytes.fill(0))?;
        }
        if self.is_zero(part.index) {
            self.remove(part.index, part.index + 1);
        }
        Ok(())
    }

    /// Makes a range read as zeroes, and keeps pages for all of it.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory. Part of the range may have been zeroed.
    pub fn zero_allocated(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        for part in Part::all(offset, length) {
            if part.is_whole() || self.is_zero(part.index) {
                self.insert(part.index)?;
                self.release(part.index);
            } else {
                self.change(part, true, |bytes| bytes.fill(0))?;
            }
        }
        Ok(())
    }

    /// Passes the length and status of the runs of a range to `tell`, in order from its beginning:
    /// at least one, and at most `limit`. Adjacent runs differ in status. It may stop before the
    /// end of the range.
    pub fn extents(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
        mut tell: impl FnMut(u64, Status),
    ) {
        let end = offset + length;
        let mut run = (0, Status::Hole);
        let mut told = 0;
        let mut at = offset;
        // Returns false when there were enough.
        let mut add = |length: u64, status: Status| {
            if run.1 != status && run.0 > 0 {
                tell(run.0, run.1);
                told += 1;
                run.0 = 0;
            }
            if told < limit {
                run = (run.0 + length, status);
            }
            told < limit
        };
        let pages = self.pages.range(offset / PAGE..=(end - 1) / PAGE);
        let mut examined = 0;
        for (&index, frame) in pages {
            let start = (index * PAGE).max(offset);
            let next = ((index + 1) * PAGE).min(end);
            if (at < start && !add(start - at, Status::Hole))
                || !add(next - start, self.status(index, frame))
            {
                return;
            }
            at = next;
            examined += 1;
            if examined == EXTENT_PAGES {
                break;
            }
        }
        if at < end && examined < EXTENT_PAGES && !add(end - at, Status::Hole) {
            return;
        }
        tell(run.0, run.1);
    }

    fn status(&self, index: u64, frame: &[u8]) -> Status {
        let is_data = match self.cache.peek(index) {
            Some(slot) => !is_zero(&slot.bytes),
            None => !frame.is_empty(),
        };
        if is_data { Status::Data } else { Status::Zero }
    }

    /// Returns true if a page does not exist or holds only zeroes, unless that takes
    /// decompressing it.
    fn is_zero(&self, index: u64) -> bool {
        let frame = self.pages.get(&index);
        frame.is_none_or(|frame| self.status(index, frame) == Status::Zero)
    }

    fn used(&self) -> u64 {
        self.compressed + self.pages.len() as u64 * ENTRY
    }

    /// Passes a part of a page to `change`, and creates the page if it does not exist.
    fn change(
        &mut self,
        part: Part,
        keep: bool,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), StoreError> {
        let number = self.dirty_slot(part)?;
        let slot = self.cache.slot(number);
        slot.keep = keep;
        change(&mut slot.bytes[part.range()]);
        Ok(())
    }

    /// Returns the slot of a page that is about to be changed. Where the part is, the slot may have
    /// other bytes than the page.
    fn dirty_slot(&mut self, part: Part) -> Result<usize, StoreError> {
        let found = self.cache.find(part.index);
        if let Some(number) = found
            && self.cache.slot(number).dirty
        {
            return Ok(number);
        }
        while !self.cache.has_room() {
            self.compress_oldest()?;
        }
        self.insert(part.index)?;
        let number = match (found, self.cache.oldest(false)) {
            (Some(number), _) => number,
            (None, Some(number)) if part.is_whole() || self.is_zero(part.index) => {
                let slot = self.cache.slot(number);
                slot.clear();
                slot.bytes.clear();
                slot.bytes.resize(PAGE_SIZE, 0);
                slot.index = Some(part.index);
                self.cache.find(part.index);
                number
            }
            (None, Some(number)) => {
                self.load(number, part.index)?;
                number
            }
            (None, None) => return Err(StoreError::Corrupt),
        };
        // What was compressed is out of date from now on.
        self.drop_frame(part.index);
        self.cache.slot(number).dirty = true;
        Ok(number)
    }

    /// Decompresses a page into a slot that is not dirty.
    fn load(&mut self, number: usize, index: u64) -> Result<(), StoreError> {
        let slot = self.cache.slot(number);
        slot.clear();
        slot.bytes.clear();
        let frame = self.pages.get(&index).ok_or(StoreError::Corrupt)?;
        self.codec.decompress(frame, &mut slot.bytes)?;
        slot.index = Some(index);
        self.cache.find(index);
        Ok(())
    }

    /// Compresses the dirty page whose use is the longest ago. If there is no memory for it, it
    /// stays dirty.
    fn compress_oldest(&mut self) -> Result<(), StoreError> {
        let number = self.cache.oldest(true).ok_or(StoreError::NoSpace)?;
        let used = self.used();
        let slot = self.cache.slot(number);
        let Some(index) = slot.index else { return Err(StoreError::Corrupt) };
        if !is_zero(&slot.bytes) {
            let frame = self.codec.store(&slot.bytes, used, &mut self.heap)?;
            let frame = frame.ok_or(StoreError::NoSpace)?;
            self.compressed += frame.len() as u64;
            // The entry exists since the page was changed.
            if let Some(entry) = self.pages.get_mut(&index) {
                *entry = frame;
            }
        } else if !slot.keep {
            self.pages.remove(&index);
        }
        let slot = self.cache.slot(number);
        (slot.dirty, slot.keep) = (false, false);
        Ok(())
    }

    /// Creates a page without changing it if it exists.
    fn insert(&mut self, index: u64) -> Result<(), StoreError> {
        if self.pages.contains_key(&index) {
            return Ok(());
        }
        let used = self.used();
        let inserted = self.heap.allocate(used, ENTRY as usize, || {
            self.pages.insert(index, Box::default());
        });
        inserted.ok_or(StoreError::NoSpace)
    }

    /// Leaves a page that exists without anything but zeroes.
    fn release(&mut self, index: u64) {
        self.drop_frame(index);
        let slots = self.cache.slots_mut().filter(|slot| slot.index == Some(index));
        slots.for_each(|slot| slot.clear());
    }

    fn drop_frame(&mut self, index: u64) {
        if let Some(frame) = self.pages.get_mut(&index) {
            self.compressed -= frame.len() as u64;
            *frame = Box::default();
        }
    }

    /// Removes the pages from `first` until before `end`.
    fn remove(&mut self, first: u64, end: u64) {
        let range = first..end;
        while let Some((&index, _)) = self.pages.range(range.clone()).next() {
            if let Some(frame) = self.pages.remove(&index) {
                self.compressed -= frame.len() as u64;
            }
        }
        let has = |index: Option<u64>| index.is_some_and(|index| range.contains(&index));
        let slots = self.cache.slots_mut().filter(|slot| has(slot.index));
        slots.for_each(|slot| slot.clear());
    }
}

/// Adds a chunk, of which a read has so few that there is memory for them.
fn push(chunks: &mut Vec<Chunk>, chunk: Chunk) -> Result<(), StoreError> {
    chunks.try_reserve(1).map_err(|_| StoreError::NoSpace)?;
    chunks.push(chunk);
    Ok(())
}

#[cfg(test)]
#[path = "store_model.rs"]
mod model;
#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
