//! Clients whose streams the embedder provides, such as connections upgraded from HTTP.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc::{self, OwnedPermit};

use crate::access::Origin;
use crate::connection::{Context, InUse};
use crate::exports::{Export, Exports};
use crate::nbd::{HandshakeConfig, TlsMode};
use crate::places::Places;
use crate::transport::Stream;

use super::peer::Peer;
use super::serve;

/// The maximum number of given streams that wait for a place. It is the backlog of a listening socket.
pub(super) const MAX_WAITING: usize = 64;

/// A stream that is to be served.
pub(super) struct Given {
    stream: Box<dyn Stream>,
    /// The only one.
    exports: Arc<Exports>,
    peer: Peer,
}

/// A turn to serve a stream, returned by [`Handle::reserve`](super::Handle::reserve).
pub struct Reserved {
    permit: OwnedPermit<Given>,
    exports: Arc<Exports>,
    origin: Origin,
}

/// Why a server does not serve a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReserved {
    /// The export is not for clients from there.
    Denied,
    /// Too many streams wait for a place.
    Full,
    /// The server accepts no more clients.
    Stopping,
}

impl fmt::Display for NotReserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("the export is not for this client"),
            Self::Full => write!(f, "{MAX_WAITING} clients wait for a connection to end already"),
            Self::Stopping => f.write_str("the server accepts no more clients"),
        }
    }
}

impl std::error::Error for NotReserved {}

impl Reserved {
    pub(super) fn new(
        sender: &mpsc::Sender<Given>,
        exports: &Exports,
        export: Arc<Export>,
        origin: Origin,
    ) -> Result<Self, NotReserved> {
        if !export.policy().permits(&origin) {
            return Err(NotReserved::Denied);
        }
        let permit = sender.clone().try_reserve_owned().map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotReserved::Full,
            mpsc::error::TrySendError::Closed(_) => NotReserved::Stopping,
        })?;
        Ok(Self { permit, exports: Arc::new(exports.only_one(export)), origin })
    }

    /// Serves a stream, as if its client had connected to a socket of the server. It waits for a place if
    /// the server has its maximum of connections, and is closed when the server stops. `peer` is what the
    /// log and [`Handle::clients`](super::Handle::clients) call the client.
    pub fn serve(self, stream: impl Stream, peer: &str) {
        let peer = Peer::Given(peer.into(), self.origin);
        self.permit.send(Given { stream: Box::new(stream), exports: self.exports, peer });
    }
}

/// Serves the streams that are given, until this is dropped.
pub(super) async fn serve_all(
    mut given: mpsc::Receiver<Given>,
    context: Context,
    places: Places,
    connected: InUse,
) {
    while let Some(Given { stream, exports, peer }) = given.recv().await {
        let place = places.enter().await;
        // The embedder knows its client, so the stream needs no TLS.
        let handshake = HandshakeConfig { tls: TlsMode::Off, ..context.handshake };
        let (name, origin) = (peer.to_string().into(), peer.origin());
        let context = Context { peer: name, origin, exports, handshake, ..context.clone() };
        tokio::spawn(serve(stream, peer, context, Some((place, connected.enter()))));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinHandle;

    use super::super::tests::options;
    use super::super::{Handle, Options, Server, Unflushed};
    use super::*;
    use crate::access::{Access, parse_rules};
    use crate::device::Text;
    use crate::exports::Policy;

    fn export(name: &str) -> Arc<Export> {
        Export::of_device(name, Text::sector("text"))
    }

    fn start(options: Options) -> (Handle, JoinHandle<Result<(), Unflushed>>) {
        let exports = Exports::new([export("a"), export("b")]).unwrap();
        let server = Server::new(Arc::new(exports), options);
        let handle = server.handle();
        (handle, tokio::spawn(server.run(Vec::new(), std::future::pending())))
    }

    fn connect(handle: &Handle, export: &str) -> Result<DuplexStream, NotReserved> {
        let export = handle.export(export).unwrap();
        let reserved = handle.reserve(&export, Origin::Unknown)?;
        let (client, server) = tokio::io::duplex(4096);
        reserved.serve(server, "a friend");
        Ok(client)
    }

    /// Chooses an export, and returns its size.
    async fn choose(client: &mut DuplexStream, export: &str) -> std::io::Result<u64> {
        let mut request = [&[0, 0, 0, 3], &b"IHAVEOPT"[..], &[0, 0, 0, 1]].concat();
        request.extend((export.len() as u32).to_be_bytes());
        request.extend(export.as_bytes());
        client.write_all(&request).await?;
        let mut reply = [0; 28];
        client.read_exact(&mut reply).await?;
        Ok(u64::from_be_bytes(reply[18..26].try_into().unwrap()))
    }

    #[tokio::test]
    async fn given_streams_are_served_their_export_alone_and_listed() {
        let (handle, running) = start(Options { max_connections: None, ..options() });
        let mut client = connect(&handle, "b").unwrap();
        assert_eq!(choose(&mut client, "b").await.unwrap(), 512);
        let [connected] = &handle.clients()[..] else { panic!("one is connected") };
        assert_eq!((&*connected.peer, &*connected.export), ("a friend", "b"));
        let mut other = connect(&handle, "b").unwrap();
        assert!(choose(&mut other, "a").await.is_err(), "another export");
        handle.stop();
        running.await.unwrap().unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "it is closed");
        assert_eq!(connect(&handle, "a").err(), Some(NotReserved::Stopping));
    }

    #[tokio::test]
    async fn given_streams_need_no_tls() {
        let handshake = HandshakeConfig { tls: TlsMode::Require, ..HandshakeConfig::default() };
        let options = Options { handshake, max_connections: None, ..options() };
        let (handle, running) = start(options);
        assert_eq!(choose(&mut connect(&handle, "a").unwrap(), "a").await.unwrap(), 512);
        running.abort();
    }

    #[tokio::test]
    async fn given_streams_take_places_and_few_wait() {
        let (handle, running) = start(options());
        let mut first = connect(&handle, "a").unwrap();
        assert_eq!(choose(&mut first, "a").await.unwrap(), 512);
        let mut waiting = Vec::new();
        while let Ok(client) = connect(&handle, "a") {
            waiting.push(client);
            // The server takes one from the queue.
            tokio::task::yield_now().await;
            assert!(waiting.len() <= MAX_WAITING + 1);
        }
        assert!(waiting.len() >= MAX_WAITING);
        assert_eq!(connect(&handle, "a").err(), Some(NotReserved::Full));
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(20), waiting[0].read(&mut byte));
        assert!(early.await.is_err(), "there is one place");
        drop(first);
        assert_eq!(choose(&mut waiting[0], "a").await.unwrap(), 512);
        running.abort();
    }

    #[tokio::test]
    async fn rules_of_an_export_hold_for_given_streams() {
        let (handle, running) = start(Options { max_connections: None, ..options() });
        let access = Access { allow: Vec::new(), deny: parse_rules("anyunix").unwrap() };
        let policy = Policy { access: vec![Arc::new(access)], ..Policy::default() };
        handle.add(export("c").with_policy(policy)).unwrap();
        let export = handle.export("c").unwrap();
        let denied = handle.reserve(&export, Origin::Unix(None)).err();
        assert_eq!(denied, Some(NotReserved::Denied));
        running.abort();
    }
}
