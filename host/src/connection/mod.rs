//! One client, from its greeting to its end: the IO of the protocol.
//!
//! The decisions are [`crate::nbd`]'s, the work is the disk's; here bytes are moved and time is
//! kept. Whatever a client does ends in an [`End`], never in a panic, and in no more memory than
//! the limits here allow.

mod dedicated;
mod in_use;
mod output;
mod peers;
mod socket;
#[cfg(test)]
mod tests;
mod transmission;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::disk::{Access, Disk, OpenError};
use crate::exports::{Export, Exports};
use crate::nbd::{
    self, Event, ExportInfo, ExportSummary, Handshake, HandshakeConfig, ProtocolError, Purpose,
    Session,
};
use crate::places::{ExportPlaces, Full, Place as ExportPlace};
use crate::tls::{self, Acceptor};
pub use dedicated::Threads;
use dedicated::{Busy, Place};
pub use in_use::InUse;
pub use peers::{Patience, Peers};
pub use socket::{Stream, StreamSocket};
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
    let deadline = context.handshake_timeout.map(|timeout| Instant::now() + timeout);
    let mut handshake = Handshake::new(context.handshake);
    let greeting = handshake.greeting();
    let haggling = haggle(&mut stream, &mut handshake, &greeting, &context);
    match in_time(deadline, &context, haggling).await {
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
    deadline: Option<Instant>,
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
    let haggling = haggle(&mut stream, &mut handshake, b"", &context);
    match in_time(deadline, &context, haggling).await {
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
    let access = Access::new(disk);
    let mut transmission = Transmission::new(stream, session, access, peers.enter(), rest);
    let reason = loop {
        let may_be_busy = transmission.stream.socket().is_some();
        if let Outcome::End(reason) = transmission.run(&mut phase, may_be_busy).await {
            break reason;
        }
        let Some(place) = threads.enter() else { continue };
        match lend(transmission, phase.clone(), place).await {
            Ok((returned, outcome)) => {
                transmission = returned;
                if let Some(reason) = outcome {
                    break reason;
                }
            }
            Err(reason) => return reason,
        }
    };
    transmission.abandon();
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
    place: Place,
) -> Result<(Transmission<S>, Option<End>), End> {
    let Some(socket) = transmission.stream.socket() else { return Ok((transmission, None)) };
    let socket = socket.watch_alone()?;
    let (alone, outcome) = match dedicated::lend(Alone { transmission, phase }, socket, place).await
    {
        Ok(returned) => returned,
        // There can be no other thread now.
        Err(Some(alone)) => (alone, None),
        Err(None) => return Err(End::Transport(io::Error::other("its thread failed"))),
    };
    let Alone { mut transmission, .. } = alone;
    transmission.rest();
    if let Some(socket) = transmission.stream.socket() {
        socket.watch_together()?;
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

/// What haggling came to.
enum Haggled {
    Agreed(Agreed),
    /// The client was told that TLS starts.
    StartTls,
    /// The client wants no more.
    Aborted,
}

/// What transmission begins with.
struct Agreed {
    session: Session,
    disk: Arc<Disk>,
    _place: Option<ExportPlace>,
    /// What came along with the last option: requests.
    rest: Vec<u8>,
}

/// Haggles about options, once `first` was sent.
async fn haggle<S: Stream>(
    stream: &mut S,
    handshake: &mut Handshake,
    first: &[u8],
    context: &Context,
) -> Result<Haggled, End> {
    let mut input = Vec::with_capacity(512);
    let mut output = first.to_vec();
    loop {
        if *context.phase.borrow() != Phase::Serving {
            handshake.shutting_down();
        }
        let (taken, event) = match handshake.advance(&input, &mut output) {
            Ok(advanced) => advanced,
            Err(error) => {
                // What was answered before still goes out.
                stream.write_all(&output).await?;
                return Err(error.into());
            }
        };
        input.drain(..taken);
        if !output.is_empty() {
            // After every event: however many options came at once, their replies do not pile up.
            stream.write_all(&output).await?;
            stream.flush().await?;
            output.clear();
        }
        match event {
            Event::NeedInput => {
                if stream.read_buf(&mut input).await? == 0 {
                    return match input.is_empty() {
                        true => Ok(Haggled::Aborted),
                        false => Err(End::Transport(io::ErrorKind::UnexpectedEof.into())),
                    };
                }
            }
            Event::List => list(&context.exports, handshake, &mut output),
            Event::Open { name, purpose } => {
                let opened = open(context, &name, purpose).await;
                let info = match &opened {
                    Ok((export, disk, _)) => Ok(ExportInfo {
                        name: export.name(),
                        description: export.description(),
                        geometry: disk.geometry(),
                    }),
                    Err(None) => Err(nbd::OpenError::Unknown),
                    Err(Some(error)) => Err(nbd::OpenError::Failed { text: error }),
                };
                let session =
                    handshake.opened(info.as_ref().map_err(|error| *error), &mut output)?;
                if let (Some(session), Ok((export, disk, place))) = (session, opened) {
                    let style = session.style();
                    tracing::debug!("export {:?}: served with {style} replies", export.name());
                    stream.write_all(&output).await?;
                    stream.flush().await?;
                    let agreed = Agreed { session, disk, _place: place, rest: input };
                    return Ok(Haggled::Agreed(agreed));
                }
            }
            // Nothing came after it, the handshake has seen to that.
            Event::StartTls => return Ok(Haggled::StartTls),
            Event::Abort => return Ok(Haggled::Aborted),
        }
    }
}

fn list(exports: &Exports, handshake: &mut Handshake, output: &mut Vec<u8>) {
    let summaries: Vec<ExportSummary<'_>> = exports
        .iter()
        .map(|export| ExportSummary { name: export.name(), description: export.description() })
        .collect();
    handshake.listed(&summaries, output);
}

/// An export whose disk is open, and the place of a client that is going to use it.
type Opened<'a> = (&'a Arc<Export>, Arc<Disk>, Option<ExportPlace>);

/// Finds an export and opens its disk. The error is none for an export that there is not, else why it
/// cannot be had.
async fn open<'a>(
    context: &'a Context,
    name: &str,
    purpose: Purpose,
) -> Result<Opened<'a>, Option<String>> {
    let export = context.exports.find(name).ok_or(None)?;
    let place = match purpose {
        Purpose::Transmission => context.places.try_enter(export.name()).map_err(|Full| {
            Some("the export has as many connections as it may have; try again later".to_owned())
        })?,
        Purpose::Info | Purpose::Contexts => None,
    };
    match export.disk().await {
        Ok(disk) => Ok((export, disk, place)),
        Err(OpenError::Refused(text)) => {
            tracing::error!("export {name:?}: the component does not open it: {text}");
            Err(Some(text))
        }
        Err(fault @ (OpenError::Fault(_) | OpenError::Threads(_))) => {
            tracing::error!("export {name:?}: {fault}");
            Err(Some("the component failed; the server's log says why".into()))
        }
    }
}
