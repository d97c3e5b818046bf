//! Failures of commands, and the errors that clients get for them.

use std::fmt;

use rustix::io::Errno;

use crate::block::{Command, Error, ErrorCode};

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A system call failed.
    System(Errno),
    /// The span lies past the present end of the file.
    Truncated,
    /// A flush failed before. The kernel reports a lost write once, and may have dropped its data.
    FlushFailed,
    /// A fast zero would have to be written.
    NotFast,
    /// Too much would have to be written to zero the span.
    TooLong,
    /// The client has gone away.
    Cancelled,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System(errno) => return errno.fmt(f),
            Self::Truncated => "the file has become shorter than the disk",
            Self::FlushFailed => "an earlier flush failed, so data may be lost",
            Self::NotFast => "the zeroes would have to be written",
            Self::TooLong => "more than 4 GiB of zeroes would have to be written",
            Self::Cancelled => "the client has gone away",
        })
    }
}

impl Failure {
    fn code(self) -> ErrorCode {
        match self {
            Self::System(errno) => code_of(errno),
            Self::Truncated | Self::FlushFailed => ErrorCode::Io,
            Self::NotFast => ErrorCode::NotSup,
            Self::TooLong => ErrorCode::Overflow,
            Self::Cancelled => ErrorCode::Shutdown,
        }
    }

    /// Returns the error of `command`.
    pub(super) fn of(self, command: Command) -> Error {
        let name = command.operation().name();
        let message = match command {
            Command::Flush => format!("{name}: {self}"),
            _ => {
                let span = command.span();
                format!("{name}({}, {}): {self}", span.offset, span.length)
            }
        };
        Error { code: self.code(), message: Some(message.into()) }
    }
}

/// Returns the code for an error of the system. ENOTSUP is not among them: it is for fast zeroes.
fn code_of(errno: Errno) -> ErrorCode {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorCode::NoSpc,
        Errno::PERM | Errno::ACCESS | Errno::ROFS => ErrorCode::Perm,
        Errno::INVAL | Errno::OPNOTSUPP => ErrorCode::Inval,
        Errno::NOMEM => ErrorCode::NoMem,
        _ => ErrorCode::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Span;

    #[test]
    fn messages_name_the_operation_the_span_and_the_cause() {
        let span = Span { offset: 4096, length: 512 };
        let error = Failure::from(Errno::NOSPC).of(Command::Write { span, fua: true });
        assert_eq!(error.code, ErrorCode::NoSpc);
        let message = error.message.unwrap();
        assert_eq!(*message, *"write(4096, 512): No space left on device (os error 28)");
        let error = Failure::FlushFailed.of(Command::Flush);
        assert_eq!(error.code, ErrorCode::Io);
        assert_eq!(*error.message.unwrap(), *"flush: an earlier flush failed, so data may be lost");
    }

    #[test]
    fn errors_of_the_system_have_codes() {
        for (errno, code) in [
            (Errno::DQUOT, ErrorCode::NoSpc),
            (Errno::FBIG, ErrorCode::NoSpc),
            (Errno::ROFS, ErrorCode::Perm),
            (Errno::PERM, ErrorCode::Perm),
            (Errno::INVAL, ErrorCode::Inval),
            (Errno::OPNOTSUPP, ErrorCode::Inval),
            (Errno::NOMEM, ErrorCode::NoMem),
            (Errno::IO, ErrorCode::Io),
            (Errno::STALE, ErrorCode::Io),
        ] {
            assert_eq!(code_of(errno), code, "{errno}");
        }
    }
}
