//! The bits that are affected.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_faults::{Random, Range, Ranges, Scatter};

/// The most bits that are known to have been rewritten.
const MAX_MENDED: usize = 1 << 20;

/// Bits have numbers of 64 bits, so that only these bytes have any.
const MAX_BYTES: u64 = (1 << 61) - 1;

/// Around an affected byte, this much goes through the component.
const GRAIN: u64 = 4096;

/// Returns the end of the grain in which a byte is.
pub(crate) const fn grain_after(offset: u64) -> u64 {
    (offset | (GRAIN - 1)) + 1
}

/// What happens to a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Flip,
    /// It becomes high or low.
    Stick,
}

impl Change {
    /// Changes a bit of a byte.
    fn apply(self, byte: &mut u8, bit: u64, high: bool) {
        let mask = 1 << (bit % 8);
        match self {
            Self::Flip => *byte ^= mask,
            Self::Stick if high => *byte |= mask,
            Self::Stick => *byte &= !mask,
        }
    }
}

/// The affected bits of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Bits {
    /// The parts of the disk that have affected bits.
    pub(crate) ranges: Ranges,
    /// The affected bits, by their numbers.
    pub(crate) scatter: Scatter,
    /// The probability that a stuck bit is stuck.
    stuck: f64,
    /// The affected bits that were rewritten.
    mended: BTreeSet<u64>,
}

impl Bits {
    /// Returns the bits of a disk; without ranges, they are everywhere.
    pub(crate) fn new(ranges: Ranges, size: u64, scatter: Scatter, stuck: f64) -> Self {
        let mut ranges = ranges;
        if ranges.is_empty() {
            let whole = Ranges::new(vec![Range { start: 0, end: size }]);
            ranges = whole.unwrap_or_default();
        }
        ranges.remove(MAX_BYTES, u64::MAX);
        Self { ranges, scatter, stuck, mended: BTreeSet::new() }
    }

    /// Returns the parts of a range that can have affected bits.
    fn parts(&self, start: u64, end: u64) -> impl Iterator<Item = Range> {
        parts(&self.ranges, start, end)
    }

    /// Returns the affected bits of a range of bytes, and whether they are high.
    fn of(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, bool)> {
        self.parts(start, end)
            .flat_map(|part| self.scatter.marks(part.start * 8, part.end * 8))
            .map(|mark| (mark.unit, mark.high))
            .filter(|(bit, _)| !self.mended.contains(bit))
    }

    /// Returns the first affected byte from `start` up to `end`.
    pub(crate) fn next(&self, start: u64, end: u64) -> Option<u64> {
        self.of(start, end).next().map(|(bit, _)| bit / 8)
    }

    /// Changes the affected bits of what was read at an offset.
    pub(crate) fn corrupt(
        &self,
        change: Change,
        random: &mut Random,
        offset: u64,
        buffer: &mut [u8],
    ) {
        for (bit, high) in self.of(offset, offset + buffer.len() as u64) {
            if change == Change::Flip || random.happens(self.stuck) {
                change.apply(&mut buffer[(bit / 8 - offset) as usize], bit, high);
            }
        }
    }

    /// Returns true if the affected bits of a range are not too many to be remembered as rewritten.
    pub(crate) fn can_mend(&self, start: u64, end: u64) -> bool {
        let left = MAX_MENDED - self.mended.len();
        self.of(start, end).nth(left).is_none()
    }

    /// Remembers that a range was rewritten.
    pub(crate) fn mend(&mut self, start: u64, end: u64) {
        // Requests that are under way at once can together be more than there is room for.
        let left = MAX_MENDED - self.mended.len();
        let rewritten: Vec<u64> = self.of(start, end).map(|(bit, _)| bit).take(left).collect();
        self.mended.extend(rewritten);
    }
}

/// Returns what a range has in common with others.
fn parts(ranges: &Ranges, start: u64, end: u64) -> impl Iterator<Item = Range> {
    let ranges = ranges.as_slice();
    let first = ranges.partition_point(|range| range.end <= start);
    ranges[first..]
        .iter()
        .take_while(move |range| range.start < end)
        .map(move |range| Range { start: range.start.max(start), end: range.end.min(end) })
}

/// A read, some bits of whose reply are to change. Their positions count from its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) scatter: Scatter,
    pub(crate) change: Change,
}

impl Reply {
    /// Returns the affected bits of the part of a range that belongs to this read, as their bytes on the
    /// disk, their positions in the reply, and whether they are high.
    fn of(&self, ranges: &Ranges, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, bool)> {
        let base = self.start;
        parts(ranges, start.max(base), end.min(self.end))
            .flat_map(move |part| {
                self.scatter.marks((part.start - base) * 8, (part.end - base) * 8)
            })
            .map(move |mark| (base + mark.unit / 8, mark.unit, mark.high))
    }

    /// Returns the first affected byte from `start` up to `end`.
    pub(crate) fn next(&self, ranges: &Ranges, start: u64, end: u64) -> Option<u64> {
        self.of(ranges, start, end).next().map(|(byte, _, _)| byte)
    }

    /// Changes the affected bits of what was read at an offset, as far as they belong to this read.
    pub(crate) fn corrupt(&self, bits: &Bits, random: &mut Random, offset: u64, buffer: &mut [u8]) {
        for (byte, bit, high) in self.of(&bits.ranges, offset, offset + buffer.len() as u64) {
            if self.change == Change::Flip || random.happens(bits.stuck) {
                self.change.apply(&mut buffer[(byte - offset) as usize], bit, high);
            }
        }
    }
}
