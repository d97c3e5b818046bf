//! Errors of requests.

use alloc::borrow::Cow;

/// The reason a request failed, under its POSIX name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The operation is not permitted.
    Eperm,
    /// An I/O error, where no other code fits.
    Eio,
    /// Not enough memory for the request.
    Enomem,
    /// The request is not valid for this disk.
    Einval,
    /// No space is left for new data.
    Enospc,
    /// The request is too large.
    Eoverflow,
    /// Zeroing is not supported or would not be fast. Other requests do not fail with this.
    Enotsup,
    /// The storage of the disk is shutting down.
    Eshutdown,
}

/// The error of a request. Without a message it allocates nothing.
///
/// ```
/// use memnbd_guest::Error;
///
/// assert!(Error::EIO.message.is_none());
/// let error = Error::EIO.because("the sector is marked as bad");
/// let error = Error::EIO.because(format!("sector {} is marked as bad", 4096));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The code that the client receives.
    pub code: ErrorCode,
    /// What happened, for people, without a full stop. The host logs it and sends it to the client.
    pub message: Option<Cow<'static, str>>,
}

impl Error {
    /// [`ErrorCode::Eperm`] without a message.
    pub const EPERM: Self = Self::new(ErrorCode::Eperm);
    /// [`ErrorCode::Eio`] without a message.
    pub const EIO: Self = Self::new(ErrorCode::Eio);
    /// [`ErrorCode::Enomem`] without a message.
    pub const ENOMEM: Self = Self::new(ErrorCode::Enomem);
    /// [`ErrorCode::Einval`] without a message.
    pub const EINVAL: Self = Self::new(ErrorCode::Einval);
    /// [`ErrorCode::Enospc`] without a message.
    pub const ENOSPC: Self = Self::new(ErrorCode::Enospc);
    /// [`ErrorCode::Eoverflow`] without a message.
    pub const EOVERFLOW: Self = Self::new(ErrorCode::Eoverflow);
    /// [`ErrorCode::Enotsup`] without a message.
    pub const ENOTSUP: Self = Self::new(ErrorCode::Enotsup);
    /// [`ErrorCode::Eshutdown`] without a message.
    pub const ESHUTDOWN: Self = Self::new(ErrorCode::Eshutdown);

    /// Returns an error without a message.
    pub const fn new(code: ErrorCode) -> Self {
        Self { code, message: None }
    }

    /// Returns the error with a message.
    #[must_use]
    pub fn because(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: Some(message.into()), ..self }
    }
}
