//! Telling tenants that they come near their quotas, before those refuse anything.

use std::sync::Weak;
use std::time::Duration;

use super::Tenant;
use crate::events::Happening;

/// The time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells a tenant once whenever it has more than four fifths of what it may have, and again after it had
/// less than three quarters. Ends with the tenant.
pub(super) async fn watch(tenant: Weak<Tenant>) {
    let mut told = [false; 5];
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(tenant) = tenant.upgrade() else { return };
        let Some(levels) = tenant.levels() else { return };
        for ((quota, used, most), told) in levels.into_iter().zip(&mut told) {
            match near(used, most, *told) {
                true if !*told => {
                    *told = true;
                    tenant.api.events.tell(None, Happening::QuotaNear { quota, used, most });
                }
                is_near => *told = is_near,
            }
        }
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
    fn near_is_above_four_fifths_until_below_three_quarters() {
        assert!(!near(80, 100, false) && near(81, 100, false));
        assert!(near(75, 100, true) && !near(74, 100, true));
        assert!(!near(0, 0, false) && !near(0, 0, true) && near(1, 0, false));
        assert!(near(u64::MAX, u64::MAX, false));
    }
}
