//! Files that components write to, such as logs.
//!
//! Data are queued, and a thread of the output writes them: neither a slow disk nor a pipe that nobody
//! reads delays whoever appends. The queue is bounded; data that do not fit are dropped and counted. The
//! thread is started by the first data, and ends when there are none for a while.
//!
//! The module does not know who writes, or what.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::Notify;

/// The most data that wait to be written to an output, in bytes.
const MAX_WAITING: usize = 1 << 20;

/// How long the thread of an output waits for more data before it ends.
const LINGER: Duration = Duration::from_secs(1);

/// The least time between two messages about lost data of an output.
const REPORT_PAUSE: Duration = Duration::from_secs(10);

/// How long closing a disk waits for its outputs.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The most bytes that are written to an output by default.
pub const MAX_OUTPUT: u64 = 1 << 30;

/// The outputs that parameters name. Those of the same path are one.
#[derive(Clone)]
pub struct Outputs {
    by_path: Arc<Mutex<HashMap<PathBuf, Output>>>,
    /// The most bytes that are written to each.
    limit: u64,
}

impl Outputs {
    /// Creates a collection of outputs, to each of which at most `limit` bytes are written.
    pub fn new(limit: u64) -> Self {
        Self { by_path: Arc::default(), limit }
    }

    /// Returns the output of an absolute path. It is opened later. With `append`, what the file has
    /// then is kept; of several who ask for the same path, the first decides.
    pub fn get(&self, path: PathBuf, append: bool) -> Output {
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Output::new(path.clone(), append, self.limit);
        by_path.entry(path.clone()).or_insert_with(new).clone()
    }
}

impl Default for Outputs {
    fn default() -> Self {
        Self::new(MAX_OUTPUT)
    }
}

/// A file, a pipe or a terminal that is written to.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    path: PathBuf,
    append: bool,
    limit: u64,
    file: OnceLock<Target>,
    /// Held while the file is opened.
    opening: Mutex<()>,
    queue: Mutex<Queue>,
    /// Signals the thread that there are data.
    filled: Condvar,
    /// Signals that there are no data.
    drained: Notify,
}

struct Target {
    file: File,
    is_terminal: bool,
}

#[derive(Default)]
struct Queue {
    /// What is to be written.
    waiting: Vec<u8>,
    /// The number of bytes that the thread is writing.
    writing: usize,
    /// The number of bytes that were accepted since the file was opened.
    accepted: u64,
    /// The thread runs.
    running: bool,
    lost: Lost,
}

/// Data that were not written, and of which nothing was logged yet.
#[derive(Default)]
struct Lost {
    /// The number of appends that found no room.
    dropped: u64,
    /// The number of bytes that could not be written, with the last error.
    failed: Option<(u64, Errno)>,
    reported: Option<Instant>,
}

/// An output has got as many bytes as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Output {
    fn new(path: PathBuf, append: bool, limit: u64) -> Self {
        Self(Arc::new(Shared {
            path,
            append,
            limit,
            file: OnceLock::new(),
            opening: Mutex::new(()),
            queue: Mutex::default(),
            filled: Condvar::new(),
            drained: Notify::new(),
        }))
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns true if the file is open.
    pub fn is_open(&self) -> bool {
        self.0.file.get().is_some()
    }

    /// Opens the file, unless it is open. It may block as long as the file system does.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened, or is no regular file, pipe or terminal.
    pub fn open(&self) -> io::Result<()> {
        let _opening = self.0.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_open() {
            let opened = Target::open(&self.0.path, self.0.append)?;
            // Only one thread gets here.
            let _ = self.0.file.set(opened);
        }
        Ok(())
    }

    /// Queues data to be written together. Data for which there is no room are dropped and counted.
    ///
    /// # Errors
    ///
    /// Returns an error if the output has got as many bytes as it may.
    pub fn append(&self, data: &[u8]) -> Result<(), Full> {
        let mut queue = self.queue();
        let accepted = queue.accepted.saturating_add(data.len() as u64);
        if accepted > self.0.limit {
            return Err(Full);
        }
        if !self.is_open() || queue.waiting.len() + queue.writing + data.len() > MAX_WAITING {
            queue.lost.dropped += 1;
            // The thread may wait for a reader.
            queue.lost.report(&self.0.path, false);
        } else {
            queue.waiting.extend_from_slice(data);
            queue.accepted = accepted;
        }
        if queue.running {
            self.0.filled.notify_one();
        } else if !queue.waiting.is_empty() {
            let output = self.clone();
            let run = move || output.write();
            // If that fails, the next data try again.
            queue.running = thread::Builder::new().name("output".into()).spawn(run).is_ok();
        }
        Ok(())
    }

    /// Waits until all data are written, for at most [`DRAIN_LIMIT`].
    pub(crate) async fn drain(&self) {
        let drained = async {
            loop {
                let drained = self.0.drained.notified();
                if self.queue().is_empty() {
                    break;
                }
                drained.await;
            }
        };
        if tokio::time::timeout(DRAIN_LIMIT, drained).await.is_err() {
            let queue = self.queue();
            tracing::warn!(
                "output {:?}: the last {} bytes were not written within {DRAIN_LIMIT:?}",
                self.0.path,
                queue.waiting.len() + queue.writing
            );
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is queued, until there is nothing for a while.
    fn write(&self) {
        let mut data = Vec::new();
        let mut queue = self.queue();
        loop {
            if queue.waiting.is_empty() {
                self.0.drained.notify_waiters();
                let waited = self.0.filled.wait_timeout(queue, LINGER);
                let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = woken;
                if queue.waiting.is_empty() {
                    queue.lost.report(&self.0.path, timeout.timed_out());
                    if timeout.timed_out() {
                        queue.running = false;
                        queue.waiting = Vec::new();
                        return;
                    }
                }
                continue;
            }
            data.clear();
            std::mem::swap(&mut data, &mut queue.waiting);
            queue.writing = data.len();
            drop(queue);
            let written = self.0.file.get().map_or(Err(Errno::BADF), |target| target.write(&data));
            queue = self.queue();
            queue.writing = 0;
            if let Err(error) = written {
                let before = queue.lost.failed.map_or(0, |(bytes, _)| bytes);
                queue.lost.failed = Some((before + data.len() as u64, error));
            }
            queue.lost.report(&self.0.path, false);
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Output").field(&self.0.path).finish()
    }
}

impl PartialEq for Output {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.writing == 0
    }
}

impl Lost {
    /// Logs what was lost, at most every now and then, or `now`.
    fn report(&mut self, path: &Path, now: bool) {
        let is_due = self.reported.is_none_or(|reported| reported.elapsed() >= REPORT_PAUSE);
        if !is_due && !now {
            return;
        }
        if let Some((bytes, error)) = self.failed.take() {
            tracing::warn!("output {path:?}: {bytes} bytes could not be written: {error}");
            self.reported = Some(Instant::now());
        }
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            tracing::warn!(
                "output {path:?}: {dropped} pieces were dropped, as it is written too slowly; at \
                 most {MAX_WAITING} bytes can be waiting"
            );
            self.reported = Some(Instant::now());
        }
    }
}

impl Target {
    fn open(path: &Path, append: bool) -> io::Result<Self> {
        // Not opened anew: a file would be emptied, and others that write to it would not notice.
        let standard = match path.to_str() {
            Some("/dev/stdout") => Some(rustix::stdio::stdout()),
            Some("/dev/stderr") => Some(rustix::stdio::stderr()),
            _ => None,
        };
        match standard {
            Some(stream) => Self::checked(stream.try_clone_to_owned()?.into(), true),
            None => Self::checked(Self::open_anew(path)?, append),
        }
    }

    fn open_anew(path: &Path) -> io::Result<File> {
        // A pipe that nobody reads is an error, rather than a reason to wait.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = File::options()
            .append(true)
            .create(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        opened.map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::NXIO.raw_os_error() => io::Error::other(
                "it is a pipe that nobody reads, a socket or a device; right would be a regular \
                 file, a pipe with a reader or a terminal",
            ),
            _ => error,
        })
    }

    fn checked(file: File, append: bool) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let is_terminal = kind.is_char_device() && file.is_terminal();
        if !kind.is_file() && !kind.is_fifo() && !is_terminal {
            return Err(io::Error::other(
                "it is a device; right would be a regular file, a pipe or a terminal",
            ));
        }
        if kind.is_file() && !append {
            file.set_len(0)?;
        }
        Ok(Self { file, is_terminal })
    }

    fn write(&self, data: &[u8]) -> Result<(), Errno> {
        let data = match self.is_terminal {
            true => Cow::Owned(harmless(data)),
            false => Cow::Borrowed(data),
        };
        write_all(self.file.as_fd(), &data)
    }
}

/// Returns what a terminal shows as text, without what it would obey.
fn harmless(data: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(data);
    let shown = text.chars().map(|c| match c {
        '\n' | '\t' => c,
        c if c.is_control() => ' ',
        c => c,
    });
    shown.collect::<String>().into_bytes()
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&file, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            },
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
