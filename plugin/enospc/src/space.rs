//! The blocks that were written.

use alloc::collections::BTreeMap;

/// The most runs of blocks. A disk that is written in more pieces has no space left, whatever there is.
const MAX_RUNS: usize = 1 << 18;

/// A set of blocks, as runs that are apart from each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    /// The end of each run, by its first block.
    runs: BTreeMap<u64, u64>,
    /// The number of blocks.
    used: u64,
}

impl Space {
    /// Returns the number of blocks.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Returns the runs that have blocks from `first` up to `last`, or touch these.
    fn touching(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        let before = self.runs.range(..first).next_back().filter(move |(_, end)| **end >= first);
        before.into_iter().chain(self.runs.range(first..=last)).map(|(start, end)| (*start, *end))
    }

    /// Returns up to which block the range from `first` up to `last` can be added, if at most `left` of
    /// its blocks may be new.
    pub(crate) fn fits(&self, first: u64, last: u64, left: u64) -> u64 {
        if self.runs.len() >= MAX_RUNS && self.touching(first, last).next().is_none() {
            return first;
        }
        let (mut at, mut left) = (first, left);
        for (start, end) in self.touching(first, last) {
            let gap = start.min(last).saturating_sub(at);
            if gap > left {
                break;
            }
            left -= gap;
            at = at.max(end).min(last);
        }
        at.saturating_add(left).min(last)
    }

    /// Adds the blocks from `first` up to `last`.
    pub(crate) fn add(&mut self, first: u64, last: u64) {
        if first >= last {
            return;
        }
        let (mut start, mut end) = (first, last);
        loop {
            let next = self.touching(first, last).next();
            let Some((old_start, old_end)) = next else { break };
            start = start.min(old_start);
            end = end.max(old_end);
            self.runs.remove(&old_start);
            self.used -= old_end - old_start;
        }
        self.runs.insert(start, end);
        self.used += end - start;
    }

    /// Removes the blocks from `first` up to `last`.
    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        if first >= last {
            return;
        }
        loop {
            let mut touching = self.touching(first, last);
            let next = touching.find(|(start, end)| *start < last && first < *end);
            drop(touching);
            let Some((start, end)) = next else { return };
            self.runs.remove(&start);
            self.used -= end - start;
            for (start, end) in [(start, first), (last, end)] {
                if start < end {
                    self.runs.insert(start, end);
                    self.used += end - start;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use memnbd_guest::content::random_at;

    use super::*;

    #[test]
    fn space_is_that_of_a_list_of_blocks() {
        let (mut space, mut model) = (Space::default(), [false; 60]);
        for step in 0..20_000 {
            let first = random_at(1, step * 3) % 60;
            let last = first + random_at(1, step * 3 + 1) % (61 - first);
            let blocks = first as usize..last as usize;
            match random_at(1, step * 3 + 2) % 3 {
                0 => {
                    space.add(first, last);
                    model[blocks].fill(true);
                }
                1 => {
                    space.remove(first, last);
                    model[blocks].fill(false);
                }
                _ => {
                    for left in 0..10 {
                        let new = blocks.clone().filter(|block| !model[*block]).nth(left);
                        let fits = new.map_or(last, |block| block as u64);
                        assert_eq!(space.fits(first, last, left as u64), fits, "{space:?} {left}");
                    }
                }
            }
            assert_eq!(space.used(), model.iter().filter(|used| **used).count() as u64);
            let runs = model.chunk_by(|one, other| one == other).filter(|run| run[0]).count();
            assert_eq!(space.runs.len(), runs);
        }
    }

    #[test]
    fn runs_are_not_too_many() {
        let mut space = Space::default();
        for run in 0..MAX_RUNS as u64 {
            space.add(run * 2, run * 2 + 1);
        }
        let next = MAX_RUNS as u64 * 2;
        assert_eq!(space.fits(next, next + 1, 10), next);
        assert_eq!(space.fits(1, 2, 10), 2, "that joins two");
    }
}
