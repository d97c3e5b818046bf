//! Listening, accepting, and coming to an end.
//!
//! The caller binds ([`Listener`]) and decides when to stop; [`Server::run`] serves until then. A
//! connection costs the others nothing but its share of the machine: each is a task, their number
//! is bounded, and accepting goes on when file descriptors run out.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tempfile::TempDir;
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_vsock::{VsockAddr, VsockListener};

use crate::client_log;
use crate::connection::{self, Context, End, InUse, Phase, Stream, StreamSocket, Threads};
use crate::exports::Exports;
use crate::nbd::HandshakeConfig;
use crate::tcp;
use crate::tls::Acceptor;

/// How long connections may go on after the server was told to stop. Requests that are in flight
/// are finished in this time, later ones are refused; who is still connected then is cut off.
pub const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How long accepting rests when it fails for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the kernel keeps for a client of a Unix socket that does not read, in bytes: it gives twice as
/// much as is asked for, or as the system allows, which may be less. With its own 208 KiB it
/// interrupts a large read several times. TCP finds out by itself.
const UNIX_SEND_BUFFER: usize = 416 << 10;

/// Where clients come from, and what there is for them.
#[derive(Debug)]
pub struct Listener {
    /// Where they come from.
    pub socket: Socket,
    /// What there is for them, if not all that the server has.
    pub exports: Option<Arc<Exports>>,
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP, over IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix domain socket. If its file is there, too, it is removed when the socket is dropped.
    Unix(UnixListener, Option<SocketFile>),
    /// From virtual machines, and from the machine that this one runs on.
    Vsock(VsockListener),
}

/// The file of a Unix domain socket that is removed in the end.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Dropped after the file was removed.
    _directory: Option<TempDir>,
}

impl SocketFile {
    /// A file by itself.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), _directory: None }
    }

    /// A file whose directory is removed with it.
    pub fn within(directory: TempDir, path: &Path) -> Self {
        Self { path: path.to_owned(), _directory: Some(directory) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it before did what was to be done.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Options of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is offered in the handshake.
    pub handshake: HandshakeConfig,
    /// Starts TLS with clients. There is one if the handshake offers TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// How long a client may negotiate; none for as long as it likes.
    pub handshake_timeout: Option<Duration>,
    /// How many connections there may be at once; none for no bound. Further clients wait.
    pub max_connections: Option<usize>,
    /// Whether the server stops when nobody uses an export any more, once somebody did.
    pub exit_last: bool,
}

/// A server.
pub struct Server {
    exit_last: bool,
    permits: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
    context: Context,
}

impl Server {
    /// A server of these exports.
    pub fn new(exports: Arc<Exports>, options: Options) -> Self {
        let Options { handshake, tls, handshake_timeout, max_connections, exit_last } = options;
        let (phase, receiver) = watch::channel(Phase::Serving);
        let context = Context {
            exports,
            handshake,
            tls,
            handshake_timeout,
            phase: receiver,
            in_use: InUse::default(),
            threads: Threads::default(),
        };
        let permits = max_connections.unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { exit_last, permits, phase, context }
    }

    /// Serves clients that come from any of the listeners until `stop` is ready; then finishes what
    /// is in flight, for [`DRAIN_TIME`] at most or until `stop_now` is ready, and flushes the disks.
    pub async fn run(
        self,
        listeners: Vec<Listener>,
        stop: impl Future<Output = ()>,
        stop_now: impl Future<Output = ()>,
    ) {
        let mut accepting = JoinSet::new();
        for Listener { socket, exports } in listeners {
            let mut context = self.context.clone();
            if let Some(exports) = exports {
                context.exports = exports;
            }
            accepting.spawn(accept(socket, context, self.permits.clone()));
        }
        tokio::select! {
            () = stop => {}
            () = self.context.in_use.ends(), if self.exit_last => {}
        }
        self.finish(accepting, stop_now).await;
    }

    /// Serves one client, until it is gone or `stop` is ready; then ends as [`Self::run`].
    pub async fn run_single<S>(
        self,
        stream: S,
        stop: impl Future<Output = ()>,
        stop_now: impl Future<Output = ()>,
    ) where
        S: Stream,
    {
        let client = tokio::spawn(serve(stream, Peer::Stdio, self.context.clone(), None));
        tokio::select! {
            () = stop => {}
            // It does not panic, but if it did it would be over.
            _ = client => {}
        }
        self.finish(JoinSet::new(), stop_now).await;
    }

    async fn finish(self, mut accepting: JoinSet<()>, stop_now: impl Future<Output = ()>) {
        let Self { phase, context, .. } = self;
        let exports = context.exports.clone();
        drop(context);
        // Whoever sees that the sockets are gone is told why.
        let _ = phase.send(Phase::Draining);
        // No accept loop runs a guest: connections are tasks of their own.
        accepting.shutdown().await;
        tokio::select! {
            () = phase.closed() => {}
            () = tokio::time::sleep(DRAIN_TIME) => {}
            () = stop_now => {}
        }
        let _ = phase.send(Phase::Closing);
        let _ = tokio::time::timeout(DRAIN_TIME, phase.closed()).await;
        client_log::report_suppressed();
        for export in exports.iter() {
            export.finish().await;
        }
    }
}

async fn accept(socket: Socket, context: Context, permits: Arc<Semaphore>) {
    let mut failing = false;
    loop {
        match accept_one(&socket).await {
            Ok((stream, peer)) => {
                failing = false;
                // A client for whom there is no permit waits, accepted: a listener that kept a
                // permit for the next client would keep it from those of the other listeners.
                let permit = permits.clone().acquire_owned().await.expect("it is never closed");
                tokio::spawn(serve(stream, peer, context.clone(), Some(permit)));
            }
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

async fn accept_one(socket: &Socket) -> io::Result<(Box<dyn Stream>, Peer)> {
    let (stream, peer, options): (Box<dyn Stream>, _, _) = match socket {
        Socket::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            let options = tcp::set_options(&stream);
            (Box::new(StreamSocket::from(stream)), Peer::Tcp(peer), options)
        }
        Socket::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            let peer = Peer::Unix(stream.peer_cred().ok());
            let options = sockopt::set_socket_send_buffer_size(&stream, UNIX_SEND_BUFFER);
            (Box::new(StreamSocket::from(stream)), peer, options.map_err(io::Error::from))
        }
        Socket::Vsock(listener) => {
            let (stream, peer) = poll_fn(|cx| listener.poll_accept(cx)).await?;
            (Box::new(stream), Peer::Vsock(peer), Ok(()))
        }
    };
    if let Err(error) = options {
        tracing::debug!("client {peer}: socket options: {error}");
    }
    Ok((stream, peer))
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

async fn serve<S: Stream>(
    stream: S,
    peer: Peer,
    context: Context,
    permit: Option<OwnedSemaphorePermit>,
) {
    // The server waits for those who hold it: so long that this is logged before it ends.
    let _phase = context.phase.clone();
    tracing::debug!("client {peer}: connected");
    match connection::serve(stream, context).await {
        end @ (End::Protocol(_) | End::Tls(_) | End::HandshakeTimeout) => {
            client_log::warn(format_args!("client {peer}: {end}"));
        }
        end => tracing::debug!("client {peer}: {end}"),
    }
    drop(permit);
}

/// Who is at the other end, for the log.
enum Peer {
    Tcp(SocketAddr),
    Unix(Option<UCred>),
    Vsock(VsockAddr),
    Stdio,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(process)) => {
                write!(f, "(Unix socket, user {}", process.uid())?;
                match process.pid() {
                    Some(pid) => write!(f, ", process {pid})"),
                    None => f.write_str(")"),
                }
            }
            Self::Unix(None) => f.write_str("(Unix socket)"),
            Self::Vsock(address) => write!(f, "{address} (vsock)"),
            Self::Stdio => f.write_str("(stdin)"),
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
        let listen = |path: &PathBuf| Listener {
            socket: Socket::Unix(UnixListener::bind(path).unwrap(), Some(SocketFile::new(path))),
            exports: None,
        };
        let listeners = paths.iter().map(listen).collect();
        let options = Options {
            handshake: HandshakeConfig::default(),
            tls: None,
            handshake_timeout: None,
            max_connections: Some(1),
            exit_last: false,
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
