//! The time limit on what a routed request asks of lower devices.
//!
//! A routed request holds locks, which others wait for, so it must end even if a lower device does not
//! answer. Requests on stable routes hold none and have no limit: a withdrawal waits for them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::SemaphorePermit;

use super::StackedDevice;
use crate::block::{Error, ErrorCode};
use crate::component::LOWER_LIMIT;
use crate::device::{Order, Outcome, lower};

/// The lower devices that did not answer a request in time. The request asks nothing more of them, or
/// else it could take the time limit once for each of its parts.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<Vec<usize>>);

impl Late {
    fn contains(&self, device: usize) -> bool {
        self.devices().contains(&device)
    }

    /// Adds a device. Returns false if it is there already.
    fn add(&self, device: usize) -> bool {
        let mut devices = self.devices();
        let new = !devices.contains(&device);
        if new {
            devices.push(device);
        }
        new
    }

    fn devices(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StackedDevice {
    /// Waits until fewer pieces of copies are under way than [`MAX_COPYING`](super::MAX_COPYING), for at
    /// most [`LOWER_LIMIT`]: those pieces may wait for a lower device that does not answer.
    pub(super) async fn turn_to_copy(&self) -> Result<SemaphorePermit<'_>, Error> {
        if let Ok(permit) = self.copying.try_acquire() {
            return Ok(permit);
        }
        match tokio::time::timeout(LOWER_LIMIT, self.copying.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Error {
                code: ErrorCode::Io,
                message: Some(format!("other copies took longer than {LOWER_LIMIT:?}").into()),
            }),
        }
    }

    /// Executes a part of a routed request on a lower device, for at most [`LOWER_LIMIT`]. After that the
    /// part has failed with EIO and its order is cancelled; the lower device may finish it later.
    pub(super) async fn execute_below(&self, device: usize, order: Order, late: &Late) -> Outcome {
        if late.contains(device) {
            return Err(no_answer(device));
        }
        let cancelled = order.cancelled.child();
        let command = order.command;
        let order = Order { cancelled: cancelled.clone(), ..order };
        let mut executed = pin!(lower::execute(self.lowers().device(device).clone(), order));
        // Most answer at once, and need no timer.
        let now = poll_fn(|cx| Poll::Ready(executed.as_mut().poll(cx))).await;
        if let Poll::Ready(outcome) = now {
            return outcome;
        }
        if let Ok(outcome) = tokio::time::timeout(LOWER_LIMIT, executed).await {
            return outcome;
        }
        cancelled.cancel();
        if late.add(device) {
            let span = command.span();
            let parameter = self.parameters.get(device).map(|name| format!(" ({name})"));
            tracing::warn!(
                "export {:?}: the lower device {device}{} did not answer {}({}, {}) within \
                 {LOWER_LIMIT:?}; the request fails with EIO",
                self.guest.export_name(),
                parameter.unwrap_or_default(),
                command.operation().name(),
                span.offset,
                span.length,
            );
        }
        Err(no_answer(device))
    }
}

fn no_answer(device: usize) -> Error {
    let message = format!("the lower device {device} did not answer within {LOWER_LIMIT:?}");
    Error { code: ErrorCode::Io, message: Some(message.into()) }
}
