//! Closing disks, and exports of snapshots, that nobody uses and that hold nothing, where there are many.

use std::sync::Arc;
use std::time::Duration;

use memnbd::exports::{Export, State};

use super::api::Api;
use super::discard::discard;
use super::heap::count_closed;
use super::model::DiskSpec;

/// How many disks may be open before some are closed.
const MAX_OPEN: usize = 500;

/// The time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Closes disks from time to time that have the same content whenever they are opened, as long as more than
/// [`MAX_OPEN`] are open.
pub(super) async fn close_idle(api: Arc<Api>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        if api.server.export_count() <= MAX_OPEN {
            continue;
        }
        let exports = api.server.exports();
        let disks = exports.iter().filter(|export| export.main().is_none());
        let open = disks.filter(|export| matches!(export.state(), State::Live));
        let open: Vec<_> = open.collect();
        let mut excess = open.len().saturating_sub(MAX_OPEN);
        for export in open.into_iter().filter(|export| export.may_be_closed()) {
            if excess == 0 {
                break;
            }
            excess -= usize::from(api.close(export).await);
        }
    }
}

impl Api {
    /// Closes an export if it has the same content whenever it is opened. Returns true if it was closed.
    async fn close(&self, export: &Export) -> bool {
        let _alone = self.changing.lock().await;
        let name = self.server.local_name(export);
        let chain = {
            let catalog = self.catalog();
            let entry = catalog.disk(name).filter(|entry| begins_the_same(&entry.spec));
            entry.map(|entry| entry.chain.clone())
        };
        if chain.is_none() && !self.offers.is_of_snapshot(name) {
            return false;
        }
        let Some(device) = export.close_unchanged().await else { return false };
        if let Some(chain) = chain {
            chain.volume().close(&device);
        }
        discard(device);
        count_closed();
        true
    }
}

/// Returns true if a disk has the same content, and the same state in all other respects, whenever it is
/// opened anew.
fn begins_the_same(spec: &DiskSpec) -> bool {
    let component = spec.component.as_deref();
    spec.filters.is_empty() && (spec.snapshot.is_some() || component == Some("memory"))
}
