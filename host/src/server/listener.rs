//! Listening sockets: those with which a server starts, and those that come and go while it runs.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
#[cfg(feature = "vsock")]
use tokio_vsock::VsockListener;

use super::peer::Peer;
use super::serve;
use crate::client_log;
use crate::connection::{Context, Entrance, InUse};
use crate::exports::Exports;
use crate::owned_file::OwnedFile;
use crate::places::{Places, Rest};
use crate::transport::{self, Stream, StreamSocket};

/// How many sockets may wait to be served by a server that has not started.
pub(super) const MAX_ADDED: usize = 4096;

/// The pause after accepting fails for lack of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The size of the send buffer to request for a Unix socket, in bytes. The kernel grants twice the
/// requested size, or twice the system's limit, which may be less. With the default of 208 KiB, a
/// large read is interrupted several times. TCP tunes its buffers by itself.
const UNIX_SEND_BUFFER: usize = 416 << 10;

/// A listening socket, and the exports that it serves.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    exports: Option<Arc<Exports>>,
    end: Option<End>,
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP, over IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix domain socket, and its file if that is to be removed in the end. The file is dropped
    /// first: once nobody listens, another server may take its place.
    Unix(Option<Arc<OwnedFile>>, UnixListener),
    /// vsock, for virtual machines and for the machine that this one runs on.
    #[cfg(feature = "vsock")]
    Vsock(VsockListener),
}

impl Socket {
    /// Listens on a Unix domain socket in a new directory that only this user can enter, and that is
    /// removed with the socket. Returns its path as well.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory or the socket cannot be created.
    pub fn private() -> io::Result<(Self, PathBuf)> {
        let only_us = Permissions::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        let directory = builder.prefix("memnbd-").permissions(only_us).tempdir()?;
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let file = OwnedFile::within(Some(directory), &path)?;
        Ok((Self::Unix(Some(file), listener), path))
    }
}

/// What ends a listener, and says that it has ended.
#[derive(Debug)]
struct End {
    /// Completes when the [`Listening`] is dropped.
    asked: oneshot::Receiver<()>,
    _ended: oneshot::Sender<()>,
}

/// Keeps a listener open. Dropping it closes the socket and removes its file; clients that are
/// connected stay.
#[derive(Debug)]
pub struct Listening {
    open: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Listening {
    /// Closes the socket. When this returns, another one may take its address.
    pub async fn close(self) {
        drop(self.open);
        // Nothing is ever sent; the sender is dropped with the socket.
        let _ = self.ended.await;
    }
}

/// A server accepts no more clients, or has too many sockets that it does not serve yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotListening;

impl fmt::Display for NotListening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server accepts no more clients")
    }
}

impl std::error::Error for NotListening {}

impl Listener {
    /// Creates the listener of a socket that accepts the clients of these exports. With `None`,
    /// [`Options::entrance`](super::Options::entrance) decides, if there is one, and clients that it does not
    /// know get all exports of the server.
    pub fn new(socket: Socket, exports: Option<Arc<Exports>>) -> Self {
        Self { socket, exports, end: None }
    }

    /// Makes this a listener that ends before the server does. Returns what keeps it open.
    #[must_use]
    pub fn closable(mut self) -> (Self, Listening) {
        let (open, asked) = oneshot::channel();
        let (sender, ended) = oneshot::channel();
        self.end = Some(End { asked, _ended: sender });
        (self, Listening { open, ended })
    }

    /// Accepts clients until it is closed. They compete for these places.
    pub(super) async fn accept(self, acceptance: Acceptance, places: Places) {
        let Self { socket, exports, end } = self;
        let Acceptance { mut context, entrance, connected } = acceptance;
        match exports {
            Some(exports) => context.exports = exports,
            None => context.entrance = entrance,
        }
        let accepting = accept(socket, context, places, connected);
        match end {
            None => accepting.await,
            // The socket is dropped before it is told that it has ended.
            Some(End { asked, _ended }) => tokio::select! {
                () = accepting => {}
                _ = asked => {}
            },
        }
    }
}

/// How clients of all sockets are served.
#[derive(Clone)]
pub(super) struct Acceptance {
    pub(super) context: Context,
    /// For sockets that are not those of certain exports.
    pub(super) entrance: Option<Arc<dyn Entrance>>,
    /// Those that are still in the handshake as well.
    pub(super) connected: InUse,
}

/// Accepts the clients of sockets that are added while the server runs, until this is dropped.
pub(super) async fn accept_added(
    mut added: mpsc::Receiver<Listener>,
    acceptance: Acceptance,
    rest: Rest,
) {
    let mut accepting = JoinSet::new();
    while let Some(listener) = added.recv().await {
        while accepting.try_join_next().is_some() {}
        accepting.spawn(listener.accept(acceptance.clone(), rest.places()));
    }
    // There is no handle any more.
    while accepting.join_next().await.is_some() {}
}

async fn accept(socket: Socket, context: Context, places: Places, connected: InUse) {
    let mut failing = false;
    loop {
        match accept_one(&socket).await {
            Ok((stream, peer)) => {
                failing = false;
                let mut context = Context {
                    peer: peer.to_string().into(),
                    origin: peer.origin(),
                    ..context.clone()
                };
                context.enter(None);
                if !context.exports.permit(&context.origin) {
                    client_log::warn(
                        None,
                        format_args!("client {peer}: closed: no export is for it"),
                    );
                    continue;
                }
                // If no place is free, the client waits after it was accepted. A listener that
                // reserved a place before accepting would withhold it from the clients of other
                // listeners.
                let place = places.enter().await;
                let held = Some((place, connected.enter()));
                tokio::spawn(serve(stream, peer, context, held));
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
        #[cfg(feature = "vsock")]
        Socket::Vsock(listener) => {
            let (stream, peer) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await?;
            (Box::new(stream), Peer::Vsock(peer), Ok(()))
        }
    };
    if let Err(error) = options {
        tracing::debug!("client {peer}: socket options: {error}");
    }
    Ok((stream, peer))
}

/// Returns true for errors of accept that mean that a client went away before it was accepted.
fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::super::tests::options;
    use super::super::{Options, Server};
    use super::*;

    fn listener(path: &Path) -> Listener {
        let socket = UnixListener::bind(path).unwrap();
        let file = OwnedFile::new(path).unwrap();
        Listener::new(Socket::Unix(Some(file), socket), None)
    }

    async fn greet(path: &Path) -> io::Result<UnixStream> {
        let mut client = UnixStream::connect(path).await?;
        client.read_exact(&mut [0; 18]).await?;
        Ok(client)
    }

    #[tokio::test]
    async fn sockets_come_and_go_while_clients_stay() {
        let directory = TempDir::new().unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        let options = Options { max_connections: None, ..options() };
        let server = Server::new(Arc::new(Exports::default()), options);
        let handle = server.handle();
        // Before the server runs, and while it does.
        let first = handle.listen(listener(&paths[0])).unwrap();
        let running = tokio::spawn(server.run(Vec::new(), std::future::pending()));
        let second = handle.listen(listener(&paths[1])).unwrap();
        let mut client = greet(&paths[0]).await.unwrap();
        greet(&paths[1]).await.unwrap();
        first.close().await;
        assert!(!paths[0].exists());
        assert!(greet(&paths[0]).await.is_err());
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(20), client.read(&mut byte));
        assert!(early.await.is_err(), "its client stays");
        let again = handle.listen(listener(&paths[0])).unwrap();
        greet(&paths[0]).await.unwrap();
        drop(second);
        let limit = Duration::from_secs(10);
        let gone = async {
            while paths[1].exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(limit, gone).await.expect("it is closed when it is dropped");
        handle.stop();
        running.await.unwrap().unwrap();
        assert!(!paths[0].exists(), "the server closes what is left");
        assert_eq!(handle.listen(listener(&paths[1])).err(), Some(NotListening));
        again.close().await;
    }

    #[tokio::test]
    async fn server_of_a_single_client_does_not_listen() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let server = Server::new(Arc::new(Exports::default()), options());
        let handle = server.handle();
        let listening = handle.listen(listener(&path)).unwrap();
        let (client, stream) = tokio::io::duplex(64);
        let running = tokio::spawn(server.run_single(stream, std::future::pending()));
        listening.close().await;
        assert!(!path.exists());
        assert_eq!(handle.listen(listener(&path)).err(), Some(NotListening));
        drop(client);
        running.await.unwrap().unwrap();
    }
}
