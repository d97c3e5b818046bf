//! A lower device that can be opened anew under the device that stands on it.
//!
//! All commands go through a gate. To open the device anew, the gate is closed, the commands under way
//! end, the device is flushed, and its successor is opened: two devices never work on one set of files
//! at the same time, unless an opening takes longer than its time limit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError, RwLock as SyncRwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, RwLock};
use tokio::time::timeout_at;

use super::guest::GuestTime;
use super::lower::{self, LowerError, LowerSource};
use super::{
    Answer, Buffers, Cancelled, Control, Device, Execution, Lower, Order, Outcome, execution,
};
use crate::block::{Command, Error, ErrorCode, Geometry};
use crate::component::{Client, LOWER_LIMIT};

/// How often a device can be opened anew in quick succession.
const BURST: u32 = 16;

/// The time after which it can be opened anew once more.
const PAUSE: Duration = Duration::from_secs(1);

/// A lower device that has no other users, and its successors. It keeps the geometry of the first one.
///
/// It gives no leases, so that nothing but its commands uses the device.
pub(super) struct Renewable {
    source: Arc<dyn LowerSource>,
    /// The only client of the device above.
    client: Option<Client>,
    export_name: String,
    geometry: Geometry,
    buffers: Buffers,
    present: SyncRwLock<Arc<dyn Device>>,
    /// Held for reading by commands under way, for writing while the device is opened anew.
    gate: RwLock<()>,
    /// Held while the device is opened anew, by an opening that is too late as well.
    opening: Arc<Mutex<()>>,
    rate: SyncMutex<Rate>,
    /// Something was written since the last flush.
    written: AtomicBool,
    /// What was written to a predecessor could not be flushed, and no flush has failed for that yet.
    lost: AtomicBool,
}

/// Limits how often the device is opened anew: a failure of each may be logged.
struct Rate {
    left: u32,
    /// When `left` grew last, or began to be less than [`BURST`].
    since: Instant,
}

impl Rate {
    fn new() -> Self {
        Self { left: BURST, since: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        let pauses = now.saturating_duration_since(self.since).as_secs() / PAUSE.as_secs();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        if self.left.saturating_add(pauses) >= BURST {
            *self = Self { left: BURST, since: now };
        } else {
            self.left += pauses;
            self.since += PAUSE * pauses;
        }
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        taken
    }
}

impl Renewable {
    /// Creates it from the device that was opened from a source.
    pub(super) fn new(
        source: Arc<dyn LowerSource>,
        client: Option<Client>,
        export_name: &str,
        first: Arc<dyn Device>,
    ) -> Arc<Self> {
        Arc::new(Self {
            source,
            client,
            export_name: export_name.to_owned(),
            geometry: first.geometry().clone(),
            buffers: first.buffers().clone(),
            present: SyncRwLock::new(first),
            gate: RwLock::new(()),
            opening: Arc::default(),
            rate: SyncMutex::new(Rate::new()),
            written: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        })
    }

    fn present(&self) -> Arc<dyn Device> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the device anew. The commands under way end before that, and others wait, for at most
    /// [`LOWER_LIMIT`]. It goes on if the future is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error, and keeps the present device, if it could not be opened in that time, if it
    /// does not have the same geometry, or if it is opened anew too often.
    pub(super) async fn reopen(self: Arc<Self>) -> Result<(), Error> {
        let guard = self.opening.clone().try_lock_owned();
        let guard = guard.map_err(|_| failed("it is being opened anew already".into()))?;
        if !self.may_begin() {
            return Err(failed(format!(
                "it was opened anew {BURST} times in quick succession; it can be once in {PAUSE:?}"
            )));
        }
        let renewing = tokio::spawn(self.renew(guard));
        renewing.await.unwrap_or_else(|_| Err(failed("the host panicked".into())))
    }

    fn may_begin(&self) -> bool {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    async fn renew(self: Arc<Self>, opening: OwnedMutexGuard<()>) -> Result<(), Error> {
        let limit = tokio::time::Instant::now() + LOWER_LIMIT;
        let busy = |_| failed(format!("its requests did not end within {LOWER_LIMIT:?}"));
        let _alone = timeout_at(limit, self.gate.write()).await.map_err(busy)?;
        let present = self.present();
        if self.written.load(Ordering::Relaxed) {
            // In a task, because an execution is driven to its end.
            let flushing = tokio::spawn(flush(present.clone()));
            let flushed = timeout_at(limit, flushing).await.map_err(busy)?;
            if !flushed.is_ok_and(|outcome| outcome.is_ok()) {
                self.lost.store(true, Ordering::Relaxed);
            }
            self.written.store(false, Ordering::Relaxed);
        }
        let renewable = self.clone();
        let opened = tokio::spawn(async move {
            let opened = renewable.source.open(renewable.client.as_ref()).await;
            drop(opening);
            opened
        });
        let late = |_| failed(format!("it could not be opened within {LOWER_LIMIT:?}"));
        let opened = timeout_at(limit, opened).await.map_err(late)?;
        let opened = opened.map_err(|_| failed("the host panicked".into()))?;
        let next = opened.map_err(|error: LowerError| failed(error.message))?;
        self.check(&present, &next)?;
        tracing::debug!("export {:?}: a lower device was opened anew", self.export_name);
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = next.device;
        // Freeing its memory can take a while.
        tokio::task::spawn_blocking(move || drop(present));
        Ok(())
    }

    /// Checks that a device can take the place of the present one.
    fn check(&self, present: &Arc<dyn Device>, next: &Lower) -> Result<(), Error> {
        if next.link.is_some() || Arc::ptr_eq(present, &next.device) {
            return Err(cannot_be_reopened());
        }
        match self.geometry.obstacle_to(next.device.geometry()) {
            Some(obstacle) => Err(failed(format!("what was opened {obstacle}"))),
            None => Ok(()),
        }
    }

    async fn execute_order(self: Arc<Self>, order: Order) -> Outcome {
        let _open = self.gate.read().await;
        let command = order.command;
        let order = Order { to_socket: false, ..order };
        match command {
            Command::Flush => {
                if self.lost.swap(false, Ordering::Relaxed) {
                    return Err(failed(
                        "the device was opened anew, and what was written before that could not be \
                         flushed"
                            .into(),
                    ));
                }
                let written = self.written.swap(false, Ordering::Relaxed);
                let outcome = lower::run(self.present(), order).await;
                if outcome.is_err() && written {
                    self.written.store(true, Ordering::Relaxed);
                }
                outcome
            }
            Command::Write { .. } | Command::Zero { .. } | Command::Trim { .. } => {
                let outcome = lower::run(self.present(), order).await;
                // Before the answer, which later flushes have to cover.
                self.written.fetch_or(outcome.is_ok(), Ordering::Relaxed);
                outcome
            }
            _ => lower::run(self.present(), order).await.map(Answer::into_copy),
        }
    }
}

/// Flushes a device that is to be replaced.
async fn flush(device: Arc<dyn Device>) -> Outcome {
    let order = Order::new(Command::Flush, Bytes::new(), Cancelled::default());
    let outcome = lower::execute(device.clone(), order).await;
    if outcome.is_err() && device.needs_last_flush() {
        // Its component may have failed, and what is beneath that is intact.
        let _ = device.last_flush().await;
    }
    outcome
}

fn failed(message: String) -> Error {
    Error { code: ErrorCode::Io, message: Some(message.into()) }
}

/// The error for a device that has other users, or is not opened by the host.
pub(super) fn cannot_be_reopened() -> Error {
    let message = "it is not this disk's alone, so it cannot be opened anew";
    Error { code: ErrorCode::NotSup, message: Some(message.into()) }
}

impl Device for Renewable {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn limited_time(&self, command: Command) -> Option<GuestTime> {
        self.present().limited_time(command)
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The execution can be polled on any thread: it sees to it that the one of the present device is
    /// polled where it has to be.
    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        execution(self.execute_order(order), place)
    }

    fn controls(self: Arc<Self>) -> Vec<Control> {
        self.present().controls()
    }

    fn depth(&self) -> usize {
        self.present().depth()
    }

    fn needs_last_flush(&self) -> bool {
        self.present().needs_last_flush()
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        let flushed = async move {
            let _open = self.gate.read().await;
            self.present().last_flush().await
        };
        execution(flushed, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_opened_anew_a_few_times_at_once_and_then_in_turn() {
        let begin = Instant::now();
        let mut rate = Rate::new();
        let mut taken = |after: u64| rate.take(begin + Duration::from_millis(after));
        assert!((0..BURST).all(|_| taken(0)));
        assert!(!taken(0) && !taken(900));
        assert!(taken(1900) && !taken(1900));
        assert!(taken(2100) && !taken(2900), "the pauses follow each other");
        // Not more than at the beginning after a long time.
        assert_eq!((0..2 * BURST).filter(|_| taken(1_000_000)).count(), BURST as usize);
    }
}
