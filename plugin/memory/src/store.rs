//! The disk: implements reads, writes, zeroing and extents in terms of pages.
//!
//! A page exists from the first write into it until a zero or trim leaves nothing but zeroes in it.
//! Parts of the disk without a page read as zeroes. Callers must uphold the guarantees of the
//! contract: every range has at least one byte and lies within the disk.
//!
//! This module depends neither on the ABI nor on the source of the memory.

use crate::directory::{Directory, Slot};
use crate::pages::{Memory, PAGE_BITS, PAGE_SIZE, Page, Pages, address};
use crate::zero::is_zero;

/// The maximum number of pages that one call of [`Store::extents`] examines. It bounds the duration
/// of a call to a few milliseconds, however much is stored.
const EXTENT_PAGES: u32 = 4096;

/// The error for running out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSpace;

/// A part of the result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes in memory.
    Data {
        /// The address of the first byte.
        address: u32,
        /// The number of bytes, at least 1.
        length: u32,
    },
    /// This many zeroes.
    Hole(u32),
}

/// The allocation status of a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The run has no pages.
    Hole,
    /// The run has pages, which hold only zeroes.
    Zero,
    /// The run has pages, each of which holds a nonzero byte.
    Data,
}

/// A sparse disk.
pub struct Store<M> {
    pub(crate) pages: Pages<M>,
    pub(crate) directory: Directory,
    size: u64,
    /// The number of pages that hold content of the disk.
    stored: u64,
    /// All parts of the disk have pages, which they keep.
    pub(crate) allocated: bool,
}

/// The part of a range that lies in one page.
struct Part {
    index: u64,
    /// The offset in the page at which the part begins.
    at: u32,
    length: u32,
}

/// Returns the first part of a range.
fn first_part(offset: u64, length: u64) -> Part {
    let at = offset as u32 & (PAGE_SIZE - 1);
    Part { index: offset >> PAGE_BITS, at, length: length.min(u64::from(PAGE_SIZE - at)) as u32 }
}

impl<M: Memory> Store<M> {
    /// Creates a disk of `size` bytes. Returns `None` if there is not enough memory for its landing
    /// zone.
    pub fn new(size: u64, memory: M) -> Option<Self> {
        let directory = Directory::new(size.div_ceil(u64::from(PAGE_SIZE)));
        Some(Self { pages: Pages::new(memory)?, directory, size, stored: 0, allocated: false })
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns true if all parts of the disk have pages, which they keep.
    pub fn is_allocated(&self) -> bool {
        self.allocated
    }

    /// Returns the number of bytes in pages that hold content of the disk.
    pub fn stored(&self) -> u64 {
        self.stored << PAGE_BITS
    }

    /// Returns the address and the length of the page that begins at an offset, or `None` if there
    /// is no such page. The length is less than [`PAGE_SIZE`] if the disk ends within the page. The
    /// page does not move until it is zeroed or trimmed.
    pub fn page(&mut self, offset: u64) -> Option<(u32, u32)> {
        let length = (self.size - offset).min(u64::from(PAGE_SIZE)) as u32;
        match self.directory.find(&mut self.pages, offset >> PAGE_BITS, 1) {
            Slot::Present(page) => Some((address(page), length)),
            Slot::Absent(_) => None,
        }
    }

    /// Makes a page of zeroes where there is none, and returns the place of the page at `offset`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no memory left.
    pub fn make_page(&mut self, offset: u64) -> Result<(u32, u32), NoSpace> {
        let (page, content) = self.page_for_writing(offset >> PAGE_BITS)?;
        if let Content::Garbage = content {
            self.fill(page, 0, PAGE_SIZE);
        }
        let length = (self.size - offset).min(u64::from(PAGE_SIZE)) as u32;
        Ok((address(page), length))
    }

    /// Returns the address at which to put the payload of the next [`Store::write`].
    pub fn landing(&self) -> u32 {
        self.pages.landing()
    }

    /// Passes the chunks of a range to `tell`, in order. Data is not copied, and chunks that are
    /// contiguous in memory are joined. The chunks are valid until the next write, zero or trim.
    pub fn read(&mut self, offset: u64, length: u32, mut tell: impl FnMut(Chunk)) {
        let end = offset + u64::from(length);
        let mut offset = offset;
        let mut last = None;
        while offset < end {
            let part = first_part(offset, end - offset);
            let next = match self.find(&part, end) {
                Slot::Present(page) => {
                    offset += u64::from(part.length);
                    Chunk::Data { address: address(page) + part.at, length: part.length }
                }
                Slot::Absent(run) => {
                    let length = absent_bytes(offset, end, run);
                    offset += length;
                    Chunk::Hole(length as u32)
                }
            };
            last = match last {
                None => Some(next),
                Some(before) => join(before, next).or_else(|| {
                    tell(before);
                    Some(next)
                }),
            };
        }
        last.into_iter().for_each(tell);
    }

    /// Writes the `length` bytes of payload at [`Store::landing`].
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory. Part of the range may have been written.
    pub fn write(&mut self, offset: u64, length: u32) -> Result<(), NoSpace> {
        let landing = self.pages.landing();
        let adoptable = self.adoptable(offset, length);
        // Copy what is not adopted first, as adopting the rest gives up the landing zone.
        self.copy(landing, offset, adoptable * PAGE_SIZE, length)?;
        if adoptable > 0 && !self.adopt(offset, adoptable) {
            self.copy(landing, offset, 0, adoptable * PAGE_SIZE)?;
        }
        Ok(())
    }

    /// Makes a range read as zeroes, and releases its pages unless they hold other nonzero bytes.
    pub fn zero(&mut self, offset: u64, length: u64) {
        if self.allocated {
            // There is a page everywhere, so none is allocated.
            let _ = self.zero_allocated(offset, length);
            return;
        }
        let end = offset + length;
        let first = offset.next_multiple_of(u64::from(PAGE_SIZE));
        let last = end & !u64::from(PAGE_SIZE - 1);
        if first > last {
            return self.zero_part(&first_part(offset, length));
        }
        if offset < first {
            self.zero_part(&first_part(offset, length));
        }
        if first < last {
            self.remove(first >> PAGE_BITS, (last - 1) >> PAGE_BITS);
        }
        if last < end {
            self.zero_part(&first_part(last, end - last));
        }
    }

    /// Makes a range read as zeroes, and allocates pages for all of it.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory. Part of the range may have been zeroed.
    pub fn zero_allocated(&mut self, offset: u64, length: u64) -> Result<(), NoSpace> {
        let end = offset + length;
        let mut offset = offset;
        while offset < end {
            let part = first_part(offset, end - offset);
            let (page, content) = self.page_for_writing(part.index)?;
            match content {
                Content::Stored => self.fill(page, part.at, part.length),
                Content::Zeroes => {}
                Content::Garbage => self.fill(page, 0, PAGE_SIZE),
            }
            offset += u64::from(part.length);
        }
        Ok(())
    }

    /// Passes the length and status of the runs of a range to `tell`, in order from its beginning:
    /// at least one, and at most `limit`. Adjacent runs differ in status. It may stop before the
    /// end of the range.
    pub fn extents(
        &mut self,
        offset: u64,
        length: u64,
        limit: usize,
        mut tell: impl FnMut(u64, Status),
    ) {
        let end = offset + length;
        let mut offset = offset;
        let mut run: Option<(u64, Status)> = None;
        let mut told = 0;
        let mut looked = 0;
        while offset < end && looked < EXTENT_PAGES {
            let part = first_part(offset, end - offset);
            let (length, status) = match self.find(&part, end) {
                Slot::Absent(run) => (absent_bytes(offset, end, run), Status::Hole),
                Slot::Present(page) => {
                    looked += 1;
                    (u64::from(part.length), self.status(page))
                }
            };
            offset += length;
            run = match run {
                Some((before, same)) if same == status => Some((before + length, status)),
                Some((before, other)) => {
                    tell(before, other);
                    told += 1;
                    if told == limit {
                        return;
                    }
                    Some((length, status))
                }
                None => Some((length, status)),
            };
        }
        if let Some((length, status)) = run {
            tell(length, status);
        }
    }

    /// Looks up the page of the first part of a range that ends at `end`.
    fn find(&mut self, part: &Part, end: u64) -> Slot {
        let last = (end - 1) >> PAGE_BITS;
        self.directory.find(&mut self.pages, part.index, last - part.index + 1)
    }

    fn status(&mut self, page: Page) -> Status {
        if is_zero(self.pages.memory().bytes(address(page), PAGE_SIZE)) {
            Status::Zero
        } else {
            Status::Data
        }
    }

    /// Returns the number of whole pages at the beginning of a payload that could be adopted: those
    /// that are aligned in the landing zone as on the disk, and whose indexes have no page yet.
    fn adoptable(&mut self, offset: u64, length: u32) -> u32 {
        let whole = length / PAGE_SIZE;
        if whole == 0 || offset & u64::from(PAGE_SIZE - 1) != 0 || !self.pages.can_adopt() {
            return 0;
        }
        let first = offset >> PAGE_BITS;
        let mut count = 0;
        while count < whole {
            let wanted = u64::from(whole - count);
            match self.directory.find(&mut self.pages, first + u64::from(count), wanted) {
                Slot::Present(_) => break,
                Slot::Absent(run) => count += run.min(wanted) as u32,
            }
        }
        count
    }

    /// Makes the first `count` pages of the landing zone the pages of the disk at `offset`. Returns
    /// whether it succeeded.
    fn adopt(&mut self, offset: u64, count: u32) -> bool {
        let first = offset >> PAGE_BITS;
        let indexes = first..first + u64::from(count);
        // Reserve the branches first: they may need pages, and every adopted page must have an
        // entry.
        let reserved =
            indexes.clone().all(|index| self.directory.reserve(&mut self.pages, index).is_some());
        let Some(adopted) = reserved.then(|| self.pages.adopt(count)).flatten() else {
            return false;
        };
        for (index, page) in indexes.zip(adopted..) {
            // The branch exists, so this only looks it up and allocates no page.
            let _ = self.directory.reserve(&mut self.pages, index);
            self.directory.insert(&mut self.pages, index, page);
        }
        self.stored += u64::from(count);
        true
    }

    /// Copies bytes `from..to` of the payload to their pages.
    fn copy(&mut self, landing: u32, offset: u64, from: u32, to: u32) -> Result<(), NoSpace> {
        let mut done = from;
        while done < to {
            let part = first_part(offset + u64::from(done), u64::from(to - done));
            let (page, content) = self.page_for_writing(part.index)?;
            if content == Content::Garbage {
                let end = part.at + part.length;
                self.fill(page, 0, part.at);
                self.fill(page, end, PAGE_SIZE - end);
            }
            self.pages.memory().copy(landing + done, address(page) + part.at, part.length);
            done += part.length;
        }
        Ok(())
    }

    /// Returns the page of an index, and allocates one if there is none. A new page that contains
    /// garbage must be overwritten completely before anything else is done.
    fn page_for_writing(&mut self, index: u64) -> Result<(Page, Content), NoSpace> {
        if let Slot::Present(page) = self.directory.find(&mut self.pages, index, 1) {
            return Ok((page, Content::Stored));
        }
        self.directory.reserve(&mut self.pages, index).ok_or(NoSpace)?;
        let allocated = self.pages.allocate().ok_or(NoSpace)?;
        self.directory.insert(&mut self.pages, index, allocated.page);
        self.stored += 1;
        let content = if allocated.zeroed { Content::Zeroes } else { Content::Garbage };
        Ok((allocated.page, content))
    }

    /// Zeroes a part of a page, and releases the page if it then holds only zeroes.
    fn zero_part(&mut self, part: &Part) {
        let Slot::Present(page) = self.directory.find(&mut self.pages, part.index, 1) else {
            return;
        };
        self.fill(page, part.at, part.length);
        if self.status(page) == Status::Zero {
            self.remove(part.index, part.index);
        }
    }

    fn remove(&mut self, first: u64, last: u64) {
        self.stored -= self.directory.remove(&mut self.pages, first, last);
    }

    fn fill(&mut self, page: Page, at: u32, length: u32) {
        self.pages.memory().bytes_mut(address(page) + at, length).fill(0);
    }
}

/// The content of a page that is about to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Bytes of the disk.
    Stored,
    /// A new page, all zeroes.
    Zeroes,
    /// A new page that contains arbitrary bytes.
    Garbage,
}

/// Returns the number of bytes from `offset` to the end of a run of absent pages, or to `end` if
/// that comes first.
fn absent_bytes(offset: u64, end: u64, run: u64) -> u64 {
    // A directory for all 2^48 pages covers 2^54 indexes, so a run may end beyond 2^64 bytes.
    let run_end = ((offset >> PAGE_BITS) + run).saturating_mul(u64::from(PAGE_SIZE));
    run_end.min(end) - offset
}

/// Joins two chunks if the second continues the first.
pub(crate) fn join(before: Chunk, next: Chunk) -> Option<Chunk> {
    match (before, next) {
        (Chunk::Hole(before), Chunk::Hole(next)) => Some(Chunk::Hole(before + next)),
        (Chunk::Data { address, length: before }, Chunk::Data { address: at, length })
            if address.wrapping_add(before) == at =>
        {
            Some(Chunk::Data { address, length: before + length })
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "store_model.rs"]
mod model;
#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
