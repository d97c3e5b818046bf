//! One client, from its greeting to its end: the IO of the protocol.
//!
//! The decisions are [`crate::nbd`]'s, the work is the disk's; here bytes are moved and time is
//! kept. Whatever a client does ends in an [`End`], never in a panic, and in no more memory than
//! the limits here allow.

mod dedicated;
mod haggling;
mod in_use;
mod output;
mod peers;
#[cfg(test)]
mod tests;
mod transmission;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::device::Gate;
use crate::exports::Exports;
use crate::nbd::{Handshake, HandshakeConfig, ProtocolError};
use crate::places::ExportPlaces;
use crate::tls::{self, Acceptor};
use crate::transport::Stream;
pub use dedicated::Threads;
use dedicated::{Busy, ThreadPermit};
use haggling::{Agreed, Haggled, negotiate};
pub use in_use::InUse;
pub use peers::{Patience, Peers};
use transmission::{Outcome, Transmission};

/// How far the server is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Clients are served.
    Serving,
    /// What is in flight is finished, everything else is answered that the server stops.
    Draining,
    /// Connections end now.
    Closing,
}

/// What connections share.
#[derive(Clone)]
pub struct Context {
    /// What there is to serve.
    pub exports: Arc<Exports>,
    /// What is offered in the handshake.
    pub handshake: HandshakeConfig,
    /// Starts TLS with clients. There is one if the handshake offers TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// How long a client may negotiate; none for as long as it likes.
    pub handshake_timeout: Option<Duration>,
    /// Tells when to stop.
    pub phase: watch::Receiver<Phase>,
    /// Counts those that use an export.
    pub in_use: InUse,
    /// The threads of busy connections.
    pub threads: Threads,
    /// All connections.
    pub peers: Peers,
    /// Places for clients of the exports.
    pub places: ExportPlaces,
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// The client said good-bye, or went without a request under way.
    Disconnected,
    /// The server stops.
    Stopped,
    /// The client broke the protocol.
    Protocol(ProtocolError),
    /// The client is not let in by TLS, or does not speak it.
    Tls(tls::Failure),
    /// The client took too long to negotiate.
    HandshakeTimeout,
    /// The client stopped in the middle of a request, or took nothing of a reply, for too long.
    Stalled,
    /// The client asked for nothing for too long.
    Idle,
    /// A read failed when its reply had begun, in which there was no place for an error any more.
    Unanswerable,
    /// The connection failed or ended in the middle of something.
    Transport(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("disconnected"),
            Self::Stopped => f.write_str("closed, for the server stops"),
            Self::Protocol(error) => {
                write!(f, "closed, for the client broke the protocol: {error}")
            }
            Self::Tls(failure) => write!(f, "closed, for TLS failed: {failure}"),
            Self::HandshakeTimeout => f.write_str("closed, for negotiation took too long"),
            Self::Stalled => f.write_str("closed, for it neither sent nor took what was due"),
            Self::Idle => f.write_str("closed, for it was idle for too long"),
            Self::Unanswerable => {
                f.write_str("closed, for a read failed in the middle of its reply")
            }
            Self::Transport(error) => write!(f, "lost: {error}"),
        }
    }
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<tls::Failure> for End {
    fn from(failure: tls::Failure) -> Self {
        match failure {
            tls::Failure::Transport(error) => Self::Transport(error),
            failure => Self::Tls(failure),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Transport(error)
    }
}

/// Serves one client to its end.
pub async fn serve<S: Stream>(mut stream: S, context: Context) -> End {
    let mut deadline = context.handshake_timeout.map(|timeout| Instant::now() + timeout);
    let mut handshake = Handshake::new(context.handshake);
    let greeting = handshake.greeting();
    match negotiate(&mut stream, &mut handshake, greeting.to_vec(), &mut deadline, &context).await {
        Ok(Haggled::Agreed(agreed)) => transmit(stream, agreed, context).await,
        // A future of its own, so that those without TLS need no room for it.
        Ok(Haggled::StartTls) => {
            Box::pin(serve_inside_tls(stream, handshake, deadline, context)).await
        }
        Ok(Haggled::Aborted) => end(&mut stream, End::Disconnected).await,
        Err(reason) => end(&mut stream, reason).await,
    }
}

/// Goes on once a client was told that TLS starts.
async fn serve_inside_tls<S: Stream>(
    stream: S,
    mut handshake: Handshake,
    mut deadline: Option<Instant>,
    context: Context,
) -> End {
    let Some(acceptor) = &context.tls else {
        return End::Transport(io::ErrorKind::Unsupported.into());
    };
    let accepting = async { acceptor.accept(stream).await.map_err(End::from) };
    let mut stream = match in_time(deadline, &context, accepting).await {
        Ok(stream) => stream,
        Err(reason) => return reason,
    };
    tracing::debug!("TLS established: {}", acceptor.describe(&stream));
    handshake.tls_established();
    match negotiate(&mut stream, &mut handshake, Vec::new(), &mut deadline, &context).await {
        Ok(Haggled::Agreed(agreed)) => transmit(stream, agreed, context).await,
        Ok(Haggled::Aborted) => end(&mut stream, End::Disconnected).await,
        // The handshake refuses a second STARTTLS.
        Ok(Haggled::StartTls) => End::Transport(io::ErrorKind::Unsupported.into()),
        Err(reason) => end(&mut stream, reason).await,
    }
}

/// Serves a client after its handshake.
async fn transmit<S: Stream>(stream: S, agreed: Agreed, context: Context) -> End {
    let Agreed { session, disk, _place, rest } = agreed;
    let Context { mut phase, in_use, threads, peers, .. } = context;
    let _user = in_use.enter();
    let gate = Gate::new(disk);
    let mut transmission = Transmission::new(stream, session, gate, peers.enter(), rest);
    let reason = loop {
        let may_be_busy = transmission.stream.socket().is_some();
        if let Outcome::End(reason) = transmission.run(&mut phase, may_be_busy).await {
            break reason;
        }
        let Some(permit) = threads.enter() else { continue };
        match lend(transmission, phase.clone(), permit).await {
            Ok((returned, outcome)) => {
                transmission = returned;
                if let Some(reason) = outcome {
                    break reason;
                }
            }
            Err(reason) => return reason,
        }
    };
    transmission.cancel();
    end(&mut transmission.stream, reason).await
}

/// A connection on a thread of its own.
struct Alone<S> {
    transmission: Transmission<S>,
    phase: watch::Receiver<Phase>,
}

impl<S: Stream> Busy for Alone<S> {
    type Output = Outcome;

    fn run(&mut self) -> impl Future<Output = Outcome> {
        self.transmission.run(&mut self.phase, false)
    }
}

/// Serves on a thread of its own until the connection is idle, or until it ends: then with the
/// reason.
async fn lend<S: Stream>(
    mut transmission: Transmission<S>,
    phase: watch::Receiver<Phase>,
    permit: ThreadPermit,
) -> Result<(Transmission<S>, Option<End>), End> {
    let Some(socket) = transmission.stream.socket() else { return Ok((transmission, None)) };
    let socket = socket.leave_reactor()?;
    let (alone, outcome) =
        match dedicated::lend(Alone { transmission, phase }, socket, permit).await {
            Ok(returned) => returned,
            // There can be no other thread now.
            Err(Some(alone)) => (alone, None),
            Err(None) => return Err(End::Transport(io::Error::other("its thread failed"))),
        };
    let Alone { mut transmission, .. } = alone;
    transmission.rest();
    if let Some(socket) = transmission.stream.socket() {
        socket.join_reactor()?;
    }
    let reason = outcome.and_then(|outcome| match outcome {
        Outcome::End(reason) => Some(reason),
        Outcome::Busy => None,
    });
    Ok((transmission, reason))
}

/// Closes a connection in the orderly way, if it is still there.
async fn end<S: Stream>(stream: &mut S, reason: End) -> End {
    if !matches!(reason, End::Transport(_) | End::Stalled) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    }
    reason
}

/// How long the orderly end of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Negotiates until it is too late.
async fn in_time<T>(
    deadline: Option<Instant>,
    context: &Context,
    negotiation: impl Future<Output = Result<T, End>>,
) -> Result<T, End> {
    let mut phase = context.phase.clone();
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        negotiated = negotiation => negotiated,
        _ = phase.wait_for(|&phase| phase == Phase::Closing) => Err(End::Stopped),
        () = late => Err(End::HandshakeTimeout),
    }
}
