//! Which disks have series of their own.
//!
//! The first disks that are used get series of their own, and keep them until they are removed. All others
//! are summed up, also after they were removed, so that the sums never become less, which Prometheus would
//! take for a new start.

use std::collections::{HashMap, HashSet};

use super::sums::Sums;

/// The most disks with series of their own.
const MAX_DISKS: usize = 1000;

/// The most bytes that their names have together: a name is in each of some hundred lines.
const MAX_NAMES: usize = 64 << 10;

/// Which disks have series of their own.
#[derive(Default)]
pub(crate) struct Board {
    /// The length of the name of each, by their numbers.
    own: HashMap<u64, usize>,
    names: usize,
    /// What was last known of those that have none.
    others: HashMap<u64, Sums>,
    /// The sums of those that had none, and were removed.
    removed: Sums,
}

impl Board {
    /// Forgets all disks but these.
    pub(super) fn keep(&mut self, present: impl Iterator<Item = u64>) {
        let present: HashSet<u64> = present.collect();
        self.own.retain(|id, length| {
            let keep = present.contains(id);
            self.names -= if keep { 0 } else { *length };
            keep
        });
        self.others.retain(|id, sums| {
            let keep = present.contains(id);
            if !keep {
                self.removed.add(sums);
            }
            keep
        });
    }

    /// Records a disk whose name has this length. Returns its counters if it has series of its own.
    pub(super) fn enter(
        &mut self,
        id: u64,
        length: usize,
        connected: bool,
        sums: impl FnOnce() -> Sums,
    ) -> Option<Sums> {
        let sums = sums();
        if self.own.contains_key(&id) {
            return Some(sums);
        }
        let is_known = self.others.contains_key(&id);
        if !is_known && !connected && sums.is_zero() {
            return None;
        }
        if is_known || self.own.len() >= MAX_DISKS || self.names + length > MAX_NAMES {
            self.others.insert(id, sums);
            return None;
        }
        self.own.insert(id, length);
        self.names += length;
        Some(sums)
    }

    /// Returns the sums of all disks that have no series of their own, if there were any.
    pub(super) fn others(&self) -> Option<Sums> {
        let mut sums = self.removed;
        self.others.values().for_each(|other| sums.add(other));
        (!self.others.is_empty() || !sums.is_zero()).then_some(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refused: u64) -> Sums {
        Sums { refused, ..Sums::default() }
    }

    #[test]
    fn first_disks_that_are_used_have_series_of_their_own() {
        let mut board = Board::default();
        assert_eq!(board.enter(0, 1, false, Sums::default), None, "nobody used it");
        for id in 1..=MAX_DISKS as u64 {
            assert!(board.enter(id, 1, true, Sums::default).is_some());
        }
        assert_eq!(board.others(), None);
        assert_eq!(board.enter(5000, 1, false, || refused(3)), None);
        assert_eq!(board.enter(5001, 1, false, || refused(4)), None);
        assert_eq!(board.others(), Some(refused(7)));
        assert_eq!(board.enter(7, 1, false, || refused(1)), Some(refused(1)));
    }

    #[test]
    fn sums_of_others_never_become_less() {
        let mut board = Board::default();
        let enter_all = |board: &mut Board| {
            for id in 1..=MAX_DISKS as u64 + 1 {
                board.enter(id, 1, true, || refused(5));
            }
        };
        enter_all(&mut board);
        assert_eq!(board.others(), Some(refused(5)));
        board.keep((2..=1000).chain([1001]));
        enter_all(&mut board);
        assert_eq!(board.others(), Some(refused(5)), "it stays among the others");
        board.keep(0..0);
        assert_eq!(board.others(), Some(refused(5)), "although it is gone");
        assert_eq!(board.names, 0);
        assert!(board.enter(9, 1, true, Sums::default).is_some());
    }

    #[test]
    fn long_names_leave_room_for_fewer() {
        let mut board = Board::default();
        let own = (0..1000).filter(|&id| board.enter(id, 255, true, Sums::default).is_some());
        assert_eq!(own.count(), MAX_NAMES / 255);
    }
}
