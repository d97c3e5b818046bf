//! The clock of a thread, which tests stop.

use core::cell::Cell;
use core::time::Duration;

std::thread_local! {
    static STOPPED_AT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Returns the time at which the clock of this thread stands, or none if it goes.
pub(crate) fn stopped_at() -> Option<Duration> {
    STOPPED_AT.get()
}

/// Stops the clock of this thread that [`uptime`](crate::uptime) tells, and puts it forward.
pub fn advance(time: Duration) {
    STOPPED_AT.set(Some(crate::uptime() + time));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_stands_where_it_is_put() {
        advance(Duration::from_secs(1000));
        let now = crate::uptime();
        assert!(now >= Duration::from_secs(1000));
        assert_eq!(crate::uptime(), now);
        advance(Duration::from_secs(5));
        assert_eq!(crate::uptime(), now + Duration::from_secs(5));
    }
}
