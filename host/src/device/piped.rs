//! The content of reads in pipes: references to pages of a file, which the kernel hands to a socket
//! without copying them.
//!
//! A pipe is filled by calls that may wait for the disk, and emptied by calls that do not. How much
//! there is in it is known before any of it is sent. The bytes are those that the file has when they
//! are received: a write that comes between may show in them, as it may whenever a client has a read
//! and a write under way at once.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};

use crate::block::Span;

/// The size of a pipe, in bytes: what the kernel allows to all users by default (pipe(7)).
const SIZE: i32 = 1 << 20;

/// The most pipes of the process. Each takes two file descriptors, and an unprivileged user may have
/// 64 of this size. Reads that find none are copied.
const MOST: usize = 32;

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), count: 0 });

/// The pipes of the process.
struct Pool {
    /// Empty pipes, to be used again.
    idle: Vec<Pipe>,
    /// How many there are, idle or in use.
    count: usize,
}

struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SIZE))?;
        Ok(Self { reader, writer })
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pipe with content.
struct Filled {
    /// Present until this is dropped.
    pipe: Option<Pipe>,
    length: usize,
}

impl Filled {
    /// Takes an empty pipe, if there may be another.
    fn empty() -> Option<Self> {
        let mut pool = pool();
        if let Some(pipe) = pool.idle.pop() {
            return Some(Self { pipe: Some(pipe), length: 0 });
        }
        if pool.count == MOST {
            return None;
        }
        let pipe = Pipe::new().ok()?;
        pool.count += 1;
        Some(Self { pipe: Some(pipe), length: 0 })
    }

    fn pipe(&self) -> &Pipe {
        self.pipe.as_ref().expect("it is there until this is dropped")
    }

    /// Fills the pipe with a span of a file, as far as it fits. Returns 0 at the end of the file.
    fn fill(&mut self, file: BorrowedFd<'_>, span: Span) -> Result<usize, Errno> {
        let mut offset = i64::try_from(span.offset).map_err(|_| Errno::EINVAL)?;
        let length = usize::try_from(span.length).unwrap_or(usize::MAX);
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        loop {
            match splice(file, Some(&mut offset), &self.pipe().writer, None, length, flags) {
                Ok(more) => {
                    self.length += more;
                    return Ok(more);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Filled {
    /// Keeps the pipe if it is empty.
    fn drop(&mut self) {
        let mut pool = pool();
        match self.pipe.take() {
            Some(pipe) if self.length == 0 => pool.idle.push(pipe),
            pipe => {
                pool.count -= 1;
                drop(pool);
                drop(pipe);
            }
        }
    }
}

/// Why a span was not put into pipes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotPiped {
    /// There are no pipes for it now.
    NoPipes,
    /// The file ends before the span does.
    Truncated,
    /// The file cannot be read.
    File(Errno),
}

/// The content of a read, in pipes.
pub struct Piped(VecDeque<Filled>);

impl Piped {
    /// Puts a span of a file into pipes. This may wait for the disk.
    pub(super) fn of_file(file: BorrowedFd<'_>, mut span: Span) -> Result<Self, NotPiped> {
        let mut pipes = VecDeque::new();
        let mut last = Filled::empty().ok_or(NotPiped::NoPipes)?;
        while span.length > 0 {
            match last.fill(file, span) {
                Ok(0) => return Err(NotPiped::Truncated),
                Ok(more) => span = span.after(more as u64),
                // It is full.
                Err(Errno::EAGAIN) if last.length > 0 => {
                    let next = Filled::empty().ok_or(NotPiped::NoPipes)?;
                    pipes.push_back(std::mem::replace(&mut last, next));
                }
                Err(error) => return Err(NotPiped::File(error)),
            }
        }
        pipes.push_back(last);
        Ok(Self(pipes))
    }

    /// Whether all of it was sent.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends more of the content to a socket, which is not waited for. Returns how many bytes it took; 0
    /// if the kernel has lost them, which it may where a file system fails.
    ///
    /// # Errors
    ///
    /// Returns the error of the socket.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let Some(first) = self.0.front_mut() else { return Ok(0) };
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let sent = match splice(&first.pipe().reader, None, socket, None, first.length, flags) {
            // No error of a socket.
            Err(Errno::EIO | Errno::ENODATA) => 0,
            sent => sent?,
        };
        first.length -= sent;
        if first.length == 0 {
            self.0.pop_front();
        }
        Ok(sent)
    }
}
