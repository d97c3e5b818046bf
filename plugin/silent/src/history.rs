//! What sectors had before they were changed.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use memnbd_guest::{Error, Lower};

/// The most of a request that is kept, in bytes.
const MAX_KEPT: u64 = 1 << 20;

/// What a sector costs besides its bytes, about.
const OVERHEAD: u64 = 128;

/// The bytes of sectors, as they were before the last change.
#[derive(Clone, Debug)]
pub(crate) struct History {
    base: Lower,
    size: u64,
    sector: u64,
    /// The most sectors.
    limit: usize,
    sectors: BTreeMap<u64, Vec<u8>>,
    /// The sectors in the order in which they were first kept. Some are no longer there.
    order: VecDeque<u64>,
}

impl History {
    /// Returns an empty history that takes up to `memory` bytes.
    pub(crate) fn new(base: Lower, sector: u64, memory: u64) -> Self {
        let limit = usize::try_from(memory / (sector + OVERHEAD)).unwrap_or(usize::MAX);
        Self {
            base,
            size: base.geometry().size,
            sector,
            limit,
            sectors: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Returns true if there is something of the bytes from `start` up to `end`.
    pub(crate) fn touches(&self, start: u64, end: u64) -> bool {
        let numbers = start / self.sector..end.div_ceil(self.sector);
        self.sectors.range(numbers).next().is_some()
    }

    /// Keeps what the sectors of a range have, and forgets what they had before.
    pub(crate) fn keep(&mut self, start: u64, end: u64) -> Result<(), Error> {
        let first = start / self.sector;
        let start = first * self.sector;
        let whole = end.checked_next_multiple_of(self.sector).unwrap_or(self.size).min(self.size);
        let kept = whole.min(start + MAX_KEPT.max(self.sector));
        let mut bytes = Vec::new();
        let length = (kept - start) as usize;
        bytes.try_reserve_exact(length).map_err(|_| Error::ENOMEM)?;
        bytes.resize(length, 0);
        self.base.read(start, &mut bytes)?;
        for (number, bytes) in (first..).zip(bytes.chunks(self.sector as usize)) {
            self.insert(number, bytes);
        }
        // The sectors that are changed, but not kept.
        let rest = kept.div_ceil(self.sector)..whole.div_ceil(self.sector);
        if !rest.is_empty() {
            let mut after = self.sectors.split_off(&rest.start);
            self.sectors.append(&mut after.split_off(&rest.end));
        }
        Ok(())
    }

    fn insert(&mut self, number: u64, bytes: &[u8]) {
        if let Some(old) = self.sectors.get_mut(&number) {
            old.copy_from_slice(bytes);
            return;
        }
        if self.limit == 0 {
            return;
        }
        // There is one in the order for each sector, or more.
        while self.sectors.len() >= self.limit || self.order.len() > 2 * self.limit {
            match self.order.pop_front() {
                Some(oldest) => self.sectors.remove(&oldest),
                None => break,
            };
        }
        self.sectors.insert(number, bytes.to_vec());
        self.order.push_back(number);
    }

    /// Replaces what was read at an offset by what there was before.
    pub(crate) fn overlay(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        let numbers = offset / self.sector..end.div_ceil(self.sector);
        for (number, bytes) in self.sectors.range(numbers) {
            let at = number * self.sector;
            let (start, stop) = (at.max(offset), (at + bytes.len() as u64).min(end));
            let from = &bytes[(start - at) as usize..(stop - at) as usize];
            buffer[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use memnbd_guest::{Capabilities, testing};

    use super::*;

    fn history(memory: u64) -> (Lower, History) {
        let base = testing::device(10_000_100, Capabilities::WRITABLE);
        (base, History::new(base, 512, memory))
    }

    /// The first byte of what there was before.
    fn before(history: &History, offset: u64) -> u8 {
        let mut bytes = [9; 1];
        history.overlay(offset, &mut bytes);
        bytes[0]
    }

    #[test]
    fn sectors_are_kept_as_they_were_last() {
        let (base, mut history) = history(1 << 20);
        history.keep(1000, 1030).unwrap();
        base.write(1000, &[1; 30], false).unwrap();
        assert_eq!([511, 512, 1535, 1536].map(|at| before(&history, at)), [9, 0, 0, 9]);
        history.keep(1000, 1001).unwrap();
        assert_eq!([512, 1000, 1024].map(|at| before(&history, at)), [0, 1, 0]);
        history.keep(10_000_099, 10_000_100).unwrap();
        assert_eq!(before(&history, 10_000_099), 0);
        assert!(
            history.touches(0, 513) && !history.touches(0, 512) && !history.touches(1536, 9999)
        );
    }

    #[test]
    fn oldest_sectors_are_forgotten() {
        let (_, mut history) = history(10 * (512 + OVERHEAD));
        for sector in 0..30 {
            history.keep(sector * 512, sector * 512 + 1).unwrap();
            assert!(history.sectors.len() <= 10 && history.order.len() <= 21);
        }
        assert_eq!((before(&history, 19 * 512), before(&history, 20 * 512)), (9, 0));
        let (_, mut none) = self::history(0);
        none.keep(0, 5000).unwrap();
        assert!(none.sectors.is_empty() && none.order.is_empty());
    }

    #[test]
    fn beginning_of_a_long_change_is_kept_and_the_rest_forgotten() {
        let (_, mut history) = history(16 << 20);
        history.keep(5 << 20, (5 << 20) + 512).unwrap();
        history.keep(9 << 20, (9 << 20) + 512).unwrap();
        history.keep(0, 8 << 20).unwrap();
        let at = [0, (1 << 20) - 1, 1 << 20, 5 << 20, 9 << 20];
        assert_eq!(at.map(|at| before(&history, at)), [0, 0, 9, 9, 0]);
    }
}
