//! What is left of a share of the processors.
//!
//! It has no clock and waits for nobody: its callers say what time it is.

use std::time::Duration;

use super::Processors;

/// What may be caught up on after a pause: as much as the share allows in this time.
const BURST: Duration = Duration::from_millis(100);

/// The least of that, so that small shares let several requests wait for their lower devices at a time.
const LEAST_BURST: Duration = Duration::from_millis(10);

/// What a request is charged when it begins.
const DEPOSIT: Duration = Duration::from_millis(1);

/// The greatest debt. Far more than requests that begin at once can take, unless they mean to.
const MOST_DEBT: Duration = Duration::from_secs(60);

/// The time over which the load is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// What is left of a share. Times are those of the monotonic clock, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Account {
    share: Option<Processors>,
    /// What is left, in thousandths of a nanosecond, so that no part of it is lost however often it is
    /// refilled; negative if it is a debt.
    balance: i64,
    /// When it was last refilled.
    refilled: u64,
    /// The number of requests that have begun and not ended.
    begun: u64,
    window: Window,
}

/// What was used in the present window, and the load in the one before.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    used: u64,
    load: u64,
}

/// Returns a time in thousandths of a nanosecond.
fn fine(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().saturating_mul(1000)).unwrap_or(i64::MAX)
}

impl Account {
    pub(super) fn set(&mut self, share: Option<Processors>, now: u64) {
        self.refill(now);
        if self.share.is_none() {
            self.window = Window { start: now, ..Window::default() };
        }
        let before = std::mem::replace(&mut self.share, share);
        self.balance = match before {
            Some(_) => self.balance.min(self.burst()),
            None => self.burst(),
        };
    }

    /// Returns the most that may be left.
    fn burst(&self) -> i64 {
        let per_second = self.share.map_or(0, Processors::thousandths);
        fine(BURST * per_second / 1000).max(fine(LEAST_BURST))
    }

    fn refill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.refilled);
        self.refilled = self.refilled.max(now);
        let rate = u64::from(self.share.map_or(0, Processors::thousandths));
        let more = i64::try_from(passed.saturating_mul(rate)).unwrap_or(i64::MAX);
        self.balance = self.balance.saturating_add(more).min(self.burst());
    }

    pub(super) fn charge(&mut self, time: Duration, now: u64) {
        self.refill(now);
        self.balance = self.balance.saturating_sub(fine(time)).max(-fine(MOST_DEBT));
        self.window.roll(now);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.window.used = self.window.used.saturating_add(nanos);
    }

    /// Begins a request. Returns after which time it may be possible if it is not now.
    pub(super) fn begin(&mut self, now: u64) -> Result<(), Duration> {
        let Some(share) = self.share else {
            self.begun += 1;
            return Ok(());
        };
        self.refill(now);
        let deposits = fine(DEPOSIT).saturating_mul(i64::try_from(self.begun).unwrap_or(i64::MAX));
        let left = self.balance.saturating_sub(deposits);
        if left > 0 {
            self.begun += 1;
            return Ok(());
        }
        let missing = left.unsigned_abs() + 1;
        Err(Duration::from_nanos(missing.div_ceil(u64::from(share.thousandths()))))
    }

    pub(super) fn end(&mut self) {
        self.begun = self.begun.saturating_sub(1);
    }

    pub(super) fn load(&mut self, now: u64) -> u64 {
        self.window.roll(now);
        if self.share.is_none() { 0 } else { self.window.load }
    }
}

impl Window {
    /// Begins another window if this one is over.
    fn roll(&mut self, now: u64) {
        let passed = now.saturating_sub(self.start);
        if u128::from(passed) < WINDOW.as_nanos() {
            return;
        }
        let load = u128::from(self.used) * 1000 / u128::from(passed);
        *self = Self { start: now, used: 0, load: u64::try_from(load).unwrap_or(u64::MAX) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;

    fn processors(number: f64) -> Option<Processors> {
        Some(number.try_into().unwrap())
    }

    fn account(share: f64) -> Account {
        let mut account = Account::default();
        account.set(processors(share), SECOND);
        account
    }

    #[test]
    fn guests_get_their_share_and_no_more() {
        for share in [0.001, 0.25, 1.0, 1.5, 64.0] {
            let mut account = account(share);
            // Requests of 2 ms, one after the other on as many processors as are needed.
            let (mut now, mut used) = (SECOND, 0);
            while now < 101 * SECOND {
                match account.begin(now) {
                    Ok(()) => {
                        account.charge(Duration::from_millis(2), now);
                        account.end();
                        used += 2 * MS;
                    }
                    Err(wait) => now += u64::try_from(wait.as_nanos()).unwrap(),
                }
            }
            let allowed = share * 100e9 + (share * 100e6).max(10e6);
            let used = used as f64;
            assert!(used >= share * 100e9 && used <= allowed + 4e6, "{share}: {used} of {allowed}");
        }
    }

    #[test]
    fn what_is_refilled_in_small_steps_adds_up() {
        let mut account = account(0.001);
        account.charge(Duration::from_millis(10), SECOND);
        assert!(account.begin(SECOND).is_err());
        for step in 1..=1000 {
            // 7 ns at a time are less than a hundredth of a nanosecond.
            account.refill(SECOND + step * 7);
        }
        assert_eq!(account.balance, 7000);
    }

    #[test]
    fn debts_are_paid_before_others_begin() {
        let mut account = account(0.5);
        assert_eq!(account.begin(SECOND), Ok(()));
        account.charge(Duration::from_secs(2), SECOND);
        account.end();
        // 50 ms were left.
        let wait = account.begin(SECOND).unwrap_err();
        assert_eq!(wait.as_millis(), 3900);
        assert!(account.begin(SECOND + 3899 * MS).is_err());
        assert_eq!(account.begin(SECOND + 3901 * MS), Ok(()));
        account.charge(Duration::from_secs(100_000), 5 * SECOND);
        assert_eq!(account.balance, -fine(MOST_DEBT), "and they have a bound");
    }

    #[test]
    fn requests_that_come_at_once_do_not_all_begin() {
        let mut account = account(0.2);
        let begun = (0..1000).filter(|_| account.begin(SECOND).is_ok()).count();
        assert_eq!(begun, 20, "as many as have deposits");
        account.end();
        assert_eq!(account.begin(SECOND), Ok(()), "one has ended");
        let wait = account.begin(SECOND).unwrap_err();
        assert!(wait <= Duration::from_micros(1), "{wait:?}");
    }

    #[test]
    fn share_can_change_at_any_time() {
        let mut account = account(0.1);
        account.charge(Duration::from_millis(110), SECOND);
        assert_eq!(account.begin(SECOND).unwrap_err().as_millis(), 1000);
        account.set(processors(1.0), SECOND);
        assert_eq!(account.begin(SECOND).unwrap_err().as_millis(), 100);
        account.set(None, SECOND);
        assert_eq!(account.begin(SECOND), Ok(()), "without a limit");
        account.set(processors(0.1), SECOND);
        assert_eq!(account.begin(SECOND), Ok(()), "debts are forgotten with the limit");
        account.set(processors(10.0), SECOND);
        assert_eq!(account.balance, fine(LEAST_BURST), "changes give nothing");
    }

    #[test]
    fn clock_that_stands_still_or_goes_back_changes_nothing() {
        let mut account = account(1.0);
        account.charge(Duration::from_millis(200), SECOND);
        let balance = account.balance;
        for now in [SECOND, 0, SECOND - 1] {
            account.refill(now);
            assert_eq!(account.balance, balance);
        }
    }

    #[test]
    fn load_is_that_of_the_last_second() {
        let mut account = account(2.0);
        for tenth in 0..20 {
            account.charge(Duration::from_millis(30), SECOND + tenth * SECOND / 10);
        }
        assert_eq!(account.load(3 * SECOND), 300);
        assert_eq!(account.load(4 * SECOND), 0);
        account.set(None, 4 * SECOND);
        assert_eq!(account.load(5 * SECOND), 0);
    }
}
