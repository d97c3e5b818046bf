//! Faults that are spread over a disk as a function of a seed.

use memnbd_guest::content::random_at;

use crate::random::unit;

/// Units of a disk, such as bits or sectors, each of which is marked with a probability. Which ones are
/// marked depends on the seed alone, so nothing has to be stored.
///
/// The units are divided into cells, of which each has one marked unit, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scatter {
    seed: u64,
    /// The number of units in a cell is 2 to the power of this.
    cell_bits: u32,
    /// The probability with which a cell has a marked unit.
    probability: f64,
}

impl Scatter {
    /// Returns the units of a seed that are marked with a probability from 0 to 1.
    pub fn new(seed: u64, probability: f64) -> Self {
        let (mut cell_bits, mut of_cell) = (0, probability);
        // Then there is a mark in every other cell at least, if there are marks at all.
        while of_cell <= 0.5 && cell_bits < 63 {
            of_cell *= 2.0;
            cell_bits += 1;
        }
        Self { seed: random_at(seed, 0), cell_bits, probability: of_cell }
    }

    /// Returns the marked units from `start` up to `end`, in ascending order.
    pub fn marks(self, start: u64, end: u64) -> impl Iterator<Item = Mark> {
        let cells = if start < end && self.probability > 0.0 {
            start >> self.cell_bits..((end - 1) >> self.cell_bits) + 1
        } else {
            0..0
        };
        cells
            .filter_map(move |cell| self.mark(cell))
            .filter(move |mark| (start..end).contains(&mark.unit))
    }

    /// Returns the marked unit of a cell.
    fn mark(self, cell: u64) -> Option<Mark> {
        if unit(random_at(self.seed, cell)) >= self.probability {
            return None;
        }
        let random = random_at(!self.seed, cell);
        let within = random & ((1 << self.cell_bits) - 1);
        Some(Mark { unit: (cell << self.cell_bits) | within, high: random >> 63 != 0 })
    }
}

/// A marked unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The number of the unit.
    pub unit: u64,
    /// True for half of the marks.
    pub high: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_units_are_marked_as_is_probable() {
        for probability in [1.0, 0.9, 0.5, 0.3, 0.125, 0.01, 1e-4] {
            let units = (10_000.0 / probability) as u64;
            let marks: Vec<Mark> = Scatter::new(7, probability).marks(0, units).collect();
            assert!(marks.windows(2).all(|pair| pair[0].unit < pair[1].unit));
            assert!((9_600..10_400).contains(&marks.len()), "{probability}: {}", marks.len());
            let high = marks.iter().filter(|mark| mark.high).count();
            assert!(high.abs_diff(marks.len() / 2) < 400, "{high}");
        }
        assert_eq!(Scatter::new(7, 0.0).marks(0, u64::MAX).count(), 0);
        assert!(Scatter::new(7, 1e-15).marks(0, 1 << 63).next().is_some());
        assert_eq!(Scatter::new(7, 1e-300).marks(0, u64::MAX).count(), 0);
    }

    #[test]
    fn parts_have_the_marks_of_the_whole() {
        let scatter = Scatter::new(1, 0.02);
        let whole: Vec<Mark> = scatter.marks(0, 10_000).collect();
        let parts = (0..10_000).step_by(37).flat_map(|at| scatter.marks(at, (at + 37).min(10_000)));
        assert_eq!(parts.collect::<Vec<_>>(), whole);
        assert_eq!(scatter.marks(5, 5).count(), 0);
        assert_ne!(Scatter::new(2, 0.02).marks(0, 10_000).collect::<Vec<_>>(), whole);
    }

    #[test]
    fn last_units_of_the_largest_disk_can_be_marked() {
        let all = Scatter::new(1, 1.0);
        assert_eq!(all.marks(u64::MAX - 3, u64::MAX).count(), 3);
    }
}
