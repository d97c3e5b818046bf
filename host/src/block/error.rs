//! The errors of requests.

use std::fmt;

/// Why a request failed: the errors that NBD can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// EPERM: not permitted, such as a write to a read-only disk.
    Perm,
    /// EIO: an I/O error.
    Io,
    /// ENOMEM: not enough memory for the request.
    NoMem,
    /// EINVAL: the request is invalid.
    Inval,
    /// ENOSPC: no space left, or a write past the end of the disk.
    NoSpc,
    /// EOVERFLOW: the request is too large.
    Overflow,
    /// ENOTSUP: zeroing is not fast here. Used only to answer a fast zero.
    NotSup,
    /// ESHUTDOWN: the server is shutting down.
    Shutdown,
}

impl ErrorCode {
    /// All codes, each at the index that it has as an integer.
    pub const ALL: [Self; 8] = [
        Self::Perm,
        Self::Io,
        Self::NoMem,
        Self::Inval,
        Self::NoSpc,
        Self::Overflow,
        Self::NotSup,
        Self::Shutdown,
    ];

    /// Returns the name of the code, as in the protocol's specification without its prefix: `EIO`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::NoMem => "ENOMEM",
            Self::Inval => "EINVAL",
            Self::NoSpc => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSup => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "out of memory",
            Self::Inval => "invalid argument",
            Self::NoSpc => "no space left on the disk",
            Self::Overflow => "value too large",
            Self::NotSup => "operation not supported",
            Self::Shutdown => "the server is shutting down",
        })
    }
}

/// Why a request failed: a code, and a message for people if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The code, which all clients get.
    pub code: ErrorCode,
    /// A printable line, which clients get with structured replies.
    pub message: Option<Box<str>>,
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None }
    }
}
