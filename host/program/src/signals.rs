//! Signal handling.
//!
//! The companion thread handles signals, and does nothing else from then on: they must be able to end
//! the process whatever the other threads are doing. SIGPIPE is ignored, as in every Rust program, so
//! writing to a peer that is gone is an ordinary error, and so is SIGXFSZ, for a file that may not grow.

use std::ffi::c_int;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::low_level;
use tokio::sync::{Notify, oneshot};

use super::bounded;
use super::companion::Companion;
use super::leftovers::Leftovers;
use super::log::Log;

/// How long a log that nobody reads, or a file system that hangs, may delay an immediate exit.
const EXIT_LIMIT: Duration = Duration::from_millis(200);

/// A handle to the thread that handles signals until the process exits.
pub(super) struct Signals {
    serving: Arc<AtomicBool>,
    stop: oneshot::Receiver<()>,
    reload: Arc<Notify>,
    leftovers: Leftovers,
}

/// What SIGHUP does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// Reopens the log.
    Reopen,
    /// Reopens the log, and reads the configuration file again.
    Reload,
    /// Stops the server, as SIGTERM does.
    Stop,
}

/// Starts to handle signals. SIGINT, SIGTERM and SIGQUIT end the process
/// immediately, until [`Signals::serving`] is called.
pub(super) fn handle(log: &Log, companion: Companion, hangup: Hangup) -> io::Result<Signals> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGXFSZ])?;
    let (sender, stop) = oneshot::channel();
    let serving = Arc::new(AtomicBool::new(false));
    let leftovers = Leftovers::default();
    let reload = Arc::new(Notify::new());
    let handler = Handler {
        log: log.clone(),
        hangup,
        serving: serving.clone(),
        stop: Some(sender),
        reload: reload.clone(),
        leftovers: leftovers.clone(),
    };
    companion.run(move || handler.run(&mut signals))?;
    Ok(Signals { serving, stop, reload, leftovers })
}

impl Signals {
    /// The files that are removed when a signal ends the process immediately.
    pub(super) fn leftovers(&self) -> &Leftovers {
        &self.leftovers
    }

    /// Notified when the configuration file is to be read again. Signals that come meanwhile count as one.
    pub(super) fn reload(&self) -> &Arc<Notify> {
        &self.reload
    }

    /// Enables graceful shutdown. The returned future completes on the first SIGINT, SIGTERM or
    /// SIGQUIT; a second one ends the process immediately.
    pub(super) fn serving(self) -> impl Future<Output = ()> {
        self.serving.store(true, Ordering::Relaxed);
        async move {
            if self.stop.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The state of the thread.
struct Handler {
    log: Log,
    hangup: Hangup,
    serving: Arc<AtomicBool>,
    /// `None` after the first signal.
    stop: Option<oneshot::Sender<()>>,
    reload: Arc<Notify>,
    leftovers: Leftovers,
}

impl Handler {
    fn run(mut self, signals: &mut signal_hook::iterator::Signals) {
        for signal in signals.forever() {
            match signal {
                SIGHUP if self.hangup == Hangup::Reopen => self.log.reopen(),
                SIGHUP if self.hangup == Hangup::Reload => {
                    self.log.reopen();
                    self.reload.notify_one();
                }
                // Whoever wrote gets EFBIG.
                SIGXFSZ => {}
                signal => self.end(signal),
            }
        }
    }

    fn end(&mut self, signal: c_int) {
        let serving = self.serving.load(Ordering::Relaxed);
        if serving && let Some(stop) = self.stop.take() {
            // The server may be stopping already, for another reason.
            let _ = stop.send(());
            return;
        }
        if serving {
            let name = low_level::signal_name(signal).unwrap_or("a signal");
            tracing::warn!("{name}, again: exiting at once, without waiting for the last flush");
        }
        let leftovers = self.leftovers.clone();
        bounded::within(EXIT_LIMIT, move || leftovers.remove());
        self.log.flush(EXIT_LIMIT);
        // This skips the exit handlers, because other threads keep running until the process is
        // gone.
        low_level::exit(128 + signal);
    }
}
