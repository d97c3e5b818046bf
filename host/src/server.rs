//! Listening, accepting, and coming to an end.
//!
//! The caller binds ([`Listener`]) and decides when to stop; [`Server::run`] serves until then. A
//! connection costs the others nothing but its share of the machine: each is a task, their number
//! is bounded, and accepting goes on when file descriptors run out.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_vsock::{VsockAddr, VsockListener};

use crate::client_log;
use crate::connection::{self, Context, End, InUse, Phase};
use crate::connection::{Patience, Peers, Threads};
use crate::exports::Exports;
use crate::last_flush;
pub use crate::last_flush::Unflushed;
use crate::nbd::HandshakeConfig;
pub use crate::owned_file::OwnedFile;
use crate::places::{ExportPlaces, Place, Places};
use crate::tls::Acceptor;
use crate::transport::{self, Stream, StreamSocket};

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
    /// A Unix domain socket, and its file if that is to be removed in the end. The file goes first:
    /// once nobody listens, another server may take its place.
    Unix(Option<Arc<OwnedFile>>, UnixListener),
    /// From virtual machines, and from the machine that this one runs on.
    Vsock(VsockListener),
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
    /// How many connections there may be at once; none for no bound. Further clients wait. Each listener
    /// and each export has a part of them for sure.
    pub max_connections: Option<u64>,
    /// How many connections one export may have of those; none for no bound of its own. Further clients
    /// are refused.
    pub max_connections_per_export: Option<u64>,
    /// How long clients may do nothing.
    pub patience: Patience,
    /// How long the last flush of all disks may take when the server stops.
    pub shutdown_timeout: Duration,
    /// Whether the server stops when nobody uses an export any more, once somebody did.
    pub exit_last: bool,
}

/// A server.
pub struct Server {
    exit_last: bool,
    shutdown_timeout: Duration,
    max_connections: u64,
    patience: Patience,
    phase: watch::Sender<Phase>,
    context: Context,
}

impl Server {
    /// A server of these exports.
    pub fn new(exports: Arc<Exports>, options: Options) -> Self {
        let Options { handshake, tls, handshake_timeout, patience, .. } = options;
        let Options { shutdown_timeout, exit_last, .. } = options;
        let max_connections = options.max_connections.unwrap_or(u64::MAX);
        let per_export = options.max_connections_per_export.unwrap_or(u64::MAX);
        let names = exports.iter().map(|export| export.name());
        let places = ExportPlaces::divide(max_connections, per_export, names);
        let (phase, receiver) = watch::channel(Phase::Serving);
        let context = Context {
            exports,
            handshake,
            tls,
            handshake_timeout,
            phase: receiver,
            in_use: InUse::default(),
            threads: Threads::default(),
            peers: Peers::default(),
            places,
        };
        Self { exit_last, shutdown_timeout, max_connections, patience, phase, context }
    }

    /// Serves clients that come from any of the listeners until `stop` is ready; then finishes what
    /// is in flight, for [`DRAIN_TIME`] at most, and flushes the disks.
    ///
    /// # Errors
    ///
    /// When the disks were not all flushed in time.
    pub async fn run(
        self,
        listeners: Vec<Listener>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Unflushed> {
        let mut accepting = JoinSet::new();
        let places = Places::divide(self.max_connections, u64::MAX, listeners.len());
        for (Listener { socket, exports }, places) in listeners.into_iter().zip(places) {
            let mut context = self.context.clone();
            if let Some(exports) = exports {
                context.exports = exports;
            }
            accepting.spawn(accept(socket, context, places));
        }
        self.watch_peers(&mut accepting);
        tokio::select! {
            () = stop => {}
            () = self.context.in_use.ends(), if self.exit_last => {}
        }
        self.finish(accepting).await
    }

    /// Serves one client, until it is gone or `stop` is ready; then ends as [`Self::run`].
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub async fn run_single<S>(
        self,
        stream: S,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Unflushed>
    where
        S: Stream,
    {
        let mut watching = JoinSet::new();
        self.watch_peers(&mut watching);
        let client = tokio::spawn(serve(stream, Peer::Stdio, self.context.clone(), None));
        tokio::select! {
            () = stop => {}
            // It does not panic, but if it did it would be over.
            _ = client => {}
        }
        self.finish(watching).await
    }

    fn watch_peers(&self, tasks: &mut JoinSet<()>) {
        let (peers, patience) = (self.context.peers.clone(), self.patience);
        tasks.spawn(async move { peers.watch(patience).await });
    }

    async fn finish(self, mut accepting: JoinSet<()>) -> Result<(), Unflushed> {
        let Self { phase, context, shutdown_timeout, .. } = self;
        let exports = context.exports.clone();
        drop(context);
        // Whoever sees that the sockets are gone is told why.
        let _ = phase.send(Phase::Draining);
        let drained = async {
            accepting.shutdown().await;
            phase.closed().await;
        };
        tokio::select! {
            () = drained => {}
            () = last_flush::after(DRAIN_TIME) => {}
        }
        let _ = phase.send(Phase::Closing);
        tokio::select! {
            () = phase.closed() => {}
            () = last_flush::after(DRAIN_TIME) => {}
        }
        client_log::report_suppressed();
        last_flush::flush(&exports, shutdown_timeout).await
    }
}

async fn accept(socket: Socket, context: Context, places: Places) {
    let mut failing = false;
    loop {
        match accept_one(&socket).await {
            Ok((stream, peer)) => {
                failing = false;
                // A client for whom there is no place waits, accepted: a listener that kept a place
                // for the next client would keep it from those of the other listeners.
                let place = places.enter().await;
                tokio::spawn(serve(stream, peer, context.clone(), Some(place)));
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
            let options = transport::set_options(&stream);
            (Box::new(StreamSocket::from(stream)), Peer::Tcp(peer), options)
        }
        Socket::Unix(_, listener) => {
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

async fn serve<S: Stream>(stream: S, peer: Peer, context: Context, place: Option<Place>) {
    // The server waits for those who hold it: so long that this is logged before it ends.
    let _phase = context.phase.clone();
    tracing::debug!("client {peer}: connected");
    match connection::serve(stream, context).await {
        end @ (End::Protocol(_)
        | End::Tls(_)
        | End::HandshakeTimeout
        | End::Stalled
        | End::Unanswerable) => {
            client_log::warn(format_args!("client {peer}: {end}"));
        }
        end => tracing::debug!("client {peer}: {end}"),
    }
    drop(place);
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
        let listen = |path: &std::path::PathBuf| Listener {
            socket: Socket::Unix(None, UnixListener::bind(path).unwrap()),
            exports: None,
        };
        let listeners = paths.iter().map(listen).collect();
        let options = Options {
            handshake: HandshakeConfig::default(),
            tls: None,
            handshake_timeout: None,
            max_connections: Some(1),
            max_connections_per_export: None,
            patience: Patience::default(),
            shutdown_timeout: Duration::ZERO,
            exit_last: false,
        };
        let server = Server::new(Arc::new(Exports::default()), options);
        let never = std::future::pending;
        let running = tokio::spawn(server.run(listeners, never()));
        for path in paths.iter().rev().chain(&paths) {
            let mut client = UnixStream::connect(path).await.unwrap();
            let mut greeting = [0; 18];
            let read = client.read_exact(&mut greeting);
            tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
        }
        running.abort();
    }
}
