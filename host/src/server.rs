//! Listening, accepting, and coming to an end.
//!
//! The caller binds ([`Listener`]) and decides when to stop; [`Server::run`] serves until then. A
//! connection costs the others nothing but its share of the machine: each is a task, their number
//! is bounded, and accepting goes on when file descriptors run out.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::connection::{self, Context, End, Phase};
use crate::exports::Exports;
use crate::nbd::HandshakeConfig;

/// How long connections may go on after the server was told to stop. Requests that are in flight
/// are finished in this time, later ones are refused; who is still connected then is cut off.
pub const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How long accepting rests when it fails for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After how long without a sign of life a TCP client is asked for one, how often, and how many times
/// in vain.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// Where clients come from.
#[derive(Debug)]
pub enum Listener {
    /// TCP, over IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix domain socket. Its file is removed when the listener is dropped.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix domain socket that is removed in the end.
#[derive(Debug)]
pub struct SocketFile(pub PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it before did what was to be done.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Options of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is offered in the handshake.
    pub handshake: HandshakeConfig,
    /// How long a client may negotiate; none for as long as it likes.
    pub handshake_timeout: Option<Duration>,
    /// How many connections there may be at once; none for no bound. Further clients wait.
    pub max_connections: Option<usize>,
}

/// A server.
pub struct Server {
    exports: Arc<Exports>,
    options: Options,
}

impl Server {
    /// A server of these exports.
    pub fn new(exports: Arc<Exports>, options: Options) -> Self {
        Self { exports, options }
    }

    /// Serves clients that come from any of the listeners until `stop` is ready; then finishes what
    /// is in flight, for [`DRAIN_TIME`] at most or until `stop_now` is ready, and flushes the disks.
    pub async fn run(
        self,
        listeners: Vec<Listener>,
        stop: impl Future<Output = ()>,
        stop_now: impl Future<Output = ()>,
    ) {
        let (phase, receiver) = watch::channel(Phase::Serving);
        let context = Context {
            exports: self.exports.clone(),
            handshake: self.options.handshake,
            handshake_timeout: self.options.handshake_timeout,
            phase: receiver,
        };
        let permits = self.options.max_connections.unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, context.clone(), permits.clone()));
        }
        stop.await;
        // No accept loop runs a guest: connections are tasks of their own.
        accepting.shutdown().await;
        drop(context);
        let _ = phase.send(Phase::Draining);
        tokio::select! {
            () = phase.closed() => {}
            () = tokio::time::sleep(DRAIN_TIME) => {}
            () = stop_now => {}
        }
        let _ = phase.send(Phase::Closing);
        let _ = tokio::time::timeout(DRAIN_TIME, phase.closed()).await;
        for export in self.exports.iter() {
            export.finish().await;
        }
    }
}

async fn accept(listener: Listener, context: Context, permits: Arc<Semaphore>) {
    let mut failing = false;
    loop {
        // A client for whom there is no permit waits, accepted: a listener that kept a permit for
        // the next client would keep it from those of the other listeners.
        let permit = async || permits.clone().acquire_owned().await.expect("it is never closed");
        let accepted = match &listener {
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = set_options(&stream) {
                        tracing::debug!("client {peer}: socket options: {error}");
                    }
                    let peer = Peer::Tcp(peer.to_string());
                    tokio::spawn(serve(stream, peer, context.clone(), permit().await));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Listener::Unix(listener, _) => match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve(stream, Peer::Unix, context.clone(), permit().await));
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        match accepted {
            Ok(()) => failing = false,
            Err(error) if is_about_one_client(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!("accept: {error}; trying again");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Small replies are not held back. A machine that vanished without a word is found out, or its
/// connections would be taken for ever.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}

/// Errors of accept that say that a client went away before it was accepted.
fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

async fn serve<S>(
    stream: S,
    peer: Peer,
    context: Context,
    permit: tokio::sync::OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The server waits for those who hold it: so long that this is logged before it ends.
    let _phase = context.phase.clone();
    tracing::debug!("client {peer}: connected");
    match connection::serve(stream, context).await {
        end @ (End::Protocol(_) | End::HandshakeTimeout) => tracing::warn!("client {peer}: {end}"),
        end => tracing::debug!("client {peer}: {end}"),
    }
    drop(permit);
}

/// Who is at the other end, for the log.
enum Peer {
    Tcp(String),
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix => f.write_str("(Unix socket)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn listeners_do_not_keep_connections_from_each_other() {
        let directory = tempfile::TempDir::new().unwrap();
        let paths = ["a", "b", "c"].map(|name| directory.path().join(name));
        let listen = |path: &PathBuf| {
            Listener::Unix(UnixListener::bind(path).unwrap(), SocketFile(path.clone()))
        };
        let listeners = paths.iter().map(listen).collect();
        let options = Options {
            handshake: HandshakeConfig::default(),
            handshake_timeout: None,
            max_connections: Some(1),
        };
        let server = Server::new(Arc::new(Exports::default()), options);
        let never = std::future::pending;
        let running = tokio::spawn(server.run(listeners, never(), never()));
        for path in paths.iter().rev().chain(&paths) {
            let mut client = UnixStream::connect(path).await.unwrap();
            let mut greeting = [0; 18];
            let read = client.read_exact(&mut greeting);
            tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
        }
        running.abort();
    }
}
