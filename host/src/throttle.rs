//! A token bucket that bounds what untrusted parties can make the host log, and counts refused
//! lines.
//!
//! The module does not know who is throttled or what is logged.
//!
//! [`crate::rate`] delays what exceeds a limit, with the crate governor. Here it is refused, by one of two
//! limits without a charge to the other, and a line may exceed what is left, which governor's do not do.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The capacity of a bucket, and its refill rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

/// A rate limit on lines and on their bytes.
#[derive(Debug)]
pub(crate) struct Throttle {
    lines: Limit,
    bytes: Limit,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the buckets were last refilled; `None` before the first line.
    filled: Option<Instant>,
    lines: f64,
    /// Negative after a line that was larger than the remaining level.
    bytes: f64,
    refused: u64,
}

/// The decision on a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The line may be logged. `refused` lines before it were refused and not reported yet.
    Admitted { refused: u64 },
    /// The line must not be logged. Including it, `refused` lines were refused since the last
    /// report.
    Refused { refused: u64 },
}

impl Throttle {
    /// Returns a throttle whose buckets are full.
    pub(crate) const fn new(lines: Limit, bytes: Limit) -> Self {
        let state = State {
            filled: None,
            lines: lines.burst as f64,
            bytes: bytes.burst as f64,
            refused: 0,
        };
        Self { lines, bytes, state: Mutex::new(state) }
    }

    /// Decides whether a line of `length` bytes may be logged now.
    pub(crate) fn admit(&self, length: usize) -> Verdict {
        self.admit_at(Instant::now(), length)
    }

    fn admit_at(&self, now: Instant, length: usize) -> Verdict {
        let mut state = self.state();
        let filled = state.filled.unwrap_or(now);
        let seconds = now.saturating_duration_since(filled).as_secs_f64();
        state.filled = Some(filled.max(now));
        state.lines = self.lines.filled(state.lines, seconds);
        state.bytes = self.bytes.filled(state.bytes, seconds);
        if state.lines < 1.0 || state.bytes <= 0.0 {
            state.refused += 1;
            return Verdict::Refused { refused: state.refused };
        }
        state.lines -= 1.0;
        state.bytes -= length as f64;
        Verdict::Admitted { refused: std::mem::take(&mut state.refused) }
    }

    /// Returns the number of lines refused since the last report, and resets it.
    pub(crate) fn take_refused(&self) -> u64 {
        std::mem::take(&mut self.state().refused)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limit {
    /// Returns the level of a bucket that held `level` this many seconds ago.
    fn filled(self, level: f64, seconds: f64) -> f64 {
        (level + seconds * f64::from(self.per_second)).min(f64::from(self.burst))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LINES: Limit = Limit { burst: 3, per_second: 2 };
    const BYTES: Limit = Limit { burst: 100, per_second: 10 };
    const ADMITTED: Verdict = Verdict::Admitted { refused: 0 };

    #[test]
    fn burst_is_admitted_then_the_rate() {
        let throttle = Throttle::new(LINES, BYTES);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(throttle.admit_at(start, 1), ADMITTED);
        }
        for refused in 1..=1000 {
            assert_eq!(throttle.admit_at(start, 1), Verdict::Refused { refused });
        }
        let later = start + Duration::from_millis(500);
        assert_eq!(throttle.admit_at(later, 1), Verdict::Admitted { refused: 1000 });
        assert_eq!(throttle.admit_at(later, 1), Verdict::Refused { refused: 1 });
    }

    #[test]
    fn bytes_are_bounded_besides_lines() {
        let throttle = Throttle::new(Limit { burst: 1000, per_second: 1000 }, BYTES);
        let start = Instant::now();
        assert_eq!(throttle.admit_at(start, 99), ADMITTED);
        assert_eq!(throttle.admit_at(start, 51), ADMITTED, "a line is admitted whole");
        let soon = start + Duration::from_secs(4);
        assert_eq!(throttle.admit_at(soon, 1), Verdict::Refused { refused: 1 }, "and paid for");
        let later = start + Duration::from_secs(6);
        assert_eq!(throttle.admit_at(later, 1), Verdict::Admitted { refused: 1 });
    }

    #[test]
    fn idle_time_fills_no_more_than_the_burst() {
        let throttle = Throttle::new(LINES, BYTES);
        let start = Instant::now();
        assert_eq!(throttle.admit_at(start, 1), ADMITTED);
        let later = start + Duration::from_secs(3600);
        for _ in 0..3 {
            assert_eq!(throttle.admit_at(later, 1), ADMITTED);
        }
        assert_eq!(throttle.admit_at(later, 1), Verdict::Refused { refused: 1 });
        assert_eq!(
            throttle.admit_at(start, 1),
            Verdict::Refused { refused: 2 },
            "time goes forward"
        );
    }

    #[test]
    fn refused_lines_are_taken_once() {
        let throttle = Throttle::new(Limit { burst: 0, per_second: 0 }, BYTES);
        assert_eq!(throttle.admit(1), Verdict::Refused { refused: 1 });
        assert_eq!(throttle.admit(1), Verdict::Refused { refused: 2 });
        assert_eq!(throttle.take_refused(), 2);
        assert_eq!(throttle.take_refused(), 0);
    }
}
