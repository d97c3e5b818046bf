//! One client, from its greeting to its end: the IO of the protocol.
//!
//! The decisions are [`crate::nbd`]'s, the work is the disk's; here bytes are moved and time is
//! kept. Whatever a client does ends in an [`End`], never in a panic, and in no more memory than
//! the limits here allow.

mod in_use;
mod output;
#[cfg(test)]
mod tests;
mod transmission;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::disk::{Access, Disk, OpenError};
use crate::exports::{Export, Exports};
use crate::nbd::{
    self, Event, ExportInfo, ExportSummary, Handshake, HandshakeConfig, ProtocolError, Session,
};
pub use in_use::InUse;
use transmission::Transmission;

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
    /// How long a client may negotiate; none for as long as it likes.
    pub handshake_timeout: Option<Duration>,
    /// Tells when to stop.
    pub phase: watch::Receiver<Phase>,
    /// Counts those that use an export.
    pub in_use: InUse,
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
    /// The client took too long to negotiate.
    HandshakeTimeout,
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
            Self::HandshakeTimeout => f.write_str("closed, for negotiation took too long"),
            Self::Transport(error) => write!(f, "lost: {error}"),
        }
    }
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Transport(error)
    }
}

/// Serves one client to its end.
pub async fn serve<S>(mut stream: S, mut context: Context) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut phase = context.phase.clone();
    let negotiated = {
        let negotiation = negotiate(&mut stream, &mut context);
        let closing = phase.wait_for(|&phase| phase == Phase::Closing);
        tokio::select! {
            negotiated = negotiation => negotiated,
            _ = closing => Err(End::Stopped),
        }
    };
    let (session, disk, rest) = match negotiated {
        Ok(Some(negotiated)) => negotiated,
        Ok(None) => {
            let _ = stream.shutdown().await;
            return End::Disconnected;
        }
        Err(end) => {
            let _ = stream.shutdown().await;
            return end;
        }
    };
    let _user = context.in_use.enter();
    let access = Access::new(disk);
    let mut transmission = Transmission::new(&mut stream, session, access, rest);
    let end = transmission.run(context.phase).await;
    drop(transmission);
    if !matches!(end, End::Transport(_)) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    }
    end
}

/// How long the orderly end of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Haggles about options. What comes is the session, its disk, and the bytes of requests that came
/// along with the last option; or nothing when the client aborted.
async fn negotiate<S>(
    stream: &mut S,
    context: &mut Context,
) -> Result<Option<(Session, Arc<Disk>, Vec<u8>)>, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let timeout = context.handshake_timeout;
    let haggling = haggle(stream, context);
    match timeout {
        None => haggling.await,
        Some(timeout) => {
            tokio::time::timeout(timeout, haggling).await.unwrap_or(Err(End::HandshakeTimeout))
        }
    }
}

async fn haggle<S>(
    stream: &mut S,
    context: &mut Context,
) -> Result<Option<(Session, Arc<Disk>, Vec<u8>)>, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut handshake = Handshake::new(context.handshake);
    let mut input = Vec::with_capacity(512);
    let mut output = handshake.greeting().to_vec();
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
                        true => Ok(None),
                        false => Err(End::Transport(io::ErrorKind::UnexpectedEof.into())),
                    };
                }
            }
            Event::List => list(&context.exports, &mut handshake, &mut output),
            Event::Open { name, .. } => {
                let opened = open(&context.exports, &name).await;
                let info = match &opened {
                    Ok((export, disk)) => Ok(ExportInfo {
                        name: export.name(),
                        description: export.description(),
                        geometry: disk.geometry(),
                    }),
                    Err(None) => Err(nbd::OpenError::Unknown),
                    Err(Some(error)) => Err(nbd::OpenError::Failed { text: error }),
                };
                let session =
                    handshake.opened(info.as_ref().map_err(|error| *error), &mut output)?;
                if let (Some(session), Ok((export, disk))) = (session, opened) {
                    let style = session.style();
                    tracing::debug!("export {:?}: served with {style} replies", export.name());
                    stream.write_all(&output).await?;
                    stream.flush().await?;
                    return Ok(Some((session, disk, input)));
                }
            }
            // The handshake refuses STARTTLS as long as it is configured without TLS.
            Event::StartTls => return Err(End::Transport(io::ErrorKind::Unsupported.into())),
            Event::Abort => return Ok(None),
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

/// Finds an export and opens its disk. The error is none for an export that there is not, else why it
/// cannot be opened.
async fn open<'a>(
    exports: &'a Exports,
    name: &str,
) -> Result<(&'a Arc<Export>, Arc<Disk>), Option<String>> {
    let export = exports.find(name).ok_or(None)?;
    match export.disk().await {
        Ok(disk) => Ok((export, disk)),
        Err(OpenError::Refused(text)) => {
            tracing::error!("export {name:?}: the component does not open it: {text}");
            Err(Some(text))
        }
        Err(OpenError::Fault(fault)) => {
            tracing::error!("export {name:?}: {fault}");
            Err(Some("the component failed; the server's log says why".into()))
        }
    }
}
