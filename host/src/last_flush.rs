//! Flushing all exports before the process stops, within a time limit.
//!
//! The module does not know how a disk is flushed.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::exports::Export;

/// The exports whose last flush failed or did not finish in time. Their latest writes may be lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Unflushed(pub Vec<String>);

impl fmt::Display for Unflushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not flushed, data may be lost: {:?}", self.0)
    }
}

impl std::error::Error for Unflushed {}

/// The minimum time limit: flushes this short are waited for in any case.
const MOMENT: Duration = Duration::from_millis(100);

/// Flushes all exports concurrently, for at most `limit` or `MOMENT`, whichever is longer.
///
/// # Errors
///
/// Returns the names of the exports that were not flushed. Each is logged as well.
pub(crate) async fn flush(exports: Vec<Arc<Export>>, limit: Duration) -> Result<(), Unflushed> {
    let mut flushes = JoinSet::new();
    let mut pending = BTreeSet::new();
    for export in exports.into_iter().filter(|export| export.needs_last_flush()) {
        pending.insert(export.name().to_owned());
        flushes.spawn(async move { (export.name().to_owned(), export.finish().await) });
    }
    if pending.is_empty() {
        return Ok(());
    }
    let mut failed = Vec::new();
    let limit = limit.max(MOMENT);
    let mut expired = pin!(after(limit));
    loop {
        tokio::select! {
            biased;
            flushed = flushes.join_next() => match flushed {
                None => break,
                Some(Ok((name, result))) => {
                    pending.remove(&name);
                    if result.is_err() {
                        failed.push(name);
                    }
                }
                // The flush panicked, so its export remains pending.
                Some(Err(_)) => {}
            },
            () = &mut expired => break,
        }
    }
    // A guest may still be in the middle of its flush; it ends with the process.
    flushes.detach_all();
    for name in pending {
        tracing::error!(
            "export {name:?}: not flushed within {limit:?} (--shutdown-timeout); \
             what was written last may be lost"
        );
        failed.push(name);
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Unflushed(failed)),
    }
}

/// Completes after `limit`, even if guests occupy all threads of the runtime, which drive its
/// timers.
pub(crate) async fn after(limit: Duration) {
    let (sender, receiver) = oneshot::channel();
    // Dropping this future ends the thread.
    let (_dropped, ends) = mpsc::channel::<()>();
    let sleep = move || {
        if ends.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // The future may have just been dropped.
            let _ = sender.send(());
        }
    };
    match thread::Builder::new().name("timer".into()).spawn(sleep) {
        Ok(_) => _ = receiver.await,
        Err(_) => tokio::time::sleep(limit).await,
    }
}
