//! Telling tenants that they come near their quotas, before those refuse anything.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::Tenant;
use super::levels::{LEVELS, Level};
use crate::events::Happening;

/// The time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a tenant is told at most of what comes and goes with its requests.
const QUIET: Duration = Duration::from_secs(60);

/// Tells a tenant once whenever it has more than four fifths of what it may have, and again after it had
/// less than three quarters. Ends with the tenant.
pub(super) async fn watch(tenant: Weak<Tenant>) {
    let mut told = [Told::default(); LEVELS];
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(tenant) = tenant.upgrade() else { return };
        let Some(levels) = tenant.levels() else { return };
        for (level, told) in levels.into_iter().zip(&mut told) {
            if told.is_due(&level, Instant::now()) {
                let Level { quota, used, most, .. } = level;
                let most = most.unwrap_or(u64::MAX);
                tenant.api.events.tell(None, Happening::QuotaNear { quota, used, most });
            }
        }
    }
}

/// What a tenant was told of a quota.
#[derive(Clone, Copy, Default)]
struct Told {
    /// It is near, and was told so.
    near: bool,
    last: Option<Instant>,
}

impl Told {
    /// Returns true if the tenant is to be told now.
    fn is_due(&mut self, level: &Level, now: Instant) -> bool {
        let is_near = near(level.used, level.most.unwrap_or(u64::MAX), self.near);
        let is_quiet = self.last.is_some_and(|last| now.duration_since(last) < QUIET);
        if !is_near || self.near || level.comes_and_goes && is_quiet {
            self.near &= is_near;
            return false;
        }
        *self = Self { near: true, last: Some(now) };
        true
    }
}

/// Returns true if that is near the quota, for somebody who was near before or not.
fn near(used: u64, most: u64, before: bool) -> bool {
    let (used, most) = (u128::from(used), u128::from(most));
    match before {
        true => 4 * used >= 3 * most && used > 0,
        false => 5 * used > 4 * most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_told_once_a_minute() {
        let told_of = |comes_and_goes| {
            let mut told = Told::default();
            let begin = Instant::now();
            let due = |second: &u64| {
                let used = if second.is_multiple_of(2) { 90 } else { 10 };
                let level = Level { quota: "x", used, most: Some(100), comes_and_goes };
                told.is_due(&level, begin + Duration::from_secs(*second))
            };
            (0..121).filter(due).collect::<Vec<u64>>()
        };
        assert_eq!(told_of(true), [0, 60, 120]);
        assert_eq!(told_of(false), (0..121).step_by(2).collect::<Vec<u64>>());
    }

    #[test]
    fn near_is_above_four_fifths_until_below_three_quarters() {
        assert!(!near(80, 100, false) && near(81, 100, false));
        assert!(near(75, 100, true) && !near(74, 100, true));
        assert!(!near(0, 0, false) && !near(0, 0, true) && near(1, 0, false));
        assert!(near(u64::MAX, u64::MAX, false));
    }
}
