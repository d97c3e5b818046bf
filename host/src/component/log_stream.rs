//! What a component prints, as lines of the host's log.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::check::printable;

/// The standard output and error of an instance.
#[derive(Clone, Debug)]
pub(super) struct LogStream {
    log: Arc<Log>,
}

impl LogStream {
    /// `component` begins each line.
    pub(super) fn new(component: Arc<str>) -> Self {
        let throttle = Mutex::new(Throttle { since: Instant::now(), lines: 0, left_out: 0 });
        Self { log: Arc::new(Log { component, throttle }) }
    }

    fn writer(&self) -> LineWriter {
        LineWriter { log: self.log.clone(), line: Vec::new() }
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

/// Where the lines of all streams of an instance go.
#[derive(Debug)]
struct Log {
    component: Arc<str>,
    throttle: Mutex<Throttle>,
}

impl Log {
    fn line(&self, line: &[u8]) {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if !throttle.admit(&self.component) {
            return;
        }
        let text = printable(&String::from_utf8_lossy(line));
        tracing::info!(target: "component", "{}: {text}", self.component);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let throttle = self.throttle.get_mut().unwrap_or_else(PoisonError::into_inner);
        throttle.tell(&self.component);
    }
}

/// Keeps a component that prints without end from filling the disk that the log is on.
#[derive(Debug)]
struct Throttle {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Throttle {
    const PERIOD: Duration = Duration::from_secs(1);
    const LINES_PER_PERIOD: u32 = 200;

    fn admit(&mut self, component: &str) -> bool {
        if self.since.elapsed() >= Self::PERIOD {
            self.tell(component);
            *self = Self { since: Instant::now(), lines: 0, left_out: 0 };
        }
        let admitted = self.lines < Self::LINES_PER_PERIOD;
        if admitted {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        admitted
    }

    fn tell(&self, component: &str) {
        if self.left_out > 0 {
            let lines = self.left_out;
            tracing::info!(target: "component", "{component}: ({lines} lines more, not logged)");
        }
    }
}

/// Collects bytes until there is a line.
struct LineWriter {
    log: Arc<Log>,
    line: Vec<u8>,
}

impl LineWriter {
    /// A longer line is broken here, in bytes.
    const LONGEST: usize = 1024;

    /// What is taken at once, in bytes.
    const PERMIT: usize = 64 << 10;

    fn append(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
                continue;
            }
            self.line.push(byte);
            if self.line.len() == Self::LONGEST {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.log.line(&self.line);
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
