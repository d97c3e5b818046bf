//! The numbers of requests.

use alloc::collections::BTreeMap;
use core::time::Duration;

use memnbd_guest::Operation;

/// What is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Trim,
    Zero,
    Extents,
    Cache,
    Flush,
}

impl Kind {
    /// All kinds with their names, in the order of the report.
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::Trim, "trim"),
        (Self::Zero, "zero"),
        (Self::Extents, "extents"),
        (Self::Cache, "cache"),
        (Self::Flush, "flush"),
    ];

    pub(crate) const fn of(operation: Operation) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::Write => Self::Write,
            Operation::Zero => Self::Zero,
            Operation::Trim => Self::Trim,
            Operation::Cache => Self::Cache,
            Operation::Extents => Self::Extents,
        }
    }
}

/// The requests of all kinds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tallies([Tally; Kind::ALL.len()]);

/// The requests of a kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) failed: u64,
    pub(crate) time: Duration,
    pub(crate) latency: Latency,
    /// The requests of 2^n to 2^(n+1)-1 bytes, for each n.
    pub(crate) sizes: BTreeMap<u32, Size>,
}

/// The requests of similar sizes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Size {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// The requests at an offset of 0.
    pub(crate) at_zero: u64,
    /// The requests whose offset is a multiple of 2^n, and not of 2^(n+1), for each n.
    pub(crate) alignments: BTreeMap<u32, u64>,
}

impl Tallies {
    pub(crate) fn get(&self, kind: Kind) -> &Tally {
        &self.0[kind as usize]
    }

    /// Adds a request that succeeded.
    pub(crate) fn add(&mut self, kind: Kind, offset: u64, length: u64, time: Duration) {
        let tally = &mut self.0[kind as usize];
        tally.count += 1;
        tally.bytes = tally.bytes.saturating_add(length);
        tally.time = tally.time.saturating_add(time);
        tally.latency.add(time);
        let Some(bits) = length.checked_ilog2() else { return };
        let size = tally.sizes.entry(bits).or_default();
        size.count += 1;
        size.bytes = size.bytes.saturating_add(length);
        match offset {
            0 => size.at_zero += 1,
            _ => *size.alignments.entry(offset.trailing_zeros()).or_default() += 1,
        }
    }

    /// Adds a request that failed.
    pub(crate) fn fail(&mut self, kind: Kind) {
        self.0[kind as usize].failed += 1;
    }
}

/// The bits of a time that are distinguished after the first one.
const PRECISION: u32 = 3;

/// The distribution of times, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency {
    /// The number of times by their first four bits and their length in bits: at most 8 * 62.
    counts: BTreeMap<u32, u64>,
    total: u64,
    pub(crate) longest: u64,
}

impl Latency {
    fn add(&mut self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        *self.counts.entry(bucket(time)).or_default() += 1;
        self.total += 1;
        self.longest = self.longest.max(time);
    }

    /// Returns a time that so many of 1000 requests do not exceed: the end of its bucket, or the longest
    /// time.
    pub(crate) fn quantile(&self, per_mille: u64) -> u64 {
        let wanted = (u128::from(self.total) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in &self.counts {
            seen += u128::from(*count);
            if seen >= wanted {
                return end(*bucket).min(self.longest);
            }
        }
        self.longest
    }
}

fn bucket(time: u64) -> u32 {
    let shift = time.max(1).ilog2().saturating_sub(PRECISION);
    // The mantissa has at most four bits.
    (shift << PRECISION) + (time >> shift) as u32
}

/// Returns the longest time of a bucket.
fn end(bucket: u32) -> u64 {
    let one = 1 << PRECISION;
    if bucket < 2 * one {
        return bucket.into();
    }
    let shift = bucket / one - 1;
    let mantissa = u64::from(bucket - shift * one);
    (mantissa << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut last = 0;
        for time in (0..10_000).chain((14..64).map(|bit| 1 << bit)).chain([u64::MAX]) {
            let bucket = bucket(time);
            assert!(bucket == last || bucket == last + 1 || time > 10_000, "{time}");
            last = bucket;
            let end = end(bucket);
            assert!(end >= time && end - time <= time / 8, "{time} {end}");
        }
    }

    #[test]
    fn quantiles_are_times_that_were_not_exceeded() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(500), 0);
        for time in 1..=1000 {
            latency.add(Duration::from_nanos(time));
        }
        for per_mille in [1, 10, 500, 900, 990, 999, 1000] {
            let time = latency.quantile(per_mille);
            assert!(time >= per_mille && time <= per_mille + per_mille / 8, "{per_mille} {time}");
        }
        assert_eq!((latency.quantile(1000), latency.longest), (1000, 1000));
    }
}
