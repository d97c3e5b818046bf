//! The server: accepting connections, and shutting down.
//!
//! The caller binds the sockets ([`Listener`]) and decides when to stop; [`Server::run`] serves
//! until then. A connection costs the others nothing but its share of the machine: each is a task,
//! the number of connections is bounded, and accepting continues after file descriptors run out.

mod endpoint;
mod given;
mod handle;
mod listener;
mod namespaces;
mod peer;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::Origin;
use crate::client_log;
use crate::connection::{self, Context, End, Entrance, InUse, Phase, User};
use crate::connection::{Patience, Peers, Threads};
use crate::exports::Exports;
use crate::last_flush;
pub use crate::last_flush::Unflushed;
use crate::nbd::HandshakeConfig;
pub use crate::owned_file::OwnedFile;
use crate::places::{ExportPlaces, Place, Places};
use crate::tls::Acceptor;
use crate::transport::Stream;
pub use endpoint::{Endpoint, UriTls};
pub use given::{NotReserved, Reserved};
pub use handle::Handle;
use handle::{Controlled, Wish};
use listener::Acceptance;
pub use listener::{Listener, Listening, NotListening, Socket};
use namespaces::Namespaces;
pub use namespaces::{DuplicateNamespace, Namespace};
use peer::Peer;

/// How long connections may continue after the server is asked to stop. Requests in flight may
/// finish in this time, and new ones are refused; connections that remain afterwards are closed.
pub const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Options of a server.
#[derive(Clone)]
pub struct Options {
    /// The features offered in the handshake.
    pub handshake: HandshakeConfig,
    /// Accepts TLS connections. Must be present if the handshake offers TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// The time limit of the handshake, or `None` for no limit.
    pub handshake_timeout: Option<Duration>,
    /// The maximum number of concurrent connections, or `None` for no limit. Further clients wait.
    /// A share of the connections is guaranteed to each listener and each export.
    pub max_connections: Option<u64>,
    /// The maximum number of these connections for each export, or `None` for no separate limit.
    /// Further clients are refused.
    pub max_connections_per_export: Option<u64>,
    /// How long clients may be inactive.
    pub patience: Patience,
    /// The time limit of the last flush of all disks when the server stops.
    pub shutdown_timeout: Duration,
    /// Whether the server stops when the last client that used an export is gone.
    pub exit_last: bool,
    /// Decides whose exports clients get; if there is none, all get the same.
    pub entrance: Option<Arc<dyn Entrance>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}

/// A server.
pub struct Server {
    exit_last: bool,
    shutdown_timeout: Duration,
    max_connections: u64,
    patience: Patience,
    phase: watch::Sender<Phase>,
    context: Context,
    namespaces: Namespaces,
    entrance: Option<Arc<dyn Entrance>>,
    handle: Handle,
    controlled: Controlled,
}

impl Server {
    /// Creates a server of these exports.
    pub fn new(exports: Arc<Exports>, options: Options) -> Self {
        let Options { handshake, tls, handshake_timeout, patience, .. } = options;
        let Options { shutdown_timeout, exit_last, .. } = options;
        let max_connections = options.max_connections.unwrap_or(u64::MAX);
        let per_export = options.max_connections_per_export.unwrap_or(u64::MAX);
        let names = exports.list().into_iter().map(|export| export.name().to_owned());
        exports.set_places(ExportPlaces::divide(max_connections, per_export, names));
        let namespaces = Namespaces::new(exports.clone());
        let (phase, receiver) = watch::channel(Phase::Serving);
        let peers = Peers::default();
        let (handle, controlled) = Handle::new(exports.clone(), namespaces.clone(), peers.clone());
        let context = Context {
            id: 0,
            peer: "".into(),
            origin: Origin::Unknown,
            exports,
            handshake,
            tls,
            handshake_timeout,
            phase: receiver,
            in_use: InUse::default(),
            threads: Threads::default(),
            peers,
            entrance: None,
        };
        Self {
            exit_last,
            shutdown_timeout,
            max_connections,
            patience,
            phase,
            context,
            namespaces,
            entrance: options.entrance,
            handle,
            controlled,
        }
    }

    /// Returns a handle to control the server while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves the clients of all listeners until `stop` completes, a handle stops the server, or it
    /// stops by itself ([`Options::exit_last`]). Then finishes the requests in flight, for at most [`DRAIN_TIME`],
    /// and flushes the disks.
    ///
    /// # Errors
    ///
    /// Returns an error if a disk could not be flushed, or not in time.
    pub async fn run(
        mut self,
        listeners: Vec<Listener>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Unflushed> {
        let mut accepting = JoinSet::new();
        // Those that are still in the handshake as well.
        let connected = InUse::default();
        let (places, rest) = Places::divide(self.max_connections, listeners.len().max(1));
        self.serve_given(&mut accepting, places[0].clone(), &connected);
        let acceptance = Acceptance {
            context: self.context.clone(),
            entrance: self.entrance.clone(),
            connected: connected.clone(),
        };
        for (listener, places) in listeners.into_iter().zip(places) {
            accepting.spawn(listener.accept(acceptance.clone(), places));
        }
        if let Some(added) = self.controlled.take_added() {
            accepting.spawn(listener::accept_added(added, acceptance, rest));
        }
        let mut stop = pin!(stop);
        let retires = tokio::select! {
            () = &mut stop => false,
            () = self.context.peers.watch(self.patience) => false,
            end = self.controlled.asked() => end == Wish::Retire,
            () = self.context.in_use.ends(), if self.exit_last => false,
        };
        if retires {
            accepting.shutdown().await;
            tokio::select! {
                () = stop => {}
                () = self.context.peers.watch(self.patience) => {}
                () = self.controlled.asked_to_stop() => {}
                () = connected.none() => {}
            }
        }
        self.finish(accepting).await
    }

    /// Serves one client until it is gone or `stop` completes; then shuts down like [`Self::run`].
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions as [`Self::run`].
    pub async fn run_single<S>(
        mut self,
        stream: S,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Unflushed>
    where
        S: Stream,
    {
        let mut context = self.context.clone();
        (context.peer, context.origin) = (Peer::Stdio.to_string().into(), Peer::Stdio.origin());
        let client = tokio::spawn(serve(stream, Peer::Stdio, context, None));
        drop(self.controlled.take_added());
        let mut accepting = JoinSet::new();
        let (places, _) = Places::divide(self.max_connections, 1);
        self.serve_given(&mut accepting, places[0].clone(), &InUse::default());
        tokio::select! {
            () = stop => {}
            () = self.context.peers.watch(self.patience) => {}
            () = self.controlled.asked_to_stop() => {}
            // The task is not expected to panic; if it does, the client is gone as well.
            _ = client => {}
        }
        self.finish(accepting).await
    }

    /// Spawns a task that serves the streams that the embedder gives ([`Handle::reserve`]). They compete
    /// for these places.
    fn serve_given(&mut self, tasks: &mut JoinSet<()>, places: Places, connected: &InUse) {
        if let Some(given) = self.controlled.take_given() {
            tasks.spawn(given::serve_all(given, self.context.clone(), places, connected.clone()));
        }
    }

    async fn finish(self, mut accepting: JoinSet<()>) -> Result<(), Unflushed> {
        let Self { phase, context, namespaces, shutdown_timeout, .. } = self;
        let _until_ended = self.controlled;
        drop(context);
        // Before the listening sockets are closed, so that a client that finds them gone is told
        // why.
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
        let exports = namespaces.all_exports();
        if tracing::enabled!(tracing::Level::DEBUG) {
            for export in &exports {
                tracing::debug!("export {:?}: {}", export.name(), export.account().totals());
            }
        }
        last_flush::flush(exports, shutdown_timeout).await
    }
}

/// What is held for a connection while it lasts: its place, and its part of the count.
type Held = (Place, User);

async fn serve<S: Stream>(stream: S, peer: Peer, context: Context, held: Option<Held>) {
    // The server waits until all receivers are dropped, so everything below is logged before it
    // ends.
    let _phase = context.phase.clone();
    let id = context.peers.number();
    tracing::debug!(connection = id, "client {peer}: connected");
    let context = Context { id, ..context };
    match connection::serve(stream, context).await {
        end @ (End::Protocol(_)
        | End::Tls(_)
        | End::HandshakeTimeout
        | End::Stalled
        | End::Unanswerable) => {
            client_log::warn(Some(id), format_args!("client {peer}: {end}"));
        }
        end => tracing::debug!(connection = id, "client {peer}: {end}"),
    }
    drop(held);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{UnixListener, UnixStream};

    pub(super) fn options() -> Options {
        Options {
            handshake: HandshakeConfig::default(),
            tls: None,
            handshake_timeout: None,
            max_connections: Some(1),
            max_connections_per_export: None,
            patience: Patience::default(),
            shutdown_timeout: Duration::ZERO,
            exit_last: false,
            entrance: None,
        }
    }

    #[tokio::test]
    async fn a_handle_stops_the_server_and_tells_when_it_has_stopped() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let socket = Socket::Unix(None, UnixListener::bind(&path).unwrap());
        let server = Server::new(Arc::new(Exports::default()), options());
        let handle = server.handle();
        let listeners = vec![Listener::new(socket, None)];
        let running = tokio::spawn(server.run(listeners, std::future::pending()));
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.read_exact(&mut [0; 18]).await.unwrap();
        assert!(handle.exports().is_empty());
        let moment = Duration::from_millis(20);
        assert!(tokio::time::timeout(moment, handle.stopped()).await.is_err(), "it runs");
        handle.clone().stop();
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, handle.stopped()).await.expect("it stops");
        assert_eq!(running.await.unwrap(), Ok(()));
        assert!(UnixStream::connect(&path).await.is_err(), "nobody listens");
        handle.stop();
    }

    #[tokio::test]
    async fn listeners_do_not_keep_connections_from_each_other() {
        let directory = tempfile::TempDir::new().unwrap();
        let paths = ["a", "b", "c"].map(|name| directory.path().join(name));
        let listen =
            |path| Listener::new(Socket::Unix(None, UnixListener::bind(path).unwrap()), None);
        let listeners = paths.iter().map(listen).collect();
        let server = Server::new(Arc::new(Exports::default()), options());
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
