//! Ranges of the disk in terms of pages.

use crate::codec::PAGE_SIZE;

/// The length of a page, as offsets are.
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// The part of a range that lies in one page.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) index: u64,
    /// Where the part begins in the page.
    pub(crate) at: usize,
    pub(crate) length: usize,
}

impl Part {
    /// Returns the first part of a range.
    pub(crate) fn first(offset: u64, length: u64) -> Self {
        let at = offset % PAGE;
        let length = length.min(PAGE - at);
        Self { index: offset / PAGE, at: at as usize, length: length as usize }
    }

    /// Returns the parts of a range.
    pub(crate) fn all(offset: u64, length: u64) -> impl Iterator<Item = Self> {
        let end = offset + length;
        let mut offset = offset;
        core::iter::from_fn(move || {
            let part = (offset < end).then(|| Self::first(offset, end - offset))?;
            offset += part.length as u64;
            Some(part)
        })
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.length == PAGE_SIZE
    }

    pub(crate) fn range(&self) -> core::ops::Range<usize> {
        self.at..self.at + self.length
    }
}

/// Returns true if all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let any = |block: &[u8; 64]| block.iter().fold(0, |bits, byte| bits | byte) != 0;
    !blocks.iter().any(any) && rest.iter().all(|byte| *byte == 0)
}
