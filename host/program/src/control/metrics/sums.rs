//! The counters of a disk, as they are in metrics.

use std::time::Duration;

use memnbd::block::{ErrorCode, Operation};
use memnbd::device::{Latency, Totals};

use crate::volume::Costs;

/// The upper bounds of the buckets of latencies but the last one, in nanoseconds: powers of four, which are
/// bounds in the accounts as well. From 16 us to 4.3 s.
const BOUNDS: [u64; 10] =
    [1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28, 1 << 30, 1 << 32];

const OPERATIONS: usize = Operation::ALL.len();
const CODES: usize = ErrorCode::ALL.len();

/// What was asked of a disk, or of several, and what that cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) operations: [OfOperation; OPERATIONS],
    pub(super) errors: [u64; CODES],
    pub(super) refused: u64,
    /// For how long requests were held back by limits.
    pub(super) held_back: Duration,
    /// The processor time of guests.
    pub(super) guest: Duration,
    /// How often an instance failed.
    pub(super) faults: u64,
}

/// What was asked by one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfOperation {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    /// How long all of them took together.
    pub(super) time: Duration,
    /// How many took less than each bound and not less than the one before it, and how many took longer.
    buckets: [u64; BOUNDS.len() + 1],
}

impl Sums {
    /// Returns the counters of a disk.
    pub(super) fn of(totals: &Totals, costs: Option<Costs>) -> Self {
        let of = |operation| {
            let totals = totals.of(operation);
            OfOperation {
                requests: totals.requests,
                bytes: totals.bytes,
                time: totals.latency.sum(),
                buckets: buckets(&totals.latency),
            }
        };
        let mut errors = [0; CODES];
        for (sum, (_, count)) in errors.iter_mut().zip(totals.errors()) {
            *sum = count;
        }
        Self {
            operations: Operation::ALL.map(of),
            errors,
            refused: totals.refused,
            held_back: totals.held_back(),
            guest: costs.map_or(Duration::ZERO, |costs| costs.guest),
            faults: costs.map_or(0, |costs| costs.faults),
        }
    }

    /// Returns true if nothing was counted.
    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Adds those of another disk.
    pub(super) fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        for (sum, more) in self.operations.iter_mut().zip(&other.operations) {
            add(&mut sum.requests, more.requests);
            add(&mut sum.bytes, more.bytes);
            sum.time = sum.time.saturating_add(more.time);
            sum.buckets.iter_mut().zip(more.buckets).for_each(|(sum, more)| add(sum, more));
        }
        self.errors.iter_mut().zip(other.errors).for_each(|(sum, more)| add(sum, more));
        add(&mut self.refused, other.refused);
        add(&mut self.faults, other.faults);
        self.held_back = self.held_back.saturating_add(other.held_back);
        self.guest = self.guest.saturating_add(other.guest);
    }

    /// Returns the operations that there were.
    pub(super) fn operations(&self) -> impl Iterator<Item = (Operation, &OfOperation)> {
        let all = Operation::ALL.into_iter().zip(&self.operations);
        all.filter(|(_, of)| of.requests > 0)
    }

    /// Returns the codes of the errors that there were.
    pub(super) fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.into_iter().zip(self.errors).filter(|&(_, count)| count > 0)
    }
}

impl OfOperation {
    /// Returns the upper bounds of the buckets, in seconds, and how many requests are in each.
    pub(super) fn buckets(&self) -> [(f64, u64); BOUNDS.len() + 1] {
        std::array::from_fn(|index| {
            let bound = BOUNDS.get(index).map(|&nanos| Duration::from_nanos(nanos).as_secs_f64());
            (bound.unwrap_or(f64::INFINITY), self.buckets[index])
        })
    }
}

/// Puts the fine buckets of an account together.
fn buckets(latency: &Latency) -> [u64; BOUNDS.len() + 1] {
    let mut buckets = [0_u64; BOUNDS.len() + 1];
    for (bound, count) in latency.buckets() {
        let index = BOUNDS.partition_point(|&wide| u128::from(wide) < bound.as_nanos());
        buckets[index] = buckets[index].saturating_add(count);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use memnbd::device::Account;

    use super::*;

    fn counted() -> Sums {
        let account = Account::default();
        let mut meter = account.open();
        meter.begin();
        meter.answered(meter.entry(Operation::Write), 4096, false);
        meter.answered(meter.entry(Operation::Write), 4096, true);
        meter.failed(ErrorCode::NoSpc);
        meter.held_back(Duration::from_secs(2));
        meter.end();
        let costs = Costs { guest: Duration::from_secs(1), faults: 3, ..Costs::default() };
        Sums::of(&account.totals(), Some(costs))
    }

    #[test]
    fn bounds_are_those_of_the_accounts() {
        let bounds: Vec<_> = Latency::default().buckets().map(|(bound, _)| bound).collect();
        for bound in BOUNDS {
            assert!(bounds.contains(&Duration::from_nanos(bound)), "{bound}");
        }
    }

    #[test]
    fn sums_have_what_each_disk_has() {
        let mut sums = counted();
        assert!(!sums.is_zero() && Sums::default().is_zero());
        sums.add(&counted());
        let operations: Vec<_> = sums.operations().map(|(operation, _)| operation).collect();
        assert_eq!(operations, [Operation::Write]);
        let (_, of) = sums.operations().next().unwrap();
        assert_eq!((of.requests, of.bytes), (4, 8192));
        assert_eq!(of.buckets().iter().map(|(_, count)| count).sum::<u64>(), 4);
        assert!(of.buckets().is_sorted_by(|(one, _), (next, _)| one < next));
        assert_eq!(sums.errors().collect::<Vec<_>>(), [(ErrorCode::NoSpc, 2)]);
        assert_eq!((sums.held_back, sums.guest), (Duration::from_secs(4), Duration::from_secs(2)));
        assert_eq!(sums.faults, 6);
    }
}
