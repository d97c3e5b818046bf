//! A stream that encrypts what is written to it and decrypts what is read from it.
//!
//! The crate tokio-openssl does the same, but writes a slice at a time: a header and its content become two
//! TLS records and two system calls. Here, what is written together is encrypted together.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, ShutdownState, Ssl, SslRef, SslStream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::pipe::{FLOOD, HIGH_WATER, Pipe};
use crate::transport::{Stream, StreamSocket};

/// The most plaintext that one record holds, in bytes.
const RECORD: usize = 16 << 10;

/// An encrypted stream.
///
/// Written data is sent when several records have accumulated, on a flush, and before a read waits
/// for the client: a caller that writes and then reads needs no flush.
pub struct TlsStream<S> {
    tls: SslStream<Pipe>,
    stream: S,
    /// The peer has announced that nothing more will come.
    ended: bool,
    /// The buffer in which small pieces are combined into one record.
    gathered: Vec<u8>,
}

/// Why a handshake did not complete.
pub(super) enum HandshakeError {
    /// The stream failed or ended.
    Transport(io::Error),
    /// The client's messages were not accepted, or the client did not accept ours.
    Tls(ErrorStack),
}

impl<S> TlsStream<S> {
    pub(super) fn new(ssl: Ssl, stream: S) -> Result<Self, ErrorStack> {
        let tls = SslStream::new(ssl, Pipe::default())?;
        Ok(Self { tls, stream, ended: false, gathered: Vec::new() })
    }

    /// Returns how many encrypted bytes wait to be sent.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.tls.get_ref().waiting()
    }

    pub(super) fn ssl(&self) -> &SslRef {
        self.tls.ssl()
    }
}

impl<S> TlsStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Performs the handshake, in the role that was set.
    pub(super) async fn handshake(&mut self) -> Result<(), HandshakeError> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        loop {
            let shaken = self.tls.do_handshake();
            let wants_more = matches!(&shaken, Err(error) if error.code() == ErrorCode::WANT_READ);
            if let Err(error) = shaken
                && !wants_more
            {
                return Poll::Ready(Err(HandshakeError::new(error)));
            }
            ready!(self.poll_send(cx)).map_err(HandshakeError::Transport)?;
            if !wants_more {
                return Poll::Ready(Ok(()));
            }
            let filled = ready!(self.tls.get_mut().poll_fill(&mut self.stream, cx));
            if filled.map_err(HandshakeError::Transport)? == 0 {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Poll::Ready(Err(HandshakeError::Transport(error)));
            }
        }
    }

    /// Sends what is pending, such as an alert, to a client that is not accepted, and closes the
    /// stream.
    pub(super) async fn abandon(&mut self) {
        // The client may be gone already.
        let _ = std::future::poll_fn(|cx| self.poll_send(cx)).await;
        let _ = self.stream.shutdown().await;
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.get_mut().poll_send(&mut self.stream, cx)
    }

    /// Sends until there is room for another record. Ready when there is.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.get_ref().waiting() >= HIGH_WATER
            && self.poll_send(cx)?.is_pending()
            && self.tls.get_ref().waiting() >= HIGH_WATER
        {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Decrypts what has been received.
    fn decrypt(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        while buffer.remaining() > 0
            && (self.tls.get_ref().readable() > 0 || self.tls.ssl().pending() > 0)
            && self.tls.get_ref().waiting() < FLOOD
        {
            let length = buffer.remaining().min(RECORD);
            match self.tls.ssl_read(buffer.initialize_unfilled_to(length)) {
                Ok(n) => buffer.advance(n),
                Err(error) => match error.code() {
                    ErrorCode::WANT_READ => break,
                    ErrorCode::ZERO_RETURN => {
                        self.ended = true;
                        break;
                    }
                    _ => return Err(into_io(error)),
                },
            }
        }
        Ok(())
    }

    /// Encrypts as many bytes as there is room for and returns their number.
    fn poll_encrypt(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.poll_room(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending if taken > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
            let record = &bytes[taken..bytes.len().min(taken + RECORD)];
            taken += self.tls.ssl_write(record).map_err(into_io)?;
        }
        Poll::Ready(Ok(taken))
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn socket(&mut self) -> Option<&mut StreamSocket> {
        self.stream.socket()
    }
}

impl<S> AsyncRead for TlsStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        loop {
            this.decrypt(buffer)?;
            if this.ended || buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // Before waiting for the client, which may be waiting for this output.
            if this.poll_send(cx)?.is_pending() && this.tls.get_ref().waiting() >= FLOOD {
                return Poll::Pending;
            }
            if this.tls.get_ref().readable() > 0 {
                continue;
            }
            if ready!(this.tls.get_mut().poll_fill(&mut this.stream, cx))? == 0 {
                // There was no close_notify alert: somebody may have cut the stream off.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<S> AsyncWrite for TlsStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_encrypt(cx, bytes)
    }

    /// Copies pieces smaller than a record together; larger ones are encrypted without a copy.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut taken = 0;
        let mut rest = slices;
        while let [first, after @ ..] = rest {
            let polled = if first.len() >= RECORD {
                rest = after;
                (first.len(), this.poll_encrypt(cx, first)?)
            } else {
                let mut gathered = std::mem::take(&mut this.gathered);
                gathered.clear();
                while let [next, after @ ..] = rest
                    && next.len() < RECORD
                    && gathered.len() + next.len() <= RECORD
                {
                    gathered.extend_from_slice(next);
                    rest = after;
                }
                let polled = this.poll_encrypt(cx, &gathered);
                let length = gathered.len();
                this.gathered = gathered;
                (length, polled?)
            };
            match polled {
                (length, Poll::Ready(n)) => {
                    taken += n;
                    if n < length {
                        break;
                    }
                }
                (_, Poll::Pending) if taken > 0 => break,
                (_, Poll::Pending) => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// Sends close_notify to the client, and does not wait for its answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.tls.get_shutdown().contains(ShutdownState::SENT) {
            // After an error nothing can be sent.
            let _ = this.tls.shutdown();
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl HandshakeError {
    fn new(error: openssl::ssl::Error) -> Self {
        match error.ssl_error() {
            Some(errors) => Self::Tls(errors.clone()),
            None => Self::Transport(into_io(error)),
        }
    }
}

fn into_io(error: openssl::ssl::Error) -> io::Error {
    error.into_io_error().unwrap_or_else(io::Error::other)
}
