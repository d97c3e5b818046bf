//! Sending without waiting, for those who keep what is to be sent themselves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Writes what comes after the first `sent` bytes, and counts them on. Ready when all are written.
pub(crate) fn poll_write_rest<S>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bytes: &[u8],
    sent: &mut usize,
) -> Poll<io::Result<()>>
where
    S: AsyncWrite + Unpin,
{
    while *sent < bytes.len() {
        match ready!(Pin::new(&mut *stream).poll_write(cx, &bytes[*sent..]))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => *sent += n,
        }
    }
    Poll::Ready(Ok(()))
}
