//! The content of reads in pipes: references to pages of a file, which the kernel hands to a socket
//! without copying them.
//!
//! A pipe is filled by calls that may wait for the disk, and emptied by calls that do not. How much
//! there is in it is known before any of it is sent. The bytes are those that the file has when they
//! are received: a write that comes between may show in them, as it may whenever a read and a write are
//! under way at once. Where a read must not show a later write, as in a snapshot, it is copied.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
use rustix::io::{Errno, Result, retry_on_intr};

use crate::block::Span;

/// The size of a pipe, in bytes: what the kernel allows to all users by default (pipe(7)).
const SIZE: i32 = 1 << 20;

const NONBLOCK: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK;

/// The most pipes of the process. Each takes two file descriptors, and an unprivileged user may have
/// 64 of this size. Reads that find none are copied.
const MOST: usize = 32;

/// The pipes of the process.
pub(super) static PIPES: Pool = Pool::new();

/// Pipes, of which there are at most [`MOST`].
pub(super) struct Pool(Mutex<Pipes>);

struct Pipes {
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

impl Pool {
    const fn new() -> Self {
        Self(Mutex::new(Pipes { idle: Vec::new(), count: 0 }))
    }

    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an empty pipe, if there may be another.
    fn take(&'static self) -> Option<Filled> {
        let mut pipes = self.pipes();
        let pipe = match pipes.idle.pop() {
            Some(pipe) => pipe,
            None if pipes.count == MOST => return None,
            None => {
                let pipe = Pipe::new().ok()?;
                pipes.count += 1;
                pipe
            }
        };
        Some(Filled { pool: self, pipe: Some(pipe), length: 0 })
    }
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// A pipe with content.
struct Filled {
    pool: &'static Pool,
    /// Present until this is dropped.
    pipe: Option<Pipe>,
    length: usize,
}

impl Filled {
    fn pipe(&self) -> &Pipe {
        self.pipe.as_ref().expect("it is there until this is dropped")
    }

    /// Fills the pipe with a span of a file, as far as it fits. Returns 0 at the end of the file.
    fn fill(&mut self, file: BorrowedFd<'_>, span: Span) -> Result<usize> {
        let mut offset = i64::try_from(span.offset).map_err(|_| Errno::INVAL)?;
        let length = usize::try_from(span.length).unwrap_or(usize::MAX);
        let more = retry_on_intr(|| {
            let from = Some(&mut offset);
            splice(file, from, &self.pipe().writer, None, length, NONBLOCK).map_err(errno)
        })?;
        self.length += more;
        Ok(more)
    }

    /// Sends from the pipe to a socket. Returns how many bytes were sent.
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<usize> {
        let sent = retry_on_intr(|| {
            splice(&self.pipe().reader, None, socket, None, self.length, NONBLOCK).map_err(errno)
        })?;
        self.length -= sent;
        Ok(sent)
    }
}

impl Drop for Filled {
    /// Keeps the pipe if it is empty.
    fn drop(&mut self) {
        let mut pipes = self.pool.pipes();
        match self.pipe.take() {
            Some(pipe) if self.length == 0 => pipes.idle.push(pipe),
            pipe => {
                drop(pipe);
                pipes.count -= 1;
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
    pub(super) fn of_file(
        file: BorrowedFd<'_>,
        mut span: Span,
        pool: &'static Pool,
    ) -> std::result::Result<Self, NotPiped> {
        let mut pipes = VecDeque::new();
        let mut last = pool.take().ok_or(NotPiped::NoPipes)?;
        while span.length > 0 {
            match last.fill(file, span) {
                Ok(0) => return Err(NotPiped::Truncated),
                Ok(more) => span = span.after(more as u64),
                // It is full.
                Err(Errno::AGAIN) if last.length > 0 => {
                    let next = pool.take().ok_or(NotPiped::NoPipes)?;
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
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> Result<usize> {
        let Some(first) = self.0.front_mut() else { return Ok(0) };
        let sent = match first.send(socket) {
            // No error of a socket.
            Err(Errno::IO | Errno::NODATA) => 0,
            sent => sent?,
        };
        if first.length == 0 {
            self.0.pop_front();
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn pool() -> &'static Pool {
        Box::leak(Box::new(Pool::new()))
    }

    fn file_of(length: u64) -> (File, Vec<u8>) {
        let content: Vec<u8> = (0..length / 4).flat_map(|at| (at as u32).to_be_bytes()).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (file, content)
    }

    /// Sends all of the content to a client.
    fn received(mut piped: Piped) -> Vec<u8> {
        let (mut client, server) = UnixStream::pair().unwrap();
        let receiving = std::thread::spawn(move || {
            let mut received = Vec::new();
            client.read_to_end(&mut received).unwrap();
            received
        });
        while !piped.is_empty() {
            assert!(piped.send(server.as_fd()).unwrap() > 0);
        }
        drop(server);
        receiving.join().unwrap()
    }

    #[test]
    fn content_is_that_of_the_file_however_many_pipes_it_takes() {
        let pool = pool();
        let (file, content) = file_of(6 * MIB);
        for (offset, length) in
            [(0, MIB), (4095, MIB), (1, 1), (MIB - 1, 4 * MIB + 2), (0, 6 * MIB), (6 * MIB - 5, 5)]
        {
            let piped = Piped::of_file(file.as_fd(), Span { offset, length }, pool).unwrap();
            let range = offset as usize..(offset + length) as usize;
            assert!(received(piped) == content[range], "read({offset}, {length})");
        }
        let pipes = pool.pipes();
        assert_eq!(pipes.idle.len(), pipes.count, "all of them can be used again");
        assert!(pipes.count <= 8, "{} pipes", pipes.count);
    }

    #[test]
    fn end_of_the_file_is_known_before_anything_is_sent() {
        let pool = pool();
        let (file, _) = file_of(MIB);
        for (offset, length) in [(MIB, 1), (MIB - 1, 2), (0, 2 * MIB)] {
            let piped = Piped::of_file(file.as_fd(), Span { offset, length }, pool);
            assert_eq!(piped.map(drop), Err(NotPiped::Truncated));
        }
        let pipes = pool.pipes();
        assert_eq!(pipes.idle.len(), pipes.count);
    }

    #[test]
    fn error_of_the_file_is_an_error() {
        let file = File::open("/").unwrap();
        let span = Span { offset: 0, length: 1 };
        let piped = Piped::of_file(file.as_fd(), span, pool());
        assert!(matches!(piped, Err(NotPiped::File(_))));
    }

    #[test]
    fn pipes_are_bounded() {
        let pool = pool();
        let (file, content) = file_of(MIB);
        let span = Span { offset: 0, length: MIB };
        let read = || Piped::of_file(file.as_fd(), span, pool);
        let mut all: Vec<Piped> = (0..MOST).map(|_| read().unwrap()).collect();
        assert_eq!(read().map(drop), Err(NotPiped::NoPipes));
        let two = Piped::of_file(file.as_fd(), span, pool);
        assert_eq!(two.map(drop), Err(NotPiped::NoPipes));
        assert!(received(all.pop().unwrap()) == content);
        all.push(read().unwrap());
        drop(all);
        assert_eq!(pool.pipes().count, 0, "those that were not empty are closed");
    }

    #[test]
    fn what_was_not_sent_is_sent_to_nobody_else() {
        let pool = pool();
        let (file, content) = file_of(2 * MIB);
        let read =
            |offset, length| Piped::of_file(file.as_fd(), Span { offset, length }, pool).unwrap();
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut left = read(0, MIB);
        while left.send(server.as_fd()).is_ok() {}
        assert!(!left.is_empty(), "the client does not receive");
        drop((left, client));
        assert!(received(read(MIB, 4096)) == content[MIB as usize..][..4096]);
    }
}
