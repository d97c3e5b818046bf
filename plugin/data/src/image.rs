//! The content of a disk, as a tree of pieces: a sorted list of runs of data, some of which repeat
//! another image. Everything between the pieces is a hole.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::MAX_SIZE;
use crate::piece::{Piece, Source};
use crate::store::NoSpace;

/// At most this many pieces of an image are copied where it is used, instead of being shared. The
/// copies keep chains of small images from nesting.
const MAX_COPIED: usize = 4;

/// The content of a disk.
///
/// Images within the image are shared. Reads and searches recurse into them, which
/// [`MAX_DEPTH`](crate::language::MAX_DEPTH) bounds.
#[derive(Clone, Debug, Default)]
pub struct Image {
    size: u64,
    /// In ascending order. They do not overlap, and end within the image.
    pieces: Vec<Piece>,
    dense: bool,
    depth: u32,
    weight: u64,
}

impl Image {
    /// Creates an image of literal bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::new(bytes.len() as u64, Piece::of_bytes(0, bytes).into_iter().collect())
    }

    /// Creates an image of pieces, which are in ascending order, do not overlap, and end within
    /// `size`.
    pub(crate) fn new(size: u64, pieces: Vec<Piece>) -> Self {
        let depth = pieces.iter().map(Piece::depth).max().unwrap_or(0);
        let heaviest = pieces.iter().map(Piece::weight).max().unwrap_or(0);
        let weight = heaviest + 1 + pieces.len() as u64;
        let mut image = Self { size, pieces, dense: false, depth, weight };
        image.dense = image.find_hole(0..size).is_none();
        image
    }

    /// The size in bytes, at most [`MAX_SIZE`].
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Truncates the image, or extends it with a hole.
    ///
    /// # Panics
    ///
    /// Panics if `size` is larger than [`MAX_SIZE`].
    pub fn resize(&mut self, size: u64) {
        assert!(size <= MAX_SIZE, "a disk of {size} bytes");
        let mut pieces = core::mem::take(&mut self.pieces);
        pieces.truncate(pieces.partition_point(|piece| piece.start < size));
        if let Some(last) = pieces.pop_if(|last| last.end() > size) {
            pieces.extend(last.cut(0..size - last.start));
        }
        *self = Self::new(size, pieces);
    }

    /// Reads the bytes at `offset`. The range must lie within the image.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        let mut rest = bytes;
        let mut at = offset;
        for piece in self.pieces_in(offset..end) {
            let start = piece.start.max(at);
            let (hole, tail) = rest.split_at_mut((start - at) as usize);
            hole.fill(0);
            let (data, tail) = tail.split_at_mut((piece.end().min(end) - start) as usize);
            piece.read(start - piece.start, data);
            at = start + data.len() as u64;
            rest = tail;
        }
        rest.fill(0);
    }

    /// Returns the offset of the first byte of data in a range, or `None` if it is a hole. The
    /// range must lie within the image.
    pub fn find_data(&self, range: Range<u64>) -> Option<u64> {
        self.pieces_in(range.clone()).iter().find_map(|piece| {
            let found = piece.find_data(within(piece, &range))?;
            Some(piece.start + found)
        })
    }

    /// Returns the offset of the first byte of a hole in a range, or `None` if it is all data. The
    /// range must lie within the image.
    pub fn find_hole(&self, range: Range<u64>) -> Option<u64> {
        if self.dense {
            return None;
        }
        let mut at = range.start;
        for piece in self.pieces_in(range.clone()) {
            if piece.start > at {
                break;
            }
            if let Some(found) = piece.find_hole(within(piece, &range)) {
                return Some(piece.start + found);
            }
            at = piece.end();
        }
        (at < range.end).then_some(at)
    }

    /// Makes a range, which must lie within the image, a hole.
    ///
    /// # Errors
    ///
    /// Returns an error, and changes nothing, if the image needs one more piece and there is no
    /// memory for it, or `may_grow` is false. Only a range in the middle of a piece needs one.
    pub(crate) fn punch(&mut self, range: Range<u64>, may_grow: bool) -> Result<(), NoSpace> {
        let indices = self.indices_in(range.clone());
        let [first, ..] = &self.pieces[indices.clone()] else {
            return Ok(());
        };
        let rest = outside(first, &self.pieces[indices.end - 1], &range);
        if indices.len() == 1 && rest.iter().all(Option::is_some) {
            if !may_grow {
                return Err(NoSpace);
            }
            self.pieces.try_reserve(1).map_err(|_| NoSpace)?;
        }
        let start = indices.start;
        self.pieces.drain(indices);
        for piece in rest.into_iter().flatten().rev() {
            self.pieces.insert(start, piece);
        }
        self.dense = false;
        Ok(())
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(crate) fn is_dense(&self) -> bool {
        self.dense
    }

    /// The number of images that are nested in the image, one in another.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// An estimate of the steps that a search takes.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    fn pieces_in(&self, range: Range<u64>) -> &[Piece] {
        &self.pieces[self.indices_in(range)]
    }

    fn indices_in(&self, range: Range<u64>) -> Range<usize> {
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        let count = self.pieces[first..].partition_point(|piece| piece.start < range.end);
        first..first + count
    }
}

/// Returns pieces with the content of repetitions of `image`, from the offset `skip` in the first
/// one on. They begin at offset 0.
pub(crate) fn tiles(image: &Arc<Image>, skip: u64, length: u64) -> Vec<Piece> {
    if let [piece] = image.pieces()
        && piece.length == image.size
    {
        match &piece.source {
            Source::Fill(byte) => return Piece::fill(0, length, *byte).into_iter().collect(),
            Source::Tile { image: inner, skip: first }
                if image.size.is_multiple_of(inner.size) && length > 0 =>
            {
                return Piece::tile(0, length, inner, first + skip).into_iter().collect();
            }
            _ => {}
        }
    }
    if length <= image.size - skip {
        let range = skip..skip + length;
        let pieces = image.pieces_in(range.clone());
        if pieces.len() <= MAX_COPIED {
            let parts = pieces.iter().filter_map(|piece| piece.cut(within(piece, &range)));
            return parts
                .map(|part| {
                    let start = part.start - skip;
                    part.at(start)
                })
                .collect();
        }
    }
    Piece::tile(0, length, image, skip).into_iter().collect()
}

/// Returns the part of `range` within a piece, relative to the start of the piece.
fn within(piece: &Piece, range: &Range<u64>) -> Range<u64> {
    let start = range.start.max(piece.start) - piece.start;
    start..(range.end.min(piece.end()) - piece.start).max(start)
}

/// Returns what is left of the first piece before a range, and of the last one after it.
pub(crate) fn outside(first: &Piece, last: &Piece, range: &Range<u64>) -> [Option<Piece>; 2] {
    let before = range.start.saturating_sub(first.start);
    let after = last.length - last.end().saturating_sub(range.end);
    [first.cut(0..before), last.cut(after..last.length)]
}
