//! Closing the disk of an export: for a while, because nobody needs it, or for good.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::observer::Change;
use super::phase::{Phase, Status};
use super::{Export, State};
use crate::block::{ErrorCode, Operation};
use crate::device::Device;

impl Export {
    /// Closes the disk, which takes no memory then until it is needed again. Returns its device, or `None` if
    /// it was not closed: because it is in use or was written to, because its device was replaced or given
    /// to a caller of [`Self::disk`], or because it is not open or cannot be opened again. The caller knows
    /// that the disk has the same content whenever it is opened.
    pub async fn close_unchanged(&self) -> Option<Arc<dyn Device>> {
        if !self.may_be_closed() {
            return None;
        }
        let _replacing = self.ports.replacing().await;
        let mut closed = None;
        self.ports.while_unused(|| {
            if self.is_stood_on() || !self.begins_the_same() {
                return;
            }
            self.status.send_if_modified(|status| {
                let Phase::Open(device) = &status.phase else { return false };
                // Whoever gets the device later than this finds it closed.
                if self.handed_out.load(Ordering::Relaxed) {
                    return false;
                }
                closed = Some(device.clone());
                status.phase = Phase::Closed;
                true
            });
        });
        if closed.is_some() {
            self.tell(Change::State(State::Closed));
        }
        closed
    }

    /// Returns false if [`Self::close_unchanged`] would not close the disk, as far as that can be told at a
    /// glance.
    pub fn may_be_closed(&self) -> bool {
        self.is_idle() && self.begins_the_same()
    }

    /// Returns true if the disk can be opened again, and neither it nor its device was changed.
    fn begins_the_same(&self) -> bool {
        let again = || self.source.is_some() || self.status.borrow().config.is_some();
        let was_written_to = || {
            let totals = self.account.totals();
            let changes = [Operation::Write, Operation::Zero, Operation::Trim];
            changes.into_iter().any(|operation| totals.of(operation).requests > 0)
        };
        self.other_name.is_none()
            && !self.private
            && self.generation() == 0
            && !self.handed_out.load(Ordering::Relaxed)
            && again()
            && !was_written_to()
    }

    /// Closes the export for good: it has no more clients after this, and lets go of its device, which
    /// is flushed. Requests under way have until `limit` to finish; then their connections are closed.
    ///
    /// The future must not be dropped before it completes.
    ///
    /// # Errors
    ///
    /// Returns an error if the device fails to flush; this is logged.
    pub(super) async fn close(&self, limit: Duration) -> Result<(), ErrorCode> {
        if let Some(other) = &self.other_name {
            self.close_name(other, limit).await;
            return Ok(());
        }
        // In turn with those who replace the device.
        let replacing = self.ports.replacing().await;
        let device = loop {
            let mut device = None;
            let ended = self.status.send_if_modified(|status| {
                let next = match &status.phase {
                    Phase::Busy(_) => return false,
                    Phase::Open(open) => {
                        device = Some(open.clone());
                        Phase::Draining(open.clone())
                    }
                    Phase::Closed | Phase::Failed(_) | Phase::Draining(_) | Phase::Gone => {
                        status.config = None;
                        Phase::Gone
                    }
                };
                status.phase = next;
                true
            });
            if ended {
                break device;
            }
            self.settled().await;
        };
        // Private disks have clients even if this one was never opened.
        replacing.end(limit).await;
        let Some(device) = device else { return Ok(()) };
        let flushed = device.last_flush().await.map(drop).map_err(|error| error.code);
        self.status.send_modify(|status| {
            // With the configuration goes its share of the memory.
            *status = Status { config: None, phase: Phase::Gone };
        });
        flushed
    }

    /// Returns false once the export is being removed.
    pub(super) fn may_be_used(&self) -> bool {
        let is_ended = |export: &Self| {
            matches!(export.status.borrow().phase, Phase::Draining(_) | Phase::Gone)
        };
        !is_ended(self) && self.main().is_none_or(|main| !is_ended(main))
    }

    /// Flushes the disk of an export that is about to be forgotten. The device logs a failure.
    pub(super) async fn flush_idle(&self) {
        if let Some(device) = self.opened().filter(|device| device.needs_last_flush()) {
            let _ = device.last_flush().await;
        }
    }

    /// Returns true if [`Self::finish`] has anything to do.
    pub fn needs_last_flush(&self) -> bool {
        self.held().is_some_and(|disk| disk.needs_last_flush())
    }

    /// Flushes the disk, if it is open, before the process stops.
    ///
    /// # Errors
    ///
    /// Returns an error if the component fails to flush; this is logged.
    pub async fn finish(&self) -> Result<(), ErrorCode> {
        match self.held() {
            Some(disk) => disk.last_flush().await.map(drop).map_err(|error| error.code),
            None => Ok(()),
        }
    }

    /// Returns the device even if the export is being removed.
    fn held(&self) -> Option<Arc<dyn Device>> {
        match &self.status.borrow().phase {
            Phase::Open(disk) | Phase::Draining(disk) => Some(disk.clone()),
            _ => None,
        }
    }
}
