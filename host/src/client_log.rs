//! Warnings about clients, throttled for the whole process, so that clients cannot fill the log.
//!
//! The module does not know what clients do.

use std::fmt::Display;
use std::time::Duration;

use crate::throttle::{Limit, Throttle, Verdict};

static THROTTLE: Throttle = Throttle::new(
    Limit { burst: 20, per_second: 5 },
    Limit { burst: 16 << 10, per_second: 4 << 10 },
);

/// The delay from the first suppressed warning to the report of their number, unless another
/// warning is admitted earlier.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// Logs a warning about a client and its connection, or only counts it if there are too many.
pub(crate) fn warn(connection: Option<u64>, warning: impl Display) {
    let line = warning.to_string();
    match THROTTLE.admit(line.len()) {
        Verdict::Admitted { refused } => {
            report(refused);
            tracing::warn!(connection, "{line}");
        }
        Verdict::Refused { refused: 1 } => {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async {
                    tokio::time::sleep(REPORT_AFTER).await;
                    report_suppressed();
                });
            }
        }
        Verdict::Refused { .. } => {}
    }
}

/// Logs the number of warnings suppressed since the last report, if there were any.
pub(crate) fn report_suppressed() {
    report(THROTTLE.take_refused());
}

fn report(suppressed: u64) {
    if suppressed > 0 {
        tracing::warn!("({suppressed} more warnings about clients were not logged)");
    }
}
