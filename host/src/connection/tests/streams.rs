//! Streams that do what a script says.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::Stream;

/// How a stream takes what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gathering {
    /// From all slices, as sockets do.
    All,
    /// From the first slice only, as many encrypting streams do.
    First,
}

/// Takes bytes by a script, which starts over at its end. A zero means that it takes nothing now.
pub(super) struct Scripted {
    script: Vec<usize>,
    step: usize,
    gathering: Gathering,
    pub(super) taken: Vec<u8>,
}

impl Scripted {
    pub(super) fn new(script: &[usize], gathering: Gathering) -> Self {
        assert!(script.iter().any(|&window| window > 0), "it takes something");
        Self { script: script.to_vec(), step: 0, gathering, taken: Vec::new() }
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let window = this.script[this.step % this.script.len()];
        this.step += 1;
        if window == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = this.taken.len();
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            let left = window - (this.taken.len() - before);
            this.taken.extend_from_slice(&slice[..slice.len().min(left)]);
            if this.gathering == Gathering::First {
                break;
            }
        }
        Poll::Ready(Ok(this.taken.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        self.gathering == Gathering::All
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A stream whose writes take the first slice only, and at most so many bytes of it.
pub(super) struct Narrow<S>(pub(super) S, pub(super) usize);

impl<S: Stream> Stream for Narrow<S> {}

impl<S: AsyncRead + Unpin> AsyncRead for Narrow<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Narrow<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = bytes.len().min(self.1);
        Pin::new(&mut self.0).poll_write(cx, &bytes[..taken])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
