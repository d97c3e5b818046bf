//! The thread that writes the log, and the queue that feeds it.
//!
//! The thread is started by the first line: most servers never log one, and starting a thread would
//! delay their startup. Logging only puts a line into the queue. The queue is bounded; lines that
//! do not fit are dropped and counted, and their number is logged once there is room again.
//!
//! The crate tracing-appender has such a queue, too, but it starts its thread at once, drops lines without
//! saying so in the log, and cannot reopen its file.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Level;

use super::sink::Sink;

/// The maximum number of queued lines.
const LINES: usize = 1024;

/// The maximum total size of the queued lines, in bytes.
const BYTES: usize = 1 << 20;

/// Formats what a function logs as a line.
pub(super) type Format = Box<dyn Fn(&dyn Fn()) -> Vec<u8> + Send>;

/// The sending side of the queue.
pub(super) struct Queue {
    sender: Sender<Message>,
    state: Arc<State>,
    /// What is handed to the thread when it starts; `None` afterwards.
    waiting: Mutex<Option<(Writer, Receiver<Message>)>>,
    started: AtomicBool,
}

#[derive(Default)]
struct State {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    /// The number of lines dropped because they did not fit.
    lost: AtomicU64,
    /// Set while a request to reopen the file is pending.
    reopening: AtomicBool,
}

enum Message {
    Line(Level, Box<[u8]>),
    Reopen,
    /// The sender is dropped when the sink has been replaced.
    Replace(Sink, SyncSender<()>),
    Flush(SyncSender<()>),
}

impl Queue {
    pub(super) fn new(sink: Sink, format: Format) -> Self {
        let (sender, receiver) = mpsc::channel();
        let state = Arc::new(State::default());
        let writer = Writer { sink, format, state: state.clone(), failed: 0, torn: false };
        let waiting = Mutex::new(Some((writer, receiver)));
        Self { sender, state, waiting, started: AtomicBool::new(false) }
    }

    /// Queues a line, or drops it and counts it as lost. Never blocks.
    pub(super) fn push(&self, level: Level, line: &[u8]) {
        let sent = self.state.reserve(level, line.len())
            && self.sender.send(Message::Line(level, line.into())).is_ok();
        if !sent {
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.start();
    }

    /// Starts the thread if it is not running yet. If that fails, the next line tries again.
    fn start(&self) {
        if self.started.load(Ordering::Acquire) {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // If the thread fails to start, its closure is dropped along with everything moved into it,
        // so the writer is sent once the thread runs.
        let (sender, given) = mpsc::channel::<(Writer, Receiver<Message>)>();
        let run = move || {
            if let Ok((writer, messages)) = given.recv() {
                writer.run(&messages);
            }
        };
        if waiting.is_some()
            && thread::Builder::new().name("log".into()).spawn(run).is_ok()
            && let Some(given) = waiting.take()
        {
            // The thread is waiting for this message.
            let _ = sender.send(given);
            self.started.store(true, Ordering::Release);
        }
    }

    /// Requests that the log file is reopened by its path.
    pub(super) fn reopen(&self) {
        // Signals may arrive faster than the file can be reopened.
        if !self.state.reopening.swap(true, Ordering::Relaxed) {
            let _ = self.sender.send(Message::Reopen);
            self.start();
        }
    }

    /// Redirects all subsequent lines to another sink. Waits until all earlier lines are written,
    /// for at most `limit`.
    pub(super) fn replace(&self, sink: Sink, limit: Duration) {
        self.ask(|done| Message::Replace(sink, done), limit);
    }

    /// Waits until all queued lines are written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        if self.started.load(Ordering::Acquire) {
            self.ask(Message::Flush, limit);
        }
    }

    fn ask(&self, message: impl FnOnce(SyncSender<()>) -> Message, limit: Duration) {
        let (sender, done) = mpsc::sync_channel(0);
        if self.sender.send(message(sender)).is_ok() {
            self.start();
            // Nothing is ever sent, so this returns an error on completion as well as on timeout.
            let _ = done.recv_timeout(limit);
        }
    }
}

impl State {
    /// Reserves room for a line and returns true if it fits. The last quarter of the queue is
    /// reserved for warnings and errors.
    fn reserve(&self, level: Level, length: usize) -> bool {
        let share = |all: usize| if level <= Level::WARN { all } else { all / 4 * 3 };
        let lines = self.lines.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(length, Ordering::Relaxed) + length;
        let fits = lines <= share(LINES) && bytes <= share(BYTES);
        if !fits {
            self.release(length);
        }
        fits
    }

    fn release(&self, length: usize) {
        self.lines.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(length, Ordering::Relaxed);
    }

    fn has_room(&self) -> bool {
        self.lines.load(Ordering::Relaxed) <= LINES / 2
            && self.bytes.load(Ordering::Relaxed) <= BYTES / 2
    }
}

/// The state of the thread.
struct Writer {
    sink: Sink,
    format: Format,
    state: Arc<State>,
    /// The number of lines that could not be written since the last successful write.
    failed: u64,
    /// True if the last write failed and may have left a partial line.
    torn: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            match message {
                Message::Line(level, line) => {
                    self.line(level, &line);
                    self.state.release(line.len());
                }
                Message::Reopen => self.reopen(),
                Message::Replace(sink, _done) => self.sink = sink,
                Message::Flush(_done) => {}
            }
            if self.state.has_room() {
                self.report_lost();
            }
        }
    }

    fn line(&mut self, level: Level, line: &[u8]) {
        match self.write(level, line) {
            Ok(()) if self.failed > 0 => {
                let failed = std::mem::take(&mut self.failed);
                let report =
                    || tracing::warn!("{failed} lines before this one could not be logged");
                if self.say(Level::WARN, &report).is_err() {
                    self.failed += failed;
                }
            }
            Ok(()) => {}
            Err(_) => self.failed += 1,
        }
    }

    fn reopen(&mut self) {
        self.state.reopening.store(false, Ordering::Relaxed);
        match self.sink.reopen() {
            Ok(()) => self.torn = false,
            Err((path, error)) => {
                let path = path.display();
                let report = || tracing::error!("cannot reopen the log {path}: {error}");
                let _ = self.say(Level::ERROR, &report);
            }
        }
    }

    fn report_lost(&mut self) {
        let lost = self.state.lost.swap(0, Ordering::Relaxed);
        let report =
            || tracing::warn!("{lost} lines were not logged, as the log was not read in time");
        if lost > 0 && self.say(Level::WARN, &report).is_err() {
            self.failed += lost;
        }
    }

    /// Writes a message about the log itself. It bypasses the queue, where it might be dropped as
    /// well.
    fn say(&mut self, level: Level, log: &dyn Fn()) -> io::Result<()> {
        let line = (self.format)(log);
        self.write(level, &line)
    }

    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.sink.write(level, b"\n")?;
            self.torn = false;
        }
        self.sink.write(level, line).inspect_err(|_| self.torn = true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::time::Instant;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A queue whose own lines are plain text.
    fn queue(sink: Sink) -> Queue {
        let format: Format = Box::new(|log| {
            let logs = crate::logs::Logs::capture();
            log();
            let lines = [logs.take(Level::WARN), logs.take(Level::ERROR)].concat();
            (lines.join("\n") + "\n").into_bytes()
        });
        Queue::new(sink, format)
    }

    /// A pipe that has a reader, who does not read yet.
    fn pipe(path: &Path) -> (Sink, BufReader<fs::File>) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reader = fs::File::options().read(true).write(true).open(path).unwrap();
        let sink = Sink::file(path).unwrap();
        (sink, BufReader::new(reader))
    }

    #[test]
    fn log_that_nobody_reads_blocks_nobody_and_its_lost_lines_are_counted() {
        let directory = TempDir::new().unwrap();
        let (sink, mut reader) = pipe(&directory.path().join("pipe"));
        let queue = queue(sink);
        let line = [&[b'x'; 999][..], b"\n"].concat();
        for _ in 0..10_000 {
            queue.push(Level::INFO, &line);
        }
        // What matters more has room.
        queue.push(Level::ERROR, b"an error\n");
        assert!(queue.state.lines.load(Ordering::Relaxed) <= LINES);
        assert!(queue.state.bytes.load(Ordering::Relaxed) <= BYTES);
        let start = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(start.elapsed() >= Duration::from_millis(50), "it was not written");

        let (mut whole, mut errors) = (0, 0);
        let lost = loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end() {
                "an error" => errors += 1,
                line if line.bytes().all(|byte| byte == b'x') => {
                    assert_eq!(line.len(), 999, "lines are whole");
                    whole += 1;
                }
                report => {
                    let words = " lines were not logged, as the log was not read in time";
                    break report.strip_suffix(words).unwrap().parse::<u64>().unwrap();
                }
            }
        };
        // The report comes as soon as half of the queue is free.
        while errors == 0 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.as_str() {
                "an error\n" => errors += 1,
                _ => whole += 1,
            }
        }
        assert_eq!(whole + lost, 10_000);
        queue.flush(LIMIT);
        assert_eq!(queue.state.lines.load(Ordering::Relaxed), 0);
        assert_eq!(queue.state.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("log");
        // Every write fails for want of space.
        let full = fs::File::options().append(true).open("/dev/full").unwrap();
        let queue = queue(Sink::File(full, path.clone()));
        for _ in 0..3 {
            queue.push(Level::INFO, b"lost\n");
        }
        queue.reopen();
        queue.push(Level::INFO, b"there\n");
        queue.flush(LIMIT);
        let log = fs::read_to_string(path).unwrap();
        assert_eq!(log, "there\n3 lines before this one could not be logged\n");
    }

    #[test]
    fn what_was_logged_before_goes_to_the_former_place() {
        let directory = TempDir::new().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let queue = queue(Sink::file(&first).unwrap());
        queue.push(Level::INFO, b"1\n");
        queue.replace(Sink::file(&second).unwrap(), LIMIT);
        queue.push(Level::INFO, b"2\n");
        queue.flush(LIMIT);
        assert_eq!(fs::read_to_string(first).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(second).unwrap(), "2\n");
    }
}
