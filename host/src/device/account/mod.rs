//! Accounts: what was asked of an export, how it ended, and how long it took.
//!
//! Each connection has a [`Meter`] of its own, which nobody else writes. So connections cost each other
//! nothing, and counting takes no atomic instruction. [`Account::totals`] adds up all meters.
//!
//! - `latency`: histograms of how long requests took.
//! - `totals`: what was counted, for those who ask.
//!
//! This module does not know what is counted for.
//!
//! The crates metrics and prometheus count with atomic instructions in memory that all connections share,
//! and hdrhistogram takes a lock or a `&mut` for that; an exporter can be built on either from the totals
//! here.

mod latency;
mod totals;

use std::mem;
use std::time::Duration;

use crate::block::{ErrorCode, Operation};
use crate::clock;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
pub use latency::Latency;
use latency::{BUCKETS, bucket};
use totals::add_to;
pub use totals::{OperationTotals, Totals};

/// The number of operations.
const OPERATIONS: usize = Operation::ALL.len();

/// The number of codes of errors.
const CODES: usize = ErrorCode::ALL.len();

/// The account of an export.
#[derive(Clone, Default)]
pub struct Account(Arc<Mutex<Meters>>);

#[derive(Default)]
struct Meters {
    open: Vec<Arc<Counters>>,
    /// What those have counted that are closed.
    closed: Closed,
}

/// What closed meters have counted. Thousands of disks may have been used for one operation, so there is
/// room only for those that occurred.
#[derive(Default)]
struct Closed {
    refused: u64,
    held_back: u64,
    errors: [u64; CODES],
    operations: [Option<Box<OperationTotals>>; OPERATIONS],
}

impl Closed {
    fn add(&mut self, counters: &Counters) {
        add_to(&mut self.refused, &counters.refused);
        add_to(&mut self.held_back, &counters.held_back);
        for (sum, counter) in self.errors.iter_mut().zip(&counters.errors) {
            add_to(sum, counter);
        }
        for (totals, counters) in self.operations.iter_mut().zip(&counters.operations) {
            if counters.requests.load(Ordering::Relaxed) > 0 {
                totals.get_or_insert_default().add(counters);
            }
        }
    }

    fn totals(&self) -> Totals {
        let operation = |index: usize| self.operations[index].as_deref().cloned();
        let operations = std::array::from_fn(|index| operation(index).unwrap_or_default());
        let Self { refused, held_back, errors, .. } = *self;
        Totals { refused, held_back, errors, operations }
    }
}

impl Account {
    /// Opens the meter of a new connection.
    pub fn open(&self) -> Meter {
        let counters = Arc::new(Counters::default());
        self.meters().open.push(counters.clone());
        Meter {
            account: self.clone(),
            counters,
            begun: clock::nanos(),
            batch: Default::default(),
            touched: 0,
        }
    }

    /// Returns what was counted, by connections that have ended as well. Requests are counted after their
    /// replies were sent. Later totals are never less.
    pub fn totals(&self) -> Totals {
        let meters = self.meters();
        let mut totals = meters.closed.totals();
        meters.open.iter().for_each(|counters| totals.add(counters));
        totals
    }

    fn meters(&self) -> MutexGuard<'_, Meters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's part of an account.
///
/// Requests come in batches: [`Self::begin`] when something was received, then [`Self::answered`] for
/// each request, and [`Self::end`] when the replies were sent. So the clock is read twice for each
/// batch, however many requests it has.
pub struct Meter {
    account: Account,
    counters: Arc<Counters>,
    /// When the batch began, by the monotonic clock.
    begun: u64,
    /// The requests of the batch that were answered, which are counted when it ends.
    batch: [Batch; OPERATIONS],
    /// A bit for each operation that the batch has.
    touched: u8,
}

/// The requests of a batch with the same operation.
#[derive(Default)]
struct Batch {
    requests: u64,
    errors: u64,
    bytes: u64,
}

/// A request that was admitted.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The operation.
    pub operation: Operation,
    /// When it arrived, by the monotonic clock.
    arrived: u64,
}

impl Meter {
    /// Begins a batch: something was received.
    #[inline]
    pub fn begin(&mut self) {
        self.begun = clock::nanos();
    }

    /// Returns the entry of a request of the present batch.
    #[inline]
    pub fn entry(&self, operation: Operation) -> Entry {
        Entry { operation, arrived: self.begun }
    }

    /// Counts a request of so many bytes that was answered.
    #[inline]
    pub fn answered(&mut self, entry: Entry, bytes: u64, failed: bool) {
        if entry.arrived != self.begun {
            return self.answered_late(entry, bytes, failed);
        }
        let batch = &mut self.batch[entry.operation as usize];
        batch.requests += 1;
        match failed {
            false => batch.bytes = batch.bytes.saturating_add(bytes),
            true => batch.errors += 1,
        }
        self.touched |= 1 << entry.operation as u8;
    }

    /// Counts a request of another batch.
    #[cold]
    fn answered_late(&mut self, entry: Entry, bytes: u64, failed: bool) {
        let took = clock::nanos().saturating_sub(entry.arrived);
        let batch = match failed {
            false => Batch { requests: 1, errors: 0, bytes },
            true => Batch { requests: 1, errors: 1, bytes: 0 },
        };
        self.counters.operations[entry.operation as usize].count(&batch, took);
    }

    /// Counts a request that was not admitted.
    pub fn refused(&mut self) {
        add(&self.counters.refused, 1);
    }

    /// Counts the code of an error that was answered, besides the request itself.
    #[cold]
    pub fn failed(&mut self, code: ErrorCode) {
        add(&self.counters.errors[code as usize], 1);
    }

    /// Counts time for which a request was held back, because it exceeds a limit.
    #[cold]
    pub fn held_back(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        add(&self.counters.held_back, nanos);
    }

    /// Ends a batch: its replies were sent.
    #[inline]
    pub fn end(&mut self) {
        if self.touched != 0 {
            self.end_touched();
        }
    }

    fn end_touched(&mut self) {
        let took = clock::nanos().saturating_sub(self.begun);
        while self.touched != 0 {
            let index = self.touched.trailing_zeros() as usize;
            self.touched &= self.touched - 1;
            let batch = mem::take(&mut self.batch[index]);
            self.counters.operations[index].count(&batch, took);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end();
        let mut meters = self.account.meters();
        meters.open.retain(|counters| !Arc::ptr_eq(counters, &self.counters));
        meters.closed.add(&self.counters);
    }
}

/// What a meter has counted. Only the meter writes it; others read it at any time.
#[derive(Default)]
struct Counters {
    refused: AtomicU64,
    errors: [AtomicU64; CODES],
    /// In nanoseconds.
    held_back: AtomicU64,
    operations: [OperationCounters; OPERATIONS],
}

struct OperationCounters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Default for OperationCounters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        let latency = std::array::from_fn(|_| zero());
        Self { requests: zero(), bytes: zero(), errors: zero(), nanos: zero(), latency }
    }
}

impl OperationCounters {
    /// Counts requests that took so many nanoseconds each.
    fn count(&self, batch: &Batch, nanos: u64) {
        let &Batch { requests, errors, bytes } = batch;
        add(&self.requests, requests);
        add(&self.errors, errors);
        add(&self.bytes, bytes);
        add(&self.nanos, nanos.saturating_mul(requests));
        add(&self.latency[bucket(nanos)], requests);
    }
}

/// Adds to a counter that no other thread writes. Clients can reach the greatest number, where it stays:
/// they may trim 8 EiB at a time.
#[inline]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_of_all_connections() {
        let account = Account::default();
        let [mut first, mut second] = [account.open(), account.open()];
        first.begin();
        let read = first.entry(Operation::Read);
        first.answered(read, 4096, false);
        first.answered(read, 4096, false);
        first.end();
        second.begin();
        second.answered(second.entry(Operation::Read), 4096, true);
        second.answered(second.entry(Operation::Flush), 0, false);
        second.failed(ErrorCode::NoSpc);
        second.refused();
        second.held_back(Duration::from_millis(3));
        second.end();
        let check = || {
            let totals = account.totals();
            let read = totals.of(Operation::Read);
            assert_eq!([read.requests, read.bytes, read.errors], [3, 8192, 1]);
            assert_eq!(read.latency.buckets().map(|(_, count)| count).sum::<u64>(), 3);
            assert_eq!(totals.of(Operation::Flush).requests, 1);
            assert_eq!(totals.of(Operation::Write).requests, 0);
            assert_eq!(totals.refused, 1);
            let errors: Vec<_> = totals.errors().filter(|&(_, count)| count > 0).collect();
            assert_eq!(errors, [(ErrorCode::NoSpc, 1)]);
            assert_eq!(totals.held_back(), Duration::from_millis(3));
        };
        check();
        drop(first);
        check();
        drop(second);
        check();
        assert!(account.meters().open.is_empty());
    }

    #[test]
    fn a_request_takes_as_long_as_its_batch_or_until_its_own_end() {
        let account = Account::default();
        let mut meter = account.open();
        meter.begin();
        let slow = meter.entry(Operation::Write);
        meter.answered(meter.entry(Operation::Read), 1, false);
        let pause = Duration::from_millis(2);
        std::thread::sleep(pause);
        meter.end();
        meter.begin();
        std::thread::sleep(pause);
        meter.answered(slow, 1, false);
        let totals = account.totals();
        let sum = |operation| totals.of(operation).latency.sum();
        assert!(sum(Operation::Read) >= pause && sum(Operation::Write) >= 2 * pause);
        let quantile = totals.of(Operation::Write).latency.quantile(0.5);
        assert!(quantile.is_some_and(|quantile| quantile > 2 * pause));
        assert_eq!(totals.of(Operation::Trim).latency.quantile(0.5), None);
    }

    #[test]
    fn quantiles_are_of_the_requests_and_not_of_the_buckets() {
        let counters = OperationCounters::default();
        counters.count(&Batch { requests: 98, errors: 0, bytes: 1 }, 1_000);
        counters.count(&Batch { requests: 2, errors: 0, bytes: 1 }, 1_000_000);
        let mut totals = Totals::default();
        let mut all = Counters::default();
        all.operations[Operation::Read as usize] = counters;
        totals.add(&all);
        let latency = &totals.of(Operation::Read).latency;
        let micros = |fraction| latency.quantile(fraction).unwrap().as_nanos() / 1000;
        assert_eq!([micros(0.0), micros(0.5), micros(0.98)], [1, 1, 1]);
        assert_eq!([micros(0.981), micros(1.0)], [1048, 1048]);
        assert_eq!(latency.sum(), Duration::from_nanos(98_000 + 2_000_000));
    }

    #[test]
    fn numbers_of_any_size_are_harmless() {
        let account = Account::default();
        for _ in 0..2 {
            let mut meter = account.open();
            for _ in 0..2 {
                meter.answered(meter.entry(Operation::Trim), u64::MAX, false);
                meter.answered(meter.entry(Operation::Trim), u64::MAX, false);
                meter.end();
                assert_eq!(account.totals().of(Operation::Trim).bytes, u64::MAX);
            }
        }
        assert_eq!(account.totals().of(Operation::Trim).requests, 8);
    }

    #[test]
    fn totals_are_told_in_a_line() {
        let account = Account::default();
        assert_eq!(account.totals().to_string(), "no requests");
        let mut meter = account.open();
        meter.refused();
        assert_eq!(account.totals().to_string(), "1 refused");
        meter.answered(meter.entry(Operation::Read), 10, false);
        meter.answered(meter.entry(Operation::Read), 10, true);
        meter.end();
        let line = account.totals().to_string();
        assert!(line.starts_with("read: 2 requests, 10 bytes, 1 failed, median "), "{line}");
        assert!(line.ends_with(" us; 1 refused"), "{line}");
    }
}
