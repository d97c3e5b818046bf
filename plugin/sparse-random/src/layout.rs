//! The arrangement of data and holes on the disk, computed from the seed.
//!
//! The disk is divided into periods of the same number of blocks. Each period has one run of data,
//! of random length at a random place; the rest is a hole. The run at any offset is found without
//! looking at what is before it, and nothing is stored, so the disk can have any size.

use memnbd_guest::MAX_SIZE;
use memnbd_guest::content::random_at;

/// The unit of data and holes, in bytes.
pub const BLOCK_SIZE: u64 = 4096;

/// The number of blocks of the largest disk.
const MAX_BLOCKS: u64 = MAX_SIZE / BLOCK_SIZE + 1;

/// The arrangement of data and holes.
#[derive(Clone, Debug)]
pub struct Layout {
    seed: u64,
    /// The length of a period, in blocks.
    period: u64,
    /// The mean length of the run of data in a period, in blocks.
    mean: f64,
}

/// The rest of a run of data, or of a hole, from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The offset of its end, which may be beyond the end of the disk.
    pub end: u64,
    /// True for data. What follows a hole may be another one.
    pub data: bool,
}

impl Layout {
    /// Returns an arrangement of which `fraction`, from 0 to 1, is data in runs of about
    /// `run_length` bytes.
    ///
    /// If there is no room for holes between such runs, as they are at least a block, the runs are
    /// longer. If a period would be longer than the largest disk, they are shorter.
    pub fn new(seed: u64, fraction: f64, run_length: u64) -> Self {
        let run = (run_length as f64 / BLOCK_SIZE as f64).max(1.0);
        let period = f64::max(run / fraction, 1.0 / (1.0 - fraction));
        // The conversion saturates: the quotients are infinite for a fraction of 0 or 1.
        let period = ((period + 0.5) as u64).min(MAX_BLOCKS);
        Self { seed, period, mean: fraction * period as f64 }
    }

    /// Returns the run at `offset`.
    pub fn run_at(&self, offset: u64) -> Run {
        let block = offset / BLOCK_SIZE;
        let number = block / self.period;
        let start = number * self.period;
        let (first, length) = self.data_of(number);
        let data_start = start + first;
        let data_end = data_start + length;
        let (end, data) = if block < data_start {
            // Without data, the hole is the whole period.
            (if length == 0 { start + self.period } else { data_start }, false)
        } else if block < data_end {
            (data_end, true)
        } else {
            (start + self.period, false)
        };
        Run { end: end.min(MAX_BLOCKS) * BLOCK_SIZE, data }
    }

    /// Returns the first block and the number of blocks of the data in a period, counted from the
    /// beginning of the period.
    fn data_of(&self, number: u64) -> (u64, u64) {
        let [length, rounding, place] =
            [0, 1, 2].map(|index| unit(random_at(self.seed, 3 * number + index)));
        // Lengths are evenly distributed around the mean, as far as the period allows, and rounded
        // up or down at random, which preserves the mean.
        let spread = self.mean.min(self.period as f64 - self.mean);
        let length = (self.mean + spread * (2.0 * length - 1.0) + rounding) as u64;
        let length = length.min(self.period);
        let first = (place * (self.period - length + 1) as f64) as u64;
        (first.min(self.period - length), length)
    }
}

/// Returns a number from 0 to 1, exclusively, from the upper bits of a random number.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the share of data and the mean length of its runs in the first `blocks` blocks.
    fn measure(layout: &Layout, blocks: u64) -> (f64, f64) {
        let (mut offset, mut data, mut runs, mut in_data) = (0, 0, 0, false);
        while offset < blocks * BLOCK_SIZE {
            let run = layout.run_at(offset);
            assert!(run.end > offset && run.end.is_multiple_of(BLOCK_SIZE));
            if run.data {
                data += run.end - offset;
                runs += u64::from(!in_data);
            }
            in_data = run.data;
            offset = run.end;
        }
        (data as f64 / offset as f64, data as f64 / runs as f64)
    }

    #[test]
    fn share_and_length_of_data_are_about_as_wanted() {
        for (fraction, run) in
            [(0.1, 16 << 20), (0.5, 1 << 20), (0.9, 1 << 20), (0.001, 4096), (0.3, 4096)]
        {
            let layout = Layout::new(5, fraction, run);
            let (share, length) = measure(&layout, 2000 * layout.period);
            assert!((share / fraction - 1.0).abs() < 0.05, "{fraction}: {share}");
            // Empty and adjacent runs count: the runs that are measured are somewhat longer.
            let ratio = length / run as f64;
            assert!((0.9..1.5).contains(&ratio), "{fraction} {run}: {length}");
        }
    }

    #[test]
    fn little_room_for_holes_makes_longer_runs() {
        let layout = Layout::new(5, 0.99, 4096);
        let (share, _) = measure(&layout, 2000 * layout.period);
        assert!((0.98..1.0).contains(&share), "{share}");
    }

    #[test]
    fn none_and_all_of_the_disk_is_one_run() {
        let whole = |data| Run { end: 1 << 63, data };
        for offset in [0, 12345, MAX_SIZE - 1] {
            assert_eq!(Layout::new(9, 0.0, 16 << 20).run_at(offset), whole(false));
            assert_eq!(Layout::new(9, 1.0, 16 << 20).run_at(offset), whole(true));
        }
    }

    #[test]
    fn every_block_of_a_run_is_in_that_run() {
        let layout = Layout::new(11, 0.4, 5 * BLOCK_SIZE);
        for start in [0, 1 << 40, MAX_SIZE - (1 << 20)] {
            let mut offset = start;
            while offset < start + (1 << 20) {
                let run = layout.run_at(offset);
                assert_eq!(layout.run_at(offset | (BLOCK_SIZE - 1)), run);
                let last = (run.end - 1).min(MAX_SIZE - 1);
                assert_eq!(layout.run_at(last), run, "{offset}");
                offset = run.end;
            }
        }
    }
}
