//! What an account has counted, for those who ask.

use std::fmt;
use std::time::Duration;

use super::latency::Latency;
use super::{CODES, Counters, OPERATIONS, OperationCounters};
use crate::block::{ErrorCode, Operation};
use crate::sync::{AtomicU64, Ordering};

/// What an account has counted.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The number of requests that were not admitted: they are malformed, or against what was
    /// negotiated.
    pub refused: u64,
    pub(super) errors: [u64; CODES],
    /// In nanoseconds.
    pub(super) held_back: u64,
    pub(super) operations: [OperationTotals; OPERATIONS],
}

impl Totals {
    /// Returns the totals of an operation.
    pub fn of(&self, operation: Operation) -> &OperationTotals {
        &self.operations[operation as usize]
    }

    /// Returns how often each code was answered, to requests that were not admitted as well.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.into_iter().zip(self.errors)
    }

    /// Returns the time for which requests were held back because they exceeded a limit. With each of
    /// them, the connection is: what follows it on the connection is not counted again.
    pub fn held_back(&self) -> Duration {
        Duration::from_nanos(self.held_back)
    }

    /// Returns the totals of all operations.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, &OperationTotals)> {
        Operation::ALL.into_iter().zip(&self.operations)
    }

    pub(super) fn add(&mut self, counters: &Counters) {
        add_to(&mut self.refused, &counters.refused);
        add_to(&mut self.held_back, &counters.held_back);
        for (sum, counter) in self.errors.iter_mut().zip(&counters.errors) {
            add_to(sum, counter);
        }
        for (totals, counters) in self.operations.iter_mut().zip(&counters.operations) {
            totals.add(counters);
        }
    }
}

pub(super) fn add_to(sum: &mut u64, counter: &AtomicU64) {
    *sum = sum.saturating_add(counter.load(Ordering::Relaxed));
}

/// Lists the operations that there were, as in "read: 3 requests, 12288 bytes, median 9 us, 99 % 14 us".
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (operation, totals) in self.iter().filter(|(_, totals)| totals.requests > 0) {
            write!(f, "{separator}{}: {totals}", operation.name())?;
            separator = "; ";
        }
        match self.refused {
            0 if separator.is_empty() => f.write_str("no requests"),
            0 => Ok(()),
            refused => write!(f, "{separator}{refused} refused"),
        }
    }
}

/// What an account has counted of one operation.
#[derive(Clone, Debug, Default)]
pub struct OperationTotals {
    /// The number of requests that were answered.
    pub requests: u64,
    /// The sum of the lengths of those that succeeded, in bytes.
    pub bytes: u64,
    /// How many of the requests failed.
    pub errors: u64,
    /// How long the requests took, from when the server received their headers until it had sent the
    /// replies, or stored them to be sent when the client reads on.
    pub latency: Latency,
}

impl OperationTotals {
    pub(super) fn add(&mut self, counters: &OperationCounters) {
        add_to(&mut self.requests, &counters.requests);
        add_to(&mut self.bytes, &counters.bytes);
        add_to(&mut self.errors, &counters.errors);
        add_to(&mut self.latency.nanos, &counters.nanos);
        for (sum, counter) in self.latency.counts.iter_mut().zip(&counters.latency) {
            add_to(sum, counter);
        }
    }
}

impl fmt::Display for OperationTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, bytes, errors, latency } = self;
        let s = if *requests == 1 { "" } else { "s" };
        write!(f, "{requests} request{s}, {bytes} bytes")?;
        if *errors > 0 {
            write!(f, ", {errors} failed")?;
        }
        for (name, fraction) in [("median", 0.5), ("99 %", 0.99)] {
            if let Some(took) = latency.quantile(fraction) {
                write!(f, ", {name} {} us", took.as_nanos().div_ceil(1000))?;
            }
        }
        Ok(())
    }
}
