//! Histograms of how long requests took.

use std::time::Duration;

/// The number of buckets, each a quarter of a power of two wide. The last one has all that is longer. In
/// loom's models there is only one, for they go through all interleavings of reads and writes.
pub(super) const BUCKETS: usize = if cfg!(loom) { 1 } else { 108 };

/// The logarithm of the width of the first bucket, in nanoseconds.
const FINEST: u32 = 8;

/// Returns the bucket of a duration.
pub(super) fn bucket(nanos: u64) -> usize {
    let units = nanos >> FINEST;
    let bucket = match units {
        0..4 => units,
        _ => {
            let exponent = units.ilog2();
            let quarter = (units >> (exponent - 2)) & 3;
            u64::from(4 * (exponent - 1)) + quarter
        }
    };
    (bucket as usize).min(BUCKETS - 1)
}

/// Returns the upper bound of a bucket in nanoseconds, exclusive.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match bucket {
        0..4 => (bucket + 1) << FINEST,
        _ => (bucket % 4 + 5) << (bucket / 4 - 1) << FINEST,
    }
}

/// A histogram of durations, from 256 ns to 64 s, each known to within a quarter.
#[derive(Clone, Debug)]
pub struct Latency {
    /// The sum.
    pub(super) nanos: u64,
    pub(super) counts: [u64; BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self { nanos: 0, counts: [0; BUCKETS] }
    }
}

impl Latency {
    /// Returns the sum of the durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Returns the buckets, in ascending order: the duration that is longer than all in the bucket, and
    /// how many those are. The last bucket has all that are longer than the one before it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bound = |bucket| Duration::from_nanos(upper_bound(bucket));
        self.counts.iter().enumerate().map(move |(bucket, &count)| (bound(bucket), count))
    }

    /// Returns the duration than which at least this fraction, between 0 and 1, took less. Returns
    /// `None` if nothing was counted.
    pub fn quantile(&self, fraction: f64) -> Option<Duration> {
        let total: u64 = self.counts.iter().sum();
        let wanted = (total as f64 * fraction).ceil().max(1.0) as u64;
        let mut sum = 0;
        self.buckets().find_map(|(bound, count)| {
            sum += count;
            (sum >= wanted).then_some(bound)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let mut lower = 0;
        for index in 0..BUCKETS {
            let upper = upper_bound(index);
            assert_eq!([bucket(lower), bucket(upper - 1)], [index, index]);
            assert!(index < 4 || upper - lower <= lower / 4, "{lower} to {upper}");
            lower = upper;
        }
        assert_eq!(lower, 64 << 30, "more than a minute");
        assert_eq!([bucket(lower), bucket(u64::MAX)], [BUCKETS - 1; 2]);
    }
}
