//! Controlling a server while it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::given::{Given, MAX_WAITING, NotReserved, Reserved};
use super::listener::{Listener, Listening, MAX_ADDED, NotListening};
use super::namespaces::{DuplicateNamespace, Namespace, Namespaces};
use crate::access::Origin;
use crate::block::ErrorCode;
use crate::connection::{ConnectedClient, ObserveClients, Peers};
use crate::exports::{DuplicateName, Export, Exports, NotRemoved, Observe};

/// A handle to a server. It may outlive the server.
#[derive(Clone)]
pub struct Handle {
    exports: Arc<Exports>,
    namespaces: Namespaces,
    peers: Peers,
    given: mpsc::Sender<Given>,
    added: mpsc::Sender<Listener>,
    wish: Arc<watch::Sender<Wish>>,
    ended: watch::Receiver<()>,
}

/// The server's end of its handles. Dropping it says that the server has ended.
pub(super) struct Controlled {
    wish: watch::Receiver<Wish>,
    /// `None` once they are served.
    given: Option<mpsc::Receiver<Given>>,
    /// `None` once their clients are accepted.
    added: Option<mpsc::Receiver<Listener>>,
    _ended: watch::Sender<()>,
}

/// What the handles ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// To go on.
    Serve,
    /// To stop when there are no clients.
    Retire,
    /// To stop.
    Stop,
}

impl Handle {
    pub(super) fn new(
        exports: Arc<Exports>,
        namespaces: Namespaces,
        peers: Peers,
    ) -> (Self, Controlled) {
        let (wish, asked) = watch::channel(Wish::Serve);
        let (sender, ended) = watch::channel(());
        let (given, receiver) = mpsc::channel(MAX_WAITING);
        let (added, sockets) = mpsc::channel(MAX_ADDED);
        let handle = Self { exports, namespaces, peers, given, added, wish: Arc::new(wish), ended };
        let (given, added) = (Some(receiver), Some(sockets));
        (handle, Controlled { wish: asked, given, added, _ended: sender })
    }

    /// Adds a namespace: exports that only those clients find that [`Options::entrance`](super::Options::entrance)
    /// sends there, or that come to a socket of its own. At most `max_connections` of them are served at a
    /// time. Returns the namespace, and a handle that knows nothing but its exports and clients, except that
    /// it stops the whole server as well.
    ///
    /// # Errors
    ///
    /// Returns an error if there is a namespace of this name.
    pub fn add_namespace(
        &self,
        exports: Arc<Exports>,
        max_connections: u64,
    ) -> Result<(Namespace, Self), DuplicateNamespace> {
        let namespace = self.namespaces.add(exports.clone(), max_connections)?;
        Ok((namespace, Self { exports, ..self.clone() }))
    }

    /// Changes how many connections all exports together have at most. Connections beyond that stay.
    pub fn set_max_connections(&self, most: u64) {
        self.exports.places().set_most(most);
    }

    /// Returns the registry of the exports.
    pub fn registry(&self) -> &Arc<Exports> {
        &self.exports
    }

    /// Returns how many connections count for [`Self::set_max_connections`] now.
    pub fn connections(&self) -> u64 {
        self.exports.places().used()
    }

    /// Returns the name of the namespace; empty if there is none.
    pub fn namespace(&self) -> &str {
        self.exports.namespace()
    }

    /// Returns what an export has to be called whose clients call it `name`.
    pub fn full_name(&self, name: &str) -> String {
        self.exports.full_name(name)
    }

    /// Returns what the clients of an export call it.
    pub fn local_name<'a>(&self, export: &'a Export) -> &'a str {
        self.exports.local_name(export)
    }

    /// Returns the exports of the server, or of the namespace. Each can tell its state and its account, and can be pointed at
    /// another device ([`Export::replace`]).
    pub fn exports(&self) -> Vec<Arc<Export>> {
        self.exports.list()
    }

    /// Returns the number of exports, with those that are being removed.
    pub fn export_count(&self) -> usize {
        self.exports.count()
    }

    /// Returns the export that clients request by this name; the empty name is that of the first export.
    pub fn export(&self, name: &str) -> Option<Arc<Export>> {
        self.exports.find(name)
    }

    /// Returns the export of exactly this name: the empty one is that of an export which has no other.
    pub fn named(&self, name: &str) -> Option<Arc<Export>> {
        self.exports.named(name)
    }

    /// Adds an export, which clients find from now on, on all sockets that do not serve a single export.
    /// Its disk is opened when it is first needed, or by [`Export::start`].
    ///
    /// No connections and no memory are guaranteed to it: it competes for what is left by the exports
    /// with which the server was started.
    ///
    /// # Errors
    ///
    /// Returns an error if there is an export of this name.
    pub fn add(&self, export: Arc<Export>) -> Result<(), DuplicateName> {
        self.exports.add(export)
    }

    /// Removes an export: new clients do not find it, and those that are connected are disconnected. Their
    /// requests under way have until `limit` to finish. Then the disk is flushed and let go of. If the
    /// future is dropped, the export is removed all the same. It must be polled inside of a tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such export, if another export stands on it or is another name of its
    /// disk, or if its disk could not be flushed.
    pub async fn remove(&self, name: &str, limit: Duration) -> Result<(), NotRemoved> {
        let (handle, name) = (self.clone(), name.to_owned());
        let removing = tokio::spawn(async move {
            let removed = handle.exports.remove(&name, limit).await;
            if !matches!(
                removed,
                Err(NotRemoved::Unknown | NotRemoved::StoodOn | NotRemoved::HasOtherNames)
            ) {
                handle.exports.places().forget(&handle.exports.full_name(&name));
            }
            removed
        });
        // It is not expected to panic; if it does, nobody knows what was flushed.
        removing.await.unwrap_or(Err(NotRemoved::Unflushed(ErrorCode::Io)))
    }

    /// Returns the clients that are connected to an export, in the order in which they connected.
    pub fn clients(&self) -> Vec<ConnectedClient> {
        self.peers.list(self.exports.namespace())
    }

    /// Calls a function whenever something happens to an export. The first call of this method counts; each
    /// namespace has its own.
    pub fn observe_exports(&self, observe: Observe) {
        self.exports.observe(observe);
    }

    /// Calls a function whenever a client begins or ends to use an export of any namespace. The first call
    /// of this method counts.
    pub fn observe_clients(&self, observe: ObserveClients) {
        self.peers.observe(observe);
    }

    /// Closes the connection of a client. Its requests under way are not answered. Returns false if there
    /// is no connection of this number.
    pub fn disconnect(&self, id: u64) -> bool {
        self.peers.disconnect(self.exports.namespace(), id)
    }

    /// Accepts the clients of another socket, until what is returned is dropped. A small part of the
    /// connections of the server is guaranteed to it, if so many are free now and those that were added before
    /// have not got too many. For more, it competes with all other sockets.
    ///
    /// # Errors
    ///
    /// Returns an error if the server accepts no more clients, or serves a single one.
    pub fn listen(&self, listener: Listener) -> Result<Listening, NotListening> {
        let (listener, listening) = listener.closable();
        self.added.try_send(listener).map_err(|_| NotListening)?;
        Ok(listening)
    }

    /// Reserves a turn to serve a client of this export, and of no other, whose stream the caller has, or
    /// will have. The stream carries plain NBD, from the greeting on: the caller knows the client, and TLS
    /// is not asked for.
    ///
    /// # Errors
    ///
    /// Returns an error if the export is not for clients from there, if too many streams wait for a place,
    /// or if the server accepts no more clients.
    pub fn reserve(&self, export: &Arc<Export>, origin: Origin) -> Result<Reserved, NotReserved> {
        Reserved::new(&self.given, &self.exports, export.clone(), origin)
    }

    /// Asks the server to stop, as if the future passed to [`Server::run`](super::Server::run) had
    /// completed.
    pub fn stop(&self) {
        self.wish.send_replace(Wish::Stop);
    }

    /// Asks the server to accept no more clients, and to stop when those that it has are gone. A server of
    /// a single client goes on until that is gone.
    pub fn retire(&self) {
        self.wish.send_modify(|wish| *wish = (*wish).max(Wish::Retire));
    }

    /// Waits until the server has stopped, and its disks were flushed.
    pub async fn stopped(&self) {
        let mut ended = self.ended.clone();
        // Nothing is ever sent; the sender is dropped in the end.
        while ended.changed().await.is_ok() {}
    }
}

impl Controlled {
    /// Returns the streams to serve, once.
    pub(super) fn take_given(&mut self) -> Option<mpsc::Receiver<Given>> {
        self.given.take()
    }

    /// Returns the sockets whose clients are to be accepted, once.
    pub(super) fn take_added(&mut self) -> Option<mpsc::Receiver<Listener>> {
        self.added.take()
    }

    /// Completes when a handle asks the server to stop.
    pub(super) async fn asked_to_stop(&mut self) {
        self.asked_for(Wish::Stop).await;
    }

    /// Completes when a handle asks for an end.
    pub(super) async fn asked(&mut self) -> Wish {
        self.asked_for(Wish::Retire).await
    }

    async fn asked_for(&mut self, least: Wish) -> Wish {
        if let Ok(wish) = self.wish.wait_for(|&wish| wish >= least).await {
            return *wish;
        }
        // There is no handle any more.
        std::future::pending().await
    }
}
