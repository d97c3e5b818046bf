//! The destination and the format of the log. Other modules decide what is logged, and when.
//!
//! Logging never blocks: a separate thread writes the lines (`writer`).

mod look;
mod sink;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use signal_hook::consts::SIGXFSZ;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::{LogFormat, Logging};
use super::events::{Feed, Hubs};
use look::Look;
use sink::Sink;
use writer::Queue;

/// Returns true if a value of `--log` is a word for something else than a file.
pub(super) fn is_no_file(path: &Path) -> bool {
    matches!(path.to_str(), Some("stderr" | "default" | "null" | "syslog"))
}

/// How long the process waits for the last lines to be written when it exits or leaves the
/// terminal. The wait is bounded because possibly nobody reads them.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The log of the process.
#[derive(Clone)]
pub(super) struct Log {
    queue: Arc<Queue>,
    look: Look,
    to_stderr: bool,
    name: String,
}

impl Log {
    /// Opens the destination given by `--log` and installs it as the log, for panics as well. `feed` gets the
    /// same lines.
    ///
    /// # Errors
    ///
    /// Returns an error if the destination cannot be opened, or SIGXFSZ cannot be handled.
    pub(super) fn start(options: &Logging, hubs: Hubs, feed: Option<Feed>) -> anyhow::Result<Self> {
        // Exceeding the file size limit must be an ordinary write error, not kill the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default()).context("handle SIGXFSZ")?;
        let name = options.program().to_owned();
        let sink = match &options.log {
            None => Sink::Stderr,
            Some(path) => match path.to_str() {
                Some("stderr" | "default") => Sink::Stderr,
                Some("null") => Sink::Null,
                Some("syslog") => Sink::syslog(&name).context("--log syslog")?,
                _ => Sink::file(path).with_context(|| format!("--log {}", path.display()))?,
            },
        };
        let to_stderr = matches!(sink, Sink::Stderr);
        let look = Look {
            level: if options.verbose { Level::DEBUG } else { Level::INFO },
            json: options.log_format == LogFormat::Json,
            name: options.name.clone(),
            timed: Arc::new(AtomicBool::new(!matches!(sink, Sink::Syslog { .. }))),
            colored: to_stderr && io::stderr().is_terminal(),
            hubs,
        };
        let own_look = look.clone();
        let queue = Arc::new(Queue::new(sink, Box::new(move |log| own_look.format(log))));
        let log = Self { queue, look, to_stderr, name };
        // A process that embeds the command may have installed a log of its own.
        if log.look.subscriber(log.clone()).with(feed).try_init().is_ok() {
            std::panic::set_hook(Box::new(log_panic));
        }
        Ok(log)
    }

    /// Reopens the log file by its path, as is expected after it was renamed.
    pub(super) fn reopen(&self) {
        self.queue.reopen();
    }

    /// Redirects a log on stderr to syslog, if available, because the process is leaving the
    /// terminal.
    pub(super) fn leave_terminal(&self) {
        if self.to_stderr {
            let sink = Sink::syslog(&self.name).unwrap_or(Sink::Null);
            self.look.timed.store(false, Ordering::Relaxed);
            self.queue.replace(sink, FLUSH_LIMIT);
        }
    }

    /// Waits until all queued lines are written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        self.queue.flush(limit);
    }

    /// Returns a guard that flushes the log when it is dropped, waiting for at most a second.
    pub(super) fn flush_on_drop(&self) -> impl Drop + use<> {
        Flushed(self.clone())
    }
}

struct Flushed(Log);

impl Drop for Flushed {
    fn drop(&mut self) {
        self.0.flush(FLUSH_LIMIT);
    }
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("(no message)");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    match panic.location() {
        Some(location) => tracing::error!("thread {thread} panicked at {location}: {message}"),
        None => tracing::error!("thread {thread} panicked: {message}"),
    }
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!("{backtrace}");
    }
}

/// A writer for one line, which tracing-subscriber passes in a single call.
pub(super) struct LineWriter<'a> {
    queue: &'a Queue,
    level: Level,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(self.level, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter { queue: &self.queue, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        LineWriter { queue: &self.queue, level: *metadata.level() }
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::Logs;

    use super::*;

    #[test]
    fn panics_are_logged() {
        let logs = Logs::capture();
        // For a moment, other tests that panic do not tell why.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let panic = std::panic::catch_unwind(|| panic!("ouch {}", 1));
        std::panic::set_hook(hook);
        assert!(panic.is_err());
        let errors = logs.take(Level::ERROR);
        assert!(errors[0].contains("panicked at host/program/src/log.rs:"), "{errors:?}");
        assert!(errors[0].ends_with(": ouch 1"), "{errors:?}");
    }
}
