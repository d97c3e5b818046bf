//! The sectors that are bad.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

use memnbd_faults::{MAX_RANGES, Random, Range, Ranges, Scatter, rescued};
use memnbd_guest::{Error, OpenRequest};

/// Bad sectors of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Sectors {
    /// The length of a sector: a power of two.
    length: u64,
    /// The bad ones, which are whole sectors, but for the last one of the disk.
    pub(crate) bad: Ranges,
}

impl Sectors {
    /// Returns the sectors that are bad by the parameters, on a disk of `size` bytes.
    pub(crate) fn open(request: &OpenRequest, size: u64) -> Result<Self, Error> {
        let length = request.size("badblocks-sector").unwrap_or(512);
        if !length.is_power_of_two() {
            return Err(Error::EINVAL.because(format!(
                "badblocks-sector={length} must be a power of two, such as 4096"
            )));
        }
        let mut bad = Self { length, bad: Ranges::default() };
        let mut ranges =
            Ranges::from_request(request, "badblocks-range", size)?.as_slice().to_vec();
        if let Some(file) = request.device("badblocks-mapfile") {
            ranges.extend_from_slice(rescued(file, size)?.complement(size).as_slice());
        }
        let mut random = Random::from_request(request, "badblocks-seed");
        let sectors = size.div_ceil(length);
        let count = request.number("badblocks-count").unwrap_or(0) as u64;
        let rate = request.probability("badblocks-rate").unwrap_or(0.0);
        ranges.extend(bad.chosen(&mut random, count, sectors)?);
        ranges.extend(bad.scattered(random.draw(), rate, sectors)?);
        bad.add(ranges, size)?;
        Ok(bad)
    }

    /// Makes the sectors bad that touch ranges.
    pub(crate) fn add(&mut self, ranges: Vec<Range>, size: u64) -> Result<(), Error> {
        let mut all: Vec<Range> =
            ranges.into_iter().map(|range| self.round_out(range, size)).collect();
        all.extend_from_slice(self.bad.as_slice());
        self.bad = Ranges::new(all)?;
        Ok(())
    }

    /// Returns a number of sectors that are chosen by chance.
    fn chosen(&self, random: &mut Random, count: u64, sectors: u64) -> Result<Vec<Range>, Error> {
        if count > sectors {
            return Err(Error::EINVAL.because(format!(
                "badblocks-count={count} is more than the {sectors} sectors of the device beneath"
            )));
        }
        // Of many, those that stay good are chosen.
        let is_majority = count > sectors / 2;
        let wanted = if is_majority { sectors - count } else { count };
        let mut chosen = BTreeSet::new();
        while (chosen.len() as u64) < wanted {
            chosen.insert(random.below(sectors));
        }
        let ranges = Ranges::new(chosen.into_iter().map(|sector| self.range(sector)).collect())?;
        let ranges = if is_majority { ranges.complement(sectors * self.length) } else { ranges };
        Ok(ranges.as_slice().to_vec())
    }

    /// Returns sectors that are bad with a probability.
    fn scattered(&self, seed: u64, rate: f64, sectors: u64) -> Result<Vec<Range>, Error> {
        if rate >= 1.0 {
            return Ok(Vec::from([Range { start: 0, end: sectors.saturating_mul(self.length) }]));
        }
        let marks = Scatter::new(seed, rate).marks(0, sectors);
        let bad: Vec<Range> =
            marks.map(|mark| self.range(mark.unit)).take(MAX_RANGES + 1).collect();
        if bad.len() > MAX_RANGES {
            return Err(Error::EINVAL.because(format!(
                "badblocks-rate={rate} makes more than {MAX_RANGES} of {sectors} sectors bad; a \
                 lower rate or a larger badblocks-sector helps"
            )));
        }
        Ok(bad)
    }

    fn range(&self, sector: u64) -> Range {
        Range { start: sector * self.length, end: (sector + 1).saturating_mul(self.length) }
    }

    /// Returns the sectors that touch a range.
    pub(crate) fn round_out(&self, range: Range, size: u64) -> Range {
        let start = range.start - range.start % self.length;
        let end = range.end.checked_next_multiple_of(self.length).unwrap_or(size).min(size);
        Range { start: start.min(size), end }
    }

    /// Returns the sectors that lie within a range; the disk's last one lies in a range that ends with
    /// the disk. If there are none, both ends are the same.
    pub(crate) fn round_in(&self, start: u64, end: u64) -> Range {
        let first = start.next_multiple_of(self.length);
        // Bad ranges end with the disk, so that nothing is left of the last sector.
        let ends = self.bad.as_slice().last().is_some_and(|last| last.end == end);
        let last = if ends { end } else { end - end % self.length };
        Range { start: first, end: last.max(first) }
    }
}
