//! Beginning disks in use anew, also made of something else, while their clients stay connected.

use std::sync::Arc;

use memnbd::device::snapshot;
use memnbd::exports::Export;
use tokio::time::timeout;

use super::api::Api;
use super::catalog::Entry;
use super::discard::discard;
use super::model::DiskSpec;
use super::problem::Problem;
use super::snapshots::PATIENCE;
use crate::events::{Happening, TOLD};
use crate::making::{Made, Rights};

impl Api {
    /// Points a disk, between two requests of each of its clients, at one that is made of this and has the
    /// same size. What was written to it is gone. Nothing else changes the disks meanwhile.
    pub(super) async fn remake(&self, name: &str, after: DiskSpec) -> Result<Arc<Export>, Problem> {
        let (export, present, entry) = self.opened(name).await?;
        let policy = self.differences(&export, name, &entry, &after)?.policy;
        let not_replaced = |reason: &dyn std::fmt::Display| {
            Problem::conflict(format!("the disk {name:?} was not replaced: {reason}"))
        };
        // The export that it is made for is not the one that clients have.
        let Made { chain, .. } = self.make(name, &after, Rights::Grants).await?;
        let opening = timeout(PATIENCE, chain.open()).await;
        let opened =
            opening.map_err(|_| not_replaced(&format!("it took longer than {PATIENCE:?}")))?;
        let next = opened.map_err(|error| not_replaced(&error))?;
        let replaced =
            export.replace(next, PATIENCE).await.map_err(|error| not_replaced(&error))?;
        drop(present);
        // Files may have what was written. What fails here is in the log.
        let _ = timeout(PATIENCE, snapshot::flush(&replaced)).await;
        discard(replaced);
        if let Some(policy) = policy {
            export.set_policy(policy);
        }
        self.record(&export, Entry { spec: after, chain, ..entry });
        self.events.tell(Some(name.to_owned()), Happening::DiskUpdated);
        tracing::info!(target: TOLD, "disk {name:?}: begun anew");
        Ok(export)
    }
}
