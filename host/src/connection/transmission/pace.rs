//! Detecting busy connections, by how quickly their requests follow each other.

use std::time::{Duration, Instant};

/// A connection is busy once it has received data this soon after the previous data, this many
/// times in a row.
const QUICK: Duration = Duration::from_millis(1);
const BUSY: u32 = 16;

/// The pace of a connection.
#[derive(Default)]
pub(super) struct Pace {
    /// Whether busy connections are looked for.
    watched: bool,
    last: Option<Instant>,
    /// How many times in a row data came quickly.
    count: u32,
}

impl Pace {
    /// Turns the detection on or off.
    pub(super) fn watch(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Records that data was received. Returns true once, when that makes the connection busy.
    pub(super) fn is_busy(&mut self) -> bool {
        self.watched && self.came(Instant::now())
    }

    fn came(&mut self, now: Instant) -> bool {
        let quick = self.last.is_some_and(|last| now - last < QUICK);
        self.last = Some(now);
        self.count = if quick { self.count + 1 } else { 0 };
        let busy = self.count >= BUSY;
        if busy {
            self.count = 0;
        }
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_quickly_many_times_in_a_row_is_busy() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut after = |pause| {
            now += pause;
            pace.came(now)
        };
        assert_eq!((0..100).position(|_| after(QUICK / 2)), Some(BUSY as usize));
        assert_eq!((0..100).position(|_| after(QUICK / 2)), Some(BUSY as usize - 1), "and again");
        for _ in 0..10 {
            assert!(!after(QUICK));
            assert!((1..BUSY).all(|_| !after(QUICK / 2)), "a pause, and it counts anew");
        }
    }

    #[test]
    fn nobody_is_told_who_does_not_want_to_know() {
        let mut pace = Pace::default();
        assert!((0..100).all(|_| !pace.is_busy()));
    }
}
