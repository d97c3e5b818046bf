//! The pieces of a range.

/// A piece of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    /// At least one byte.
    pub(crate) length: u64,
    /// True if it consists of whole blocks. Otherwise it is a part of one block.
    pub(crate) is_whole: bool,
}

/// An iterator over the pieces of a range: the parts of blocks at its ends, and between them whole
/// blocks, up to a maximum at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    at: u64,
    end: u64,
    /// A power of two.
    block: u64,
    /// A multiple of the block, at least one block, or `u64::MAX` for no limit.
    maximum: u64,
}

impl Pieces {
    /// Returns the pieces of a range that ends before 2^63.
    pub(crate) fn new(offset: u64, length: u64, block: u64, maximum: u64) -> Self {
        Self { at: offset, end: offset + length, block, maximum }
    }

    /// Returns the number of pieces, without going through them.
    pub(crate) fn count(self) -> u64 {
        let start = self.at.next_multiple_of(self.block);
        let end = self.end - self.end % self.block;
        if start > end {
            return 1;
        }
        u64::from(start > self.at)
            + (end - start).div_ceil(self.maximum)
            + u64::from(self.end > end)
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let left = self.end - self.at;
        if left == 0 {
            return None;
        }
        let within = self.at % self.block;
        let is_whole = within == 0 && left >= self.block;
        let length = match is_whole {
            true => (left - left % self.block).min(self.maximum),
            false => (self.block - within).min(left),
        };
        let piece = Piece { offset: self.at, length, is_whole };
        self.at += length;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(offset: u64, length: u64, block: u64, maximum: u64) -> Vec<(u64, u64, bool)> {
        let pieces = Pieces::new(offset, length, block, maximum);
        let list: Vec<_> =
            pieces.map(|piece| (piece.offset, piece.length, piece.is_whole)).collect();
        assert_eq!(list.len() as u64, pieces.count(), "{list:?}");
        list
    }

    #[test]
    fn ranges_have_parts_of_blocks_at_their_ends_only() {
        assert_eq!(pieces(0, 8, 8, u64::MAX), [(0, 8, true)]);
        assert_eq!(pieces(3, 2, 8, 8), [(3, 2, false)]);
        assert_eq!(pieces(3, 5, 8, 8), [(3, 5, false)]);
        assert_eq!(pieces(0, 5, 8, 8), [(0, 5, false)]);
        assert_eq!(pieces(3, 10, 8, 8), [(3, 5, false), (8, 5, false)]);
        assert_eq!(
            pieces(7, 35, 8, 16),
            [(7, 1, false), (8, 16, true), (24, 16, true), (40, 2, false)]
        );
        assert_eq!(pieces(5, 7, 1, 3), [(5, 3, true), (8, 3, true), (11, 1, true)]);
    }

    #[test]
    fn pieces_are_counted_on_the_largest_disk() {
        let largest = i64::MAX as u64;
        assert_eq!(Pieces::new(0, largest, 512, 512).count(), (1 << 54) - 1 + 1);
        assert_eq!(Pieces::new(1, largest - 1, 1, u64::MAX).count(), 1);
    }
}
