//! Exponential backoff for retries, so that repeated requests cannot keep the machine busy.
//!
//! The crates for backoff (backon, exponential-backoff) drive a future that is retried; here it is
//! the next client that retries, and what is needed is the time from which it may.

use std::time::{Duration, Instant};

/// The first and the longest pause.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The number of consecutive failures, and the time of the next retry.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    failures: u32,
    next: Instant,
}

impl Backoff {
    /// Returns the backoff after a failure. `before` is the backoff after the previous failure in a
    /// row.
    pub fn after(before: Option<Self>, now: Instant) -> Self {
        let failures = before.map_or(0, |before| before.failures.saturating_add(1));
        let pause = FIRST.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
        Self { failures, next: now + pause.min(LONGEST) }
    }

    /// Returns the time left until a retry is allowed, or `None` if it is allowed now.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.next.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let mut now = Instant::now();
        let mut backoff = None;
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let noted = Backoff::after(backoff, now);
            let pause = noted.left(now).unwrap();
            assert_eq!(noted.left(now + pause / 2), Some(pause - pause / 2));
            now += pause;
            assert_eq!(noted.left(now), None);
            assert_eq!(noted.left(now + pause), None);
            pauses.push(pause.as_secs());
            backoff = Some(noted);
        }
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(pauses[8..].iter().all(|pause| *pause == 60));
    }
}
