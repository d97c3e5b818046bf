//! A disk that can be written to: pages that were written, on top of an image.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::image::Image;
use crate::piece::Piece;

/// The size of a page in bytes. The first write to a page copies it from the image, and extents
/// begin and end at pages.
pub const PAGE: u64 = 32 << 10;

/// The most extents that [`Store::extents`] returns.
pub const MAX_EXTENTS: usize = 4096;

/// The most searches that [`Store::extents`] makes in the image, as there can be one for each page
/// of an extent. In deeply nested images these take some tenths of a second.
const MAX_SEARCHES: usize = 1 << 14;

/// The disk.
pub struct Store {
    /// The bytes of pages that are not in `pages`. Those that are there hide it.
    image: Image,
    /// The pages that were written, by their numbers in ascending order. A vector rather than a
    /// map, because only a vector reports that there is no memory.
    pages: Vec<(u64, Box<[u8]>)>,
    /// The pieces that the image had at first.
    initial_pieces: usize,
    limit: u64,
}

/// There is no memory, or the limit of the store is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSpace;

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no space: the memory for written pages is full; zero or trim to free some")
    }
}

impl core::error::Error for NoSpace {}

/// A run of bytes with the same status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The length in bytes, at least 1.
    pub length: u64,
    /// Whether the run is a hole, which reads as zeroes, rather than data.
    pub hole: bool,
}

/// Offsets and lengths given to the methods must lie within the disk.
impl Store {
    /// Creates a disk with the content and the size of an image. Changes may take up to `limit`
    /// bytes, however much memory there is.
    pub fn new(image: Image, limit: u64) -> Self {
        let initial_pieces = image.pieces().len();
        Self { image, pages: Vec::new(), initial_pieces, limit }
    }

    /// The size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// The number of bytes that changes take: pages that were written, and pieces that the image
    /// has more than at first, because data in it became holes.
    pub fn stored(&self) -> u64 {
        let pieces = self.image.pieces().len().saturating_sub(self.initial_pieces);
        self.pages.len() as u64 * PAGE + (pieces * size_of::<Piece>()) as u64
    }

    /// Reads the bytes at `offset`.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        let mut rest = bytes;
        let mut at = offset;
        for (number, page) in &self.pages[self.indices(offset..end)] {
            let start = (number * PAGE).max(at);
            let (before, tail) = rest.split_at_mut((start - at) as usize);
            self.image.read(at, before);
            let from = (start % PAGE) as usize;
            let length = (PAGE as usize - from).min(tail.len());
            let (found, tail) = tail.split_at_mut(length);
            found.copy_from_slice(&page[from..from + length]);
            at = start + length as u64;
            rest = tail;
        }
        self.image.read(at, rest);
    }

    /// Writes bytes at `offset`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no space for a page. Bytes before that page were written.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), NoSpace> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let from = (at % PAGE) as usize;
            let (part, tail) = rest.split_at((PAGE as usize - from).min(rest.len()));
            self.page(at / PAGE)?[from..from + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Makes bytes read as zero, and frees the pages that lie within the range.
    ///
    /// # Errors
    ///
    /// Returns an error, and changes nothing, if there is no space to remember a hole in the middle
    /// of data of the image. Zeroing the whole disk always succeeds.
    pub fn zero(&mut self, offset: u64, length: u64) -> Result<(), NoSpace> {
        if length == 0 {
            return Ok(());
        }
        let end = offset + length;
        let piece = size_of::<Piece>() as u64;
        self.image.punch(offset..end, self.limit - self.stored() >= piece)?;
        let size = self.size();
        let whole =
            offset.div_ceil(PAGE)..if end == size { size.div_ceil(PAGE) } else { end / PAGE };
        for number in [offset / PAGE, (end - 1) / PAGE] {
            if !whole.contains(&number)
                && let Ok(index) = self.pages.binary_search_by_key(&number, |(number, _)| *number)
            {
                let start = number * PAGE;
                let part = offset.max(start) - start..end.min(start + PAGE) - start;
                self.pages[index].1[part.start as usize..part.end as usize].fill(0);
            }
        }
        if !whole.is_empty() {
            let indices = self.indices(whole.start * PAGE..whole.end * PAGE);
            self.pages.drain(indices);
        }
        Ok(())
    }

    /// Returns the extents from `offset` on. They are adjacent, and cover `length` bytes unless
    /// there are more than [`MAX_EXTENTS`] or they take long to find. There is at least one if
    /// `length` is not 0.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no memory for the list.
    pub fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, NoSpace> {
        let end = offset + length;
        let mut extents = Extents { list: Vec::new(), at: offset, searches: 0 };
        if length == 0 {
            return Ok(extents.list);
        }
        for (number, _) in &self.pages[self.indices(offset..end)] {
            let start = number * PAGE;
            self.image_extents(&mut extents, start)?;
            if extents.at < start || extents.full() {
                return Ok(extents.list);
            }
            extents.extend(end.min(start + PAGE), false)?;
        }
        self.image_extents(&mut extents, end)?;
        Ok(extents.list)
    }

    /// Appends the extents up to `end` of pages that were not written.
    fn image_extents(&self, extents: &mut Extents, end: u64) -> Result<(), NoSpace> {
        while extents.at < end && !extents.full() {
            extents.searches += 1;
            let start = extents.at / PAGE * PAGE;
            let pages = start..end.next_multiple_of(PAGE).min(self.size());
            let data = self.image.find_data(pages.clone()).map_or(end, |data| data / PAGE * PAGE);
            if data > extents.at {
                extents.extend(data.min(end), true)?;
                continue;
            }
            let hole = self.image.find_hole(pages).map_or(end, |hole| hole / PAGE * PAGE);
            extents.extend(hole.max(start + PAGE).min(end), false)?;
        }
        Ok(())
    }

    /// Returns the indices of the pages that overlap a range.
    fn indices(&self, range: Range<u64>) -> Range<usize> {
        let first = self.pages.partition_point(|(number, _)| *number < range.start / PAGE);
        let rest = &self.pages[first..];
        first..first + rest.partition_point(|(number, _)| number * PAGE < range.end)
    }

    /// Returns the page with a number. Copies it from the image if it was not written before.
    fn page(&mut self, number: u64) -> Result<&mut [u8], NoSpace> {
        let index = match self.pages.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(index) => index,
            Err(index) => {
                if self.limit - self.stored() < PAGE {
                    return Err(NoSpace);
                }
                self.pages.try_reserve(1).map_err(|_| NoSpace)?;
                let mut page = Vec::new();
                page.try_reserve_exact(PAGE as usize).map_err(|_| NoSpace)?;
                page.resize(PAGE as usize, 0);
                let length = PAGE.min(self.size() - number * PAGE) as usize;
                self.image.read(number * PAGE, &mut page[..length]);
                self.pages.insert(index, (number, page.into_boxed_slice()));
                index
            }
        };
        Ok(&mut self.pages[index].1)
    }
}

/// Extents that are being collected.
struct Extents {
    list: Vec<Extent>,
    /// Where the next one begins.
    at: u64,
    searches: usize,
}

impl Extents {
    fn full(&self) -> bool {
        self.list.len() == MAX_EXTENTS || self.searches == MAX_SEARCHES
    }

    fn extend(&mut self, end: u64, hole: bool) -> Result<(), NoSpace> {
        let length = end - self.at;
        self.at = end;
        match self.list.last_mut() {
            Some(last) if last.hole == hole => last.length += length,
            _ => {
                self.list.try_reserve(1).map_err(|_| NoSpace)?;
                self.list.push(Extent { length, hole });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
