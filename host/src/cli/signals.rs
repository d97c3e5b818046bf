//! The signals that the server understands.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

use super::log::Log;

/// Handles signals from now on. What comes are the first SIGINT, SIGTERM or SIGQUIT, and the second.
/// SIGHUP opens the log again. SIGPIPE is ignored by every Rust program: writing to who is gone is
/// an error.
pub(super) fn handle(log: Log) -> io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            log.reopen();
        }
    });
    let (first, stop) = tokio::sync::oneshot::channel();
    let (second, stop_now) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        for told in [first, second] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = quit.recv() => {}
            }
            // The server may be past waiting for it.
            let _ = told.send(());
        }
    });
    let wait = |receiver: tokio::sync::oneshot::Receiver<()>| async move {
        if receiver.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Ok((wait(stop), wait(stop_now)))
}
