//! Turns what components print and log into lines of the host's log.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::check::printable_up_to;
use crate::throttle::{Limit, Throttle, Verdict};

/// The length, in bytes, at which a longer line is broken, or cut off.
const LONGEST: usize = 1024;

/// The standard output and error of an instance, and what it says through the interface `log`.
#[derive(Clone, Debug)]
pub(super) struct LogStream {
    /// Shared with the streams that the instance has opened.
    output: Arc<Mutex<Arc<Output>>>,
}

impl LogStream {
    pub(super) fn new(output: Arc<Output>) -> Self {
        Self { output: Arc::new(Mutex::new(output)) }
    }

    /// Logs to another output from now on, including what is written to streams that are already
    /// open: the instance that described its component goes on to serve an export.
    pub(super) fn redirect(&self, output: &Arc<Output>) {
        *self.output.lock().unwrap_or_else(PoisonError::into_inner) = output.clone();
    }

    /// Logs a line, of which control characters and the end of a very long one are not shown.
    pub(super) fn line(&self, level: Level, line: &str) {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).clone();
        output.line(level, line);
    }

    fn writer(&self) -> LineWriter {
        LineWriter { log: self.clone(), line: Vec::new() }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.writer())
    }

    /// Logs within the guest's call, so that nothing is lost when the guest traps right after.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.writer())
    }
}

/// The output of all instances of an export. Their lines are throttled together, so that a
/// component cannot fill the disk that holds the log, however many instances it has.
#[derive(Debug)]
pub(super) struct Output {
    /// The beginning of each line.
    source: String,
    throttle: Throttle,
    recent: Mutex<VecDeque<String>>,
}

impl Output {
    const LINES: Limit = Limit { burst: 200, per_second: 50 };
    const BYTES: Limit = Limit { burst: 64 << 10, per_second: 16 << 10 };

    /// The most lines that [`Self::recent`] returns.
    const RECENT_LINES: usize = 10;

    /// The most bytes that it returns.
    const RECENT_BYTES: usize = 4 << 10;

    /// Creates the output of instances that do not serve an export yet.
    pub(super) fn of_component(component: &str) -> Arc<Self> {
        Self::new(component.to_owned())
    }

    pub(super) fn of_export(export_name: &str, component: &str) -> Arc<Self> {
        Self::new(format!("export {export_name:?}: {component}"))
    }

    fn new(source: String) -> Arc<Self> {
        let throttle = Throttle::new(Self::LINES, Self::BYTES);
        Arc::new(Self { source, throttle, recent: Mutex::default() })
    }

    /// Returns the most recent lines, oldest first, whether or not they were logged.
    pub(super) fn recent(&self) -> Vec<String> {
        self.recent_lines().iter().cloned().collect()
    }

    fn line(&self, level: Level, line: &str) {
        let text = printable_up_to(line, LONGEST);
        if is_logged(level)
            && let Verdict::Admitted { refused } = self.throttle.admit(text.len())
        {
            self.report(refused);
            log(level, format_args!("{}: {text}", self.source));
        }
        let mut recent = self.recent_lines();
        recent.push_back(text);
        let bytes = |lines: &VecDeque<String>| lines.iter().map(String::len).sum::<usize>();
        while recent.len() > Self::RECENT_LINES || bytes(&recent) > Self::RECENT_BYTES {
            recent.pop_front();
        }
    }

    fn report(&self, refused: u64) {
        if refused > 0 {
            tracing::info!(
                target: "component",
                "{}: ({refused} more lines were not logged)",
                self.source
            );
        }
    }

    fn recent_lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.report(self.throttle.take_refused());
    }
}

/// Whether anything is logged at this level, so that what is not does not count against the limit.
fn is_logged(level: Level) -> bool {
    match level {
        Level::ERROR => tracing::enabled!(target: "component", Level::ERROR),
        Level::WARN => tracing::enabled!(target: "component", Level::WARN),
        Level::INFO => tracing::enabled!(target: "component", Level::INFO),
        Level::DEBUG => tracing::enabled!(target: "component", Level::DEBUG),
        Level::TRACE => tracing::enabled!(target: "component", Level::TRACE),
    }
}

fn log(level: Level, text: fmt::Arguments<'_>) {
    match level {
        Level::ERROR => tracing::error!(target: "component", "{text}"),
        Level::WARN => tracing::warn!(target: "component", "{text}"),
        Level::INFO => tracing::info!(target: "component", "{text}"),
        Level::DEBUG => tracing::debug!(target: "component", "{text}"),
        Level::TRACE => tracing::trace!(target: "component", "{text}"),
    }
}

/// Collects bytes until a line is complete.
struct LineWriter {
    log: LogStream,
    line: Vec<u8>,
}

impl LineWriter {
    /// The most bytes accepted at once.
    const PERMIT: usize = 64 << 10;

    fn append(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
                continue;
            }
            self.line.push(byte);
            if self.line.len() == LONGEST {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.log.line(Level::INFO, &String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}

impl OutputStream for LineWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(Self::PERMIT)
    }
}

#[async_trait]
impl Pollable for LineWriter {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LineWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.append(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_line();
        Poll::Ready(Ok(()))
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.end_line();
    }
}
