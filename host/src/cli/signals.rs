//! The signals that the server understands.
//!
//! A thread of their own handles them: a signal must be able to end the process whatever the other
//! threads are doing. SIGPIPE is ignored by every Rust program: writing to who is gone is an error.

use std::ffi::c_int;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level;
use tokio::sync::oneshot;

use super::bounded;
use super::leftovers::Leftovers;
use super::log::Log;

/// How long an exit at once may be held up, by a log that nobody reads or a file system that hangs.
const EXIT_LIMIT: Duration = Duration::from_millis(200);

/// Handles signals until the process ends.
pub(super) struct Signals {
    serving: Arc<AtomicBool>,
    stop: oneshot::Receiver<()>,
    leftovers: Leftovers,
}

/// Handles signals from now on. SIGHUP opens the log again. SIGINT, SIGTERM and SIGQUIT end the
/// process at once, until [`Signals::serving`].
pub(super) fn handle(log: &Log) -> io::Result<Signals> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP])?;
    let (sender, stop) = oneshot::channel();
    let serving = Arc::new(AtomicBool::new(false));
    let leftovers = Leftovers::default();
    let handler = Handler {
        log: log.clone(),
        serving: serving.clone(),
        stop: Some(sender),
        leftovers: leftovers.clone(),
    };
    thread::Builder::new().name("signals".into()).spawn(move || handler.run(&mut signals))?;
    Ok(Signals { serving, stop, leftovers })
}

impl Signals {
    /// The files that are removed when a signal ends the process at once.
    pub(super) fn leftovers(&self) -> &Leftovers {
        &self.leftovers
    }

    /// Says that from now on there is something to be stopped in order. The future is ready with the
    /// first SIGINT, SIGTERM or SIGQUIT; the second ends the process at once.
    pub(super) fn serving(self) -> impl Future<Output = ()> {
        self.serving.store(true, Ordering::Relaxed);
        async move {
            if self.stop.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What the thread has.
struct Handler {
    log: Log,
    serving: Arc<AtomicBool>,
    /// None after the first signal.
    stop: Option<oneshot::Sender<()>>,
    leftovers: Leftovers,
}

impl Handler {
    fn run(mut self, signals: &mut signal_hook::iterator::Signals) {
        for signal in signals.forever() {
            match signal {
                SIGHUP => self.log.reopen(),
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
        // Without exit handlers: other threads go on until the process is gone.
        low_level::exit(128 + signal);
    }
}
