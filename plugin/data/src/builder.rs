//! Builds an image in the order in which an expression writes: a cursor that moves, and data that
//! replaces what was written before at the same offsets.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;

use crate::MAX_SIZE;
use crate::image::{Image, outside, tiles};
use crate::language::{MAX_DEPTH, MAX_PIECES, MAX_STEPS};
use crate::piece::Piece;

/// Images of at most this many bytes are copied where they are used.
const MAX_INLINE: usize = 64;

/// What an expression may use for all images that it builds.
pub(crate) struct Budget {
    pieces: Cell<u64>,
    steps: Cell<u64>,
}

/// The reason why an image cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// It would end beyond [`MAX_SIZE`].
    Size,
    /// More than [`MAX_PIECES`] pieces.
    Pieces,
    /// More than [`MAX_STEPS`] steps.
    Steps,
    /// More than [`MAX_DEPTH`] images nested in it.
    Depth,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self { pieces: Cell::new(MAX_PIECES), steps: Cell::new(MAX_STEPS) }
    }

    fn take_piece(&self) -> Result<(), Excess> {
        self.pieces.set(self.pieces.get().checked_sub(1).ok_or(Excess::Pieces)?);
        Ok(())
    }

    fn take_steps(&self, count: u64) -> Result<(), Excess> {
        self.steps.set(self.steps.get().checked_sub(count).ok_or(Excess::Steps)?);
        Ok(())
    }
}

/// The builder of an image.
pub(crate) struct Builder<'a> {
    budget: &'a Budget,
    /// The pieces by their start. They do not overlap.
    pieces: BTreeMap<u64, Piece>,
    /// Literal bytes that end at the cursor and are no piece yet.
    literal: Vec<u8>,
    cursor: u64,
    size: u64,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(budget: &'a Budget) -> Self {
        Self { budget, pieces: BTreeMap::new(), literal: Vec::new(), cursor: 0, size: 0 }
    }

    /// The offset at which the next data is written.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Moves the cursor. The image is at least as large as the largest offset of the cursor.
    pub(crate) fn move_to(&mut self, offset: u64) -> Result<(), Excess> {
        self.flush()?;
        if offset > MAX_SIZE {
            return Err(Excess::Size);
        }
        self.cursor = offset;
        self.size = self.size.max(offset);
        Ok(())
    }

    /// Writes literal bytes and moves the cursor to their end.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Excess> {
        let end = end(self.cursor, bytes.len() as u64)?;
        self.literal.extend_from_slice(bytes);
        self.cursor = end;
        self.size = self.size.max(end);
        Ok(())
    }

    /// Writes an image, including its holes, and moves the cursor to its end.
    pub(crate) fn place(&mut self, image: &Arc<Image>) -> Result<(), Excess> {
        let size = image.size();
        if size <= MAX_INLINE as u64 && !image.pieces().is_empty() {
            let bytes = &mut [0; MAX_INLINE][..size as usize];
            image.read(0, bytes);
            return self.write(bytes);
        }
        let end = end(self.cursor, size)?;
        self.flush()?;
        self.clear(self.cursor..end)?;
        for piece in tiles(image, 0, size) {
            let start = self.cursor + piece.start;
            self.insert(piece.at(start))?;
        }
        self.move_to(end)
    }

    /// Returns the image.
    pub(crate) fn finish(mut self) -> Result<Image, Excess> {
        self.flush()?;
        Ok(Image::new(self.size, self.pieces.into_values().collect()))
    }

    fn flush(&mut self) -> Result<(), Excess> {
        if self.literal.is_empty() {
            return Ok(());
        }
        let literal = core::mem::take(&mut self.literal);
        let start = self.cursor - literal.len() as u64;
        self.clear(start..self.cursor)?;
        Piece::of_bytes(start, &literal).map_or(Ok(()), |piece| self.insert(piece))
    }

    /// Makes a range a hole.
    fn clear(&mut self, range: Range<u64>) -> Result<(), Excess> {
        if range.is_empty() {
            return Ok(());
        }
        while let Some(start) = self.last_overlap(&range)
            && let Some(piece) = self.pieces.remove(&start)
        {
            self.budget.take_steps(piece.weight())?;
            for rest in outside(&piece, &piece, &range).into_iter().flatten() {
                self.insert(rest)?;
            }
        }
        Ok(())
    }

    /// Returns the start of the last piece that overlaps a range.
    fn last_overlap(&self, range: &Range<u64>) -> Option<u64> {
        let (start, piece) = self.pieces.range(..range.end).next_back()?;
        (piece.end() > range.start).then_some(*start)
    }

    fn insert(&mut self, piece: Piece) -> Result<(), Excess> {
        self.budget.take_piece()?;
        if piece.depth() > MAX_DEPTH {
            return Err(Excess::Depth);
        }
        self.pieces.insert(piece.start, piece);
        Ok(())
    }
}

/// Returns the image repeated `count` times.
pub(crate) fn repeat(image: &Arc<Image>, count: u64) -> Result<Arc<Image>, Excess> {
    let size = image.size().checked_mul(count).filter(|size| *size <= MAX_SIZE);
    let size = size.ok_or(Excess::Size)?;
    if count == 1 {
        return Ok(image.clone());
    }
    finish(Image::new(size, tiles(image, 0, size)))
}

/// Returns a range of an image, in which the range must lie.
pub(crate) fn slice(
    image: &Arc<Image>,
    range: Range<u64>,
    budget: &Budget,
) -> Result<Arc<Image>, Excess> {
    budget.take_steps(image.weight())?;
    let size = range.end - range.start;
    finish(Image::new(size, tiles(image, range.start, size)))
}

fn finish(image: Image) -> Result<Arc<Image>, Excess> {
    if image.depth() > MAX_DEPTH { Err(Excess::Depth) } else { Ok(Arc::new(image)) }
}

fn end(start: u64, length: u64) -> Result<u64, Excess> {
    start.checked_add(length).filter(|end| *end <= MAX_SIZE).ok_or(Excess::Size)
}
