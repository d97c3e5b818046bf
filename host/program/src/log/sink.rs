//! The destinations of the log. Writing to one may block.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use syslog::{Facility, Formatter3164};
use tracing::Level;

/// The destination of log lines.
pub(super) enum Sink {
    Stderr,
    Syslog { logger: Box<Logger>, name: String },
    File(File, PathBuf),
    Null,
}

type Logger = syslog::Logger<syslog::LoggerBackend, Formatter3164>;

impl Sink {
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        // The process may change its working directory later.
        let path = std::path::absolute(path)?;
        let file = File::options().append(true).create(true).open(&path)?;
        Ok(Self::File(file, path))
    }

    pub(super) fn syslog(name: &str) -> Result<Self, syslog::Error> {
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: name.into(),
            pid: std::process::id(),
        };
        Ok(Self::Syslog { logger: Box::new(syslog::unix(formatter)?), name: name.to_owned() })
    }

    /// Reopens a log file by its path, as is expected after it was renamed. Does nothing for other
    /// sinks.
    pub(super) fn reopen(&mut self) -> Result<(), (PathBuf, io::Error)> {
        let Self::File(_, path) = self else { return Ok(()) };
        let path = path.clone();
        *self = Self::file(&path).map_err(|error| (path, error))?;
        Ok(())
    }

    /// Writes a line, which must end with a newline.
    pub(super) fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => write_all(rustix::stdio::stderr(), line),
            Self::File(file, _) => write_all(file.as_fd(), line),
            Self::Null => Ok(()),
            Self::Syslog { logger, name } => {
                let line = String::from_utf8_lossy(line);
                let line = line.trim();
                if send(logger, level, line).is_ok() {
                    return Ok(());
                }
                // A restarted syslog daemon has a new socket.
                *self = Self::syslog(name).map_err(io::Error::other)?;
                match self {
                    Self::Syslog { logger, .. } => {
                        send(logger, level, line).map_err(io::Error::other)
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

fn send(logger: &mut Logger, level: Level, line: &str) -> Result<(), syslog::Error> {
    match level {
        Level::ERROR => logger.err(line),
        Level::WARN => logger.warning(line),
        Level::INFO => logger.info(line),
        _ => logger.debug(line),
    }
}

/// Writes all bytes, bypassing the lock and the buffer of [`std::io::Stderr`]: other threads would
/// wait for its lock while this write blocks.
fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // A process that shares stderr may have made it non-blocking.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&file, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            },
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
