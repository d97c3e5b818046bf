//! A single limit, by the crate governor, and the turns of those who wait for it.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Semaphore, watch};

/// The least that may be caught up on after a pause. Timers are not precise enough for less.
const LEAST_BURST: Duration = Duration::from_millis(10);

/// The longest, which bounds numbers and not much else.
const MOST_BURST: Duration = Duration::from_secs(3600);

/// How much is paid in one turn: what the limit allows in this time.
const TURN: Duration = Duration::from_millis(100);

/// The shortest interval between two units, in nanoseconds. Intervals are whole nanoseconds, so the error
/// of a rate is below 1 %.
const LEAST_INTERVAL: u128 = 64;

/// Rates beyond this are no limits.
const MOST: u64 = 1 << 44;

const SECOND: u128 = 1_000_000_000;

/// A limit that can be changed while it is waited for.
pub(super) struct Bucket {
    meter: watch::Sender<Option<Arc<Meter>>>,
    /// Whoever waits for the limit holds the permit; the others are in its queue.
    turn: Semaphore,
}

/// How much passes in which time. What passes is counted in units, which are small for low rates.
struct Meter {
    rate: NonZeroU64,
    burst: Duration,
    limiter: RateLimiter<NotKeyed, InMemoryState, MonotonicClock>,
    /// A unit is 2 to the power of this.
    unit: u32,
    /// The units that can be caught up on.
    burst_units: NonZeroU32,
    /// The most units that are paid in one turn.
    turn: NonZeroU32,
}

impl Default for Bucket {
    /// Without a limit.
    fn default() -> Self {
        Self { meter: watch::Sender::new(None), turn: Semaphore::new(1) }
    }
}

impl Bucket {
    /// Sets the limit, per second. Where there was another one, nothing can be caught up on at first, so
    /// that frequent changes allow no more than the limits.
    pub(super) fn set(&self, rate: Option<NonZeroU64>, burst: Duration) {
        let rate = rate.filter(|rate| rate.get() < MOST);
        self.meter.send_if_modified(|meter| {
            let is_same = match (&*meter, rate) {
                (None, None) => true,
                (Some(meter), Some(rate)) => meter.rate == rate && meter.burst == burst,
                _ => false,
            };
            if is_same {
                return false;
            }
            let next = rate.map(|rate| Arc::new(Meter::new(rate, burst)));
            if let (Some(_), Some(next)) = (&*meter, &next) {
                next.empty();
            }
            *meter = next;
            true
        });
    }

    /// Takes an amount if the limit allows it and nobody waits.
    pub(super) fn try_take(&self, amount: u64) -> bool {
        if amount == 0 {
            return true;
        }
        let meter = self.meter.borrow();
        let Some(meter) = &*meter else { return true };
        let Ok(_turn) = self.turn.try_acquire() else { return false };
        match u32::try_from(meter.units(amount)).ok().and_then(NonZeroU32::new) {
            Some(units) => matches!(meter.limiter.check_n(units), Ok(Ok(()))),
            None => false,
        }
    }

    /// Takes an amount, once the limit allows it.
    pub(super) async fn take(&self, amount: u64) {
        let mut changes = self.meter.subscribe();
        // The part that was paid.
        let mut paid = 0;
        while paid < amount {
            let _turn = self.turn.acquire().await.expect("it is never closed");
            loop {
                let Some(meter) = changes.borrow_and_update().clone() else { return };
                let units = meter.units(amount - paid).min(meter.turn.get().into());
                let units = NonZeroU32::new(units as u32).unwrap_or(NonZeroU32::MIN);
                // A turn is never more than a burst.
                let Ok(Err(not_until)) = meter.limiter.check_n(units) else {
                    paid = paid.saturating_add(u64::from(units.get()) << meter.unit);
                    break;
                };
                let wait = not_until.wait_time_from(meter.limiter.clock().now());
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    // It does not fail: the sender is here.
                    _ = changes.changed() => {}
                }
            }
        }
    }
}

impl Meter {
    fn new(rate: NonZeroU64, burst: Duration) -> Self {
        let per_second = u128::from(rate.get());
        let mut unit = 0;
        while (SECOND << unit) / per_second < LEAST_INTERVAL {
            unit += 1;
        }
        let interval = ((SECOND << unit) + per_second / 2) / per_second;
        let units_in = |time: Duration| {
            let units = u32::try_from(time.as_nanos() / interval).unwrap_or(u32::MAX);
            NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN)
        };
        let burst_units = units_in(burst.clamp(LEAST_BURST, MOST_BURST));
        let interval = Duration::from_nanos(u64::try_from(interval).unwrap_or(u64::MAX));
        let quota = Quota::with_period(interval).expect("the interval is not 0");
        let quota = quota.allow_burst(burst_units);
        Self {
            rate,
            burst,
            limiter: RateLimiter::direct_with_clock(quota, MonotonicClock),
            unit,
            burst_units,
            turn: units_in(TURN).min(burst_units),
        }
    }

    /// Returns the units for an amount, at least one.
    fn units(&self, amount: u64) -> u64 {
        amount.div_ceil(1 << self.unit)
    }

    /// Takes all that could be caught up on.
    fn empty(&self) {
        // A burst is never too large.
        let _ = self.limiter.check_n(self.burst_units);
    }
}
