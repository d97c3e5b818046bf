//! The pieces of an image: runs of literal bytes, of one byte value, or of repetitions of another
//! image.

use alloc::sync::Arc;
use core::ops::Range;

use crate::image::Image;

/// A run of an image that contains data.
///
/// Invariants: `length` is at least 1, and the piece contains at least one byte of data. The flag
/// `dense` is exact. Searches depend on both: they never enter a piece in vain, except at the two
/// ends of the range they search. This keeps their cost polynomial in the depth of the image.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The offset in the image.
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) source: Source,
    /// Whether the piece has no holes.
    dense: bool,
}

/// Where a piece gets its bytes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A shared block, from the index `skip` on.
    Bytes { block: Arc<[u8]>, skip: usize },
    /// One byte value, which is not 0.
    Fill(u8),
    /// Repetitions of an image that is not empty, from the offset `skip` in the first one on.
    Tile { image: Arc<Image>, skip: u64 },
}

impl Piece {
    /// Creates a piece of literal bytes. Returns `None` if all are zero, which makes a hole.
    pub(crate) fn of_bytes(start: u64, bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        if rest.iter().all(|byte| byte == first) {
            return Self::fill(start, bytes.len() as u64, *first);
        }
        let source = Source::Bytes { block: bytes.into(), skip: 0 };
        Some(Self { start, length: bytes.len() as u64, source, dense: true })
    }

    /// Creates a piece of one byte value. Returns `None` if it is zero, which makes a hole.
    pub(crate) fn fill(start: u64, length: u64, byte: u8) -> Option<Self> {
        let piece = Self { start, length, source: Source::Fill(byte), dense: true };
        (byte != 0 && length != 0).then_some(piece)
    }

    /// Creates a piece of repetitions of `image`, from the offset `skip` in the first one on.
    /// Returns `None` if there is no data in the piece.
    pub(crate) fn tile(start: u64, length: u64, image: &Arc<Image>, skip: u64) -> Option<Self> {
        if length == 0 || image.pieces().is_empty() {
            return None;
        }
        let source = Source::Tile { image: image.clone(), skip: skip % image.size() };
        let mut piece = Self { start, length, source, dense: image.is_dense() };
        if length < image.size() && !piece.dense {
            piece.find_data(0..length)?;
            piece.dense = piece.find_hole(0..length).is_none();
        }
        Some(piece)
    }

    /// Returns the part of the piece in a range relative to its start, or `None` if there is no
    /// data in it.
    pub(crate) fn cut(&self, range: Range<u64>) -> Option<Self> {
        let length = range.end - range.start;
        if length == self.length {
            return Some(self.clone());
        }
        let start = self.start + range.start;
        match &self.source {
            _ if length == 0 => None,
            Source::Fill(byte) => Self::fill(start, length, *byte),
            Source::Tile { image, skip } => Self::tile(start, length, image, skip + range.start),
            Source::Bytes { block, skip } => {
                let source =
                    Source::Bytes { block: block.clone(), skip: skip + range.start as usize };
                Some(Self { start, length, source, dense: true })
            }
        }
    }

    /// Returns the piece at another offset.
    pub(crate) fn at(self, start: u64) -> Self {
        Self { start, ..self }
    }

    /// The offset in the image at which the piece ends.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.length
    }

    /// The number of images that are nested in the piece.
    pub(crate) fn depth(&self) -> u32 {
        match &self.source {
            Source::Bytes { .. } | Source::Fill(_) => 0,
            Source::Tile { image, .. } => image.depth() + 1,
        }
    }

    /// An estimate of the steps that a search in the piece takes, and so [`Piece::cut`].
    pub(crate) fn weight(&self) -> u64 {
        match &self.source {
            Source::Bytes { .. } | Source::Fill(_) => 1,
            Source::Tile { image, .. } => image.weight(),
        }
    }

    /// Reads the bytes at `at`, relative to the start of the piece.
    pub(crate) fn read(&self, at: u64, bytes: &mut [u8]) {
        match &self.source {
            Source::Bytes { block, skip } => {
                bytes.copy_from_slice(&block[skip + at as usize..][..bytes.len()]);
            }
            Source::Fill(byte) => bytes.fill(*byte),
            Source::Tile { image, skip } => read_tile(image, (skip + at) % image.size(), bytes),
        }
    }

    /// Returns the first byte of data in a range. Offsets are relative to the start of the piece.
    pub(crate) fn find_data(&self, range: Range<u64>) -> Option<u64> {
        match &self.source {
            Source::Tile { image, skip } if !self.dense => {
                find_in_tile(image.size(), *skip, range, |range| image.find_data(range))
            }
            _ => (!range.is_empty()).then_some(range.start),
        }
    }

    /// Returns the first byte of a hole in a range. Offsets are relative to the start of the piece.
    pub(crate) fn find_hole(&self, range: Range<u64>) -> Option<u64> {
        match &self.source {
            Source::Tile { image, skip } if !self.dense => {
                find_in_tile(image.size(), *skip, range, |range| image.find_hole(range))
            }
            _ => None,
        }
    }
}

/// Reads repetitions of an image, from the offset `phase` in the first one on.
fn read_tile(image: &Image, phase: u64, bytes: &mut [u8]) {
    let length = bytes.len() as u64;
    let head = length.min(image.size() - phase) as usize;
    let (head, rest) = bytes.split_at_mut(head);
    image.read(phase, head);
    // One repetition is read. Copies of it, then of all copies, make the others.
    let mut filled = image.size().min(rest.len() as u64) as usize;
    image.read(0, &mut rest[..filled]);
    while filled < rest.len() {
        let count = filled.min(rest.len() - filled);
        rest.copy_within(..count, filled);
        filled += count;
    }
}

/// Searches a range of repetitions: the rest of the first one, then one from its start, which
/// stands for all others.
fn find_in_tile(
    period: u64,
    skip: u64,
    range: Range<u64>,
    find: impl Fn(Range<u64>) -> Option<u64>,
) -> Option<u64> {
    let length = range.end - range.start;
    let phase = (skip + range.start) % period;
    let head = length.min(period - phase);
    if let Some(found) = find(phase..phase + head) {
        return Some(range.start + (found - phase));
    }
    let found = find(0..(length - head).min(period))?;
    Some(range.start + head + found)
}
