//! Nonblocking writes for callers that keep their own output buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Writes `bytes` from index `sent` on and advances `sent`. Ready when everything is written.
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
