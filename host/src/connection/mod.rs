//! The connection of one client, from the greeting to its end.
//!
//! [`crate::nbd`] makes the decisions and the device executes commands; this module does the IO and
//! keeps the time. Whatever a client does, its connection ends with an [`End`] and not in a panic,
//! and takes no more memory than the limits here allow.

mod dedicated;
mod entrance;
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

use crate::access::{Origin, TlsIdentity};
use crate::device::Gate;
use crate::exports::Exports;
use crate::nbd::{Handshake, HandshakeConfig, ProtocolError};
use crate::tls::{self, Acceptor};
use crate::transport::Stream;
pub use dedicated::Threads;
use dedicated::{Busy, ThreadPermit};
pub use entrance::{Entrance, Identity};
use haggling::{Agreed, Haggled, negotiate};
pub use in_use::InUse;
pub(crate) use in_use::User;
pub use peers::{ConnectedClient, ObserveClients, Patience, Peers};
use transmission::{Counts, Exit, Transmission};

/// The phases of a server's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not shutting down: clients are served.
    Serving,
    /// Requests in flight are finished; new ones are refused with ESHUTDOWN.
    Draining,
    /// Connections are closed.
    Closing,
}

/// What all connections share, but for the first fields.
#[derive(Clone)]
pub struct Context {
    /// The number of the connection, for the log and for whoever lists connections.
    pub id: u64,
    /// Where the client comes from, for people.
    pub peer: Arc<str>,
    /// Where the client comes from, for the rules of who may use an export.
    pub origin: Origin,
    /// The exports that are served.
    pub exports: Arc<Exports>,
    /// What the handshake offers.
    pub handshake: HandshakeConfig,
    /// Accepts TLS connections. Required if the handshake offers TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// How long a client may negotiate; unlimited if `None`.
    pub handshake_timeout: Option<Duration>,
    /// The server's phase, watched for shutdown.
    pub phase: watch::Receiver<Phase>,
    /// Counts the connections in the transmission phase.
    pub in_use: InUse,
    /// The dedicated threads of busy connections.
    pub threads: Threads,
    /// The registry of connections in the transmission phase.
    pub peers: Peers,
    /// Decides whose exports the client gets, if that is not settled.
    pub entrance: Option<Arc<dyn Entrance>>,
}

impl Context {
    /// Makes the exports those of the client, as far as it is known.
    pub(crate) fn enter(&mut self, tls: Option<&TlsIdentity>) {
        let client = Identity { origin: &self.origin, tls };
        if let Some(exports) = self.entrance.as_ref().and_then(|it| it.exports(&client)) {
            self.exports = exports;
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// The client disconnected, with no request under way.
    Disconnected,
    /// The server is stopping.
    Stopped,
    /// The client violated the protocol.
    Protocol(ProtocolError),
    /// The TLS handshake failed.
    Tls(tls::Failure),
    /// The client took too long to negotiate.
    HandshakeTimeout,
    /// The client stalled in the middle of a request, or did not read its replies, for too long.
    Stalled,
    /// The client was idle for too long.
    Idle,
    /// Whoever controls the server closed the connection.
    ByRequest,
    /// The time limit of the connection is over.
    TimeLimit,
    /// The export was removed.
    Removed,
    /// A read failed after its reply had begun, where the protocol has no room for an error.
    Unanswerable,
    /// The stream failed, or ended in the middle of a message.
    Transport(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("disconnected"),
            Self::Stopped => f.write_str("closed: the server is stopping"),
            Self::Protocol(error) => {
                write!(f, "closed: the client violated the protocol: {error}")
            }
            Self::Tls(failure) => write!(f, "closed: the TLS handshake failed: {failure}"),
            Self::HandshakeTimeout => f.write_str("closed: the handshake timed out"),
            Self::Stalled => f.write_str("closed: the client stalled"),
            Self::Idle => f.write_str("closed: the client was idle for too long"),
            Self::ByRequest => f.write_str("closed by request"),
            Self::TimeLimit => f.write_str("closed: the time limit of the connection is over"),
            Self::Removed => f.write_str("closed: the export was removed"),
            Self::Unanswerable => f.write_str("closed: a read failed after its reply had begun"),
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
        failure.into_transport().map_or_else(Self::Tls, Self::Transport)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Transport(error)
    }
}

/// Serves one client until its connection ends.
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

/// Continues after the reply to STARTTLS.
async fn serve_inside_tls<S: Stream>(
    stream: S,
    mut handshake: Handshake,
    mut deadline: Option<Instant>,
    mut context: Context,
) -> End {
    let Some(acceptor) = context.tls.clone() else {
        return End::Transport(io::ErrorKind::Unsupported.into());
    };
    let accepting = async { acceptor.accept(stream).await.map_err(End::from) };
    let mut stream = match in_time(deadline, &context, accepting).await {
        Ok(stream) => stream,
        Err(reason) => return reason,
    };
    tracing::debug!(connection = context.id, "TLS established: {}", acceptor.describe(&stream));
    context.enter(Some(&acceptor.identity(&stream)));
    handshake.tls_established();
    match negotiate(&mut stream, &mut handshake, Vec::new(), &mut deadline, &context).await {
        Ok(Haggled::Agreed(agreed)) => transmit(stream, agreed, context).await,
        Ok(Haggled::Aborted) => end(&mut stream, End::Disconnected).await,
        // The handshake refuses a second STARTTLS.
        Ok(Haggled::StartTls) => End::Transport(io::ErrorKind::Unsupported.into()),
        Err(reason) => end(&mut stream, reason).await,
    }
}

/// Serves the transmission phase.
async fn transmit<S: Stream>(mut stream: S, agreed: Agreed, context: Context) -> End {
    let Agreed { session, contexts, port, chosen, meter, tap, allowance, rest, .. } = agreed;
    let (_place, time_limit) = (agreed._place, agreed.policy.time_limit);
    let close_delay = agreed.policy.delays.close;
    let Context { mut phase, in_use, threads, peers, peer, id, .. } = context;
    let _user = in_use.enter();
    let to_socket = stream.plaintext_socket().is_some_and(|socket| socket.takes_pages());
    let gate = Gate::new(port, to_socket);
    let peer = peers.enter(id, peer, *chosen);
    let _limit = time_limit.map(|limit| peer.close_after(limit));
    let counts = Counts { meter, tap };
    let transmission = Transmission::new(stream, session, gate, counts, allowance, peer, rest);
    let mut transmission = transmission.with_contexts(contexts);
    let reason = loop {
        let may_be_busy = transmission.stream.socket().is_some();
        if let Exit::End(reason) = transmission.run(&mut phase, may_be_busy).await {
            break reason;
        }
        let Some(permit) = threads.enter() else { continue };
        match lend(transmission, phase.clone(), permit).await {
            Ok((returned, exit)) => {
                transmission = returned;
                if let Some(reason) = exit {
                    break reason;
                }
            }
            Err(reason) => return reason,
        }
    };
    transmission.cancel();
    if matches!(reason, End::Disconnected) && !close_delay.is_zero() {
        let stopping = phase.wait_for(|phase| *phase != Phase::Serving);
        let _ = tokio::time::timeout(close_delay, stopping).await;
    }
    end(&mut transmission.stream, reason).await
}

/// A connection on a dedicated thread.
struct Alone<S> {
    transmission: Transmission<S>,
    phase: watch::Receiver<Phase>,
}

impl<S: Stream> Busy for Alone<S> {
    type Output = Exit;

    fn run(&mut self) -> impl Future<Output = Exit> {
        self.transmission.run(&mut self.phase, false)
    }
}

/// Serves on a dedicated thread until the connection is idle or ends. Returns the reason if it has
/// ended.
async fn lend<S: Stream>(
    mut transmission: Transmission<S>,
    phase: watch::Receiver<Phase>,
    permit: ThreadPermit,
) -> Result<(Transmission<S>, Option<End>), End> {
    let Some(socket) = transmission.stream.socket() else { return Ok((transmission, None)) };
    let socket = socket.leave_reactor()?;
    let (alone, exit) = match dedicated::lend(Alone { transmission, phase }, socket, permit).await {
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
    let reason = exit.and_then(|exit| match exit {
        Exit::End(reason) => Some(reason),
        Exit::Busy => None,
    });
    Ok((transmission, reason))
}

/// Shuts the stream down, unless it is broken.
async fn end<S: Stream>(stream: &mut S, reason: End) -> End {
    if !matches!(reason, End::Transport(_) | End::Stalled | End::ByRequest) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    }
    reason
}

/// How long the shutdown of a stream may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a part of the negotiation until the deadline.
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
