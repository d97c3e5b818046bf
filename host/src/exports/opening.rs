//! Opening the disk of an export when it is first needed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attempt::Attempt;
use super::phase::{Phase, Status};
use super::{Export, Failed, Problem, Stage};
use crate::device::Device;

impl Export {
    /// Returns the disk, and opens it if it is not open yet. Concurrent callers wait for the same
    /// attempt.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk cannot be opened. If a retry can help, the first caller after a
    /// pause makes it.
    pub async fn disk(self: &Arc<Self>) -> Result<Arc<dyn Device>, Failed> {
        // Before the state is read: see `close_unchanged`.
        self.with_disk().handed_out.store(true, Ordering::Relaxed);
        self.disk_for_clients().await
    }

    /// Returns the disk like [`Self::disk`], for a connection: it executes nothing before it has a port, or
    /// nothing at all.
    pub(crate) async fn disk_for_clients(self: &Arc<Self>) -> Result<Arc<dyn Device>, Failed> {
        let export = self.main().unwrap_or(self);
        loop {
            if !self.has_name() {
                return Err(Failed { problem: Arc::new(Problem::Removed), backoff: None });
            }
            if let Some(attempt) = export.attempt() {
                // The caller may be cancelled while the component is at work; the attempt must not
                // be.
                tokio::spawn(attempt.open_and_log());
            }
            match export.settled().await {
                Phase::Open(disk) => return Ok(disk),
                Phase::Failed(failed) => return Err(failed),
                Phase::Draining(_) | Phase::Gone => {
                    return Err(Failed { problem: Arc::new(Problem::Removed), backoff: None });
                }
                // Another caller opened the disk and closed it again.
                Phase::Closed | Phase::Busy(_) => {}
            }
        }
    }

    /// Opens the disk at server startup. From this call on, callers of [`Self::disk`] wait for the
    /// attempt. Unless `keep` is true, the disk is then closed again, so that it takes no memory
    /// until it is needed.
    ///
    /// The future must not be dropped before it completes. Failures are not logged.
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions as [`Self::disk`].
    pub fn start(
        self: &Arc<Self>,
        keep: bool,
    ) -> impl Future<Output = Result<(), Failed>> + Send + use<> {
        let export = self.main().unwrap_or(self).clone();
        let attempt = export.attempt();
        async move {
            match attempt {
                Some(attempt) => attempt.open(keep).await,
                None => export.disk_for_clients().await.map(drop),
            }
        }
    }

    /// Waits until the export is open, closed or failed, or its component is being compiled, which
    /// takes long.
    pub async fn settled_or_compiling(&self) {
        let wanted = |status: &Status| {
            let stage = status.stage();
            stage.is_none() || stage == Some(Stage::Compiling)
        };
        // This cannot fail, because the export owns the sender.
        let _ = self.with_disk().status.subscribe().wait_for(wanted).await;
    }

    /// Returns true if the disk is open.
    pub(super) fn is_open(&self) -> bool {
        self.opened().is_some()
    }

    /// Returns true if the last attempt to open the disk failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.with_disk().status.borrow().phase, Phase::Failed(_))
    }

    pub(super) async fn settled(&self) -> Phase {
        let mut changes = self.status.subscribe();
        match changes.wait_for(|status| status.stage().is_none()).await {
            Ok(status) => status.phase.clone(),
            // This cannot fail, because `self` owns the sender.
            Err(_) => Phase::Closed,
        }
    }

    /// Begins an attempt to open the disk, which the caller must carry out. Returns `None` if none
    /// is needed or allowed now.
    fn attempt(self: &Arc<Self>) -> Option<Attempt> {
        let mut before = None;
        let taken = self.status.send_if_modified(|status| {
            match &status.phase {
                Phase::Busy(_) | Phase::Open(_) | Phase::Draining(_) | Phase::Gone => return false,
                Phase::Failed(failed) if !failed.is_due() => return false,
                Phase::Failed(failed) => before = Some(failed.clone()),
                Phase::Closed => {}
            }
            let stage = if status.config.is_some() { Stage::Opening } else { Stage::Loading };
            status.phase = Phase::Busy(stage);
            true
        });
        taken.then(|| Attempt { export: self.clone(), before, ended: false })
    }

    pub(super) fn opened(&self) -> Option<Arc<dyn Device>> {
        if !self.has_name() {
            return None;
        }
        match &self.with_disk().status.borrow().phase {
            Phase::Open(disk) => Some(disk.clone()),
            _ => None,
        }
    }
}
