//! The registry of connections in the transmission phase: it divides the output buffers among them,
//! and closes those whose clients are stalled or idle.
//!
//! Each connection publishes its progress in a few atomics, which a task inspects periodically. So
//! connections need no timers, and busy ones pay next to nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::task::JoinHandle;

/// The size of all output buffers together, in bytes. It is divided evenly.
const WAITING: usize = 256 << 20;

/// The least and the greatest size of one connection's output buffer, in bytes.
const LEAST_ROOM: usize = 64 << 10;
const MOST_ROOM: usize = 512 << 10;

/// A client that has to send or receive makes progress when it moves at least this many bytes, or
/// all that is missing.
const PROGRESS: u64 = 64 << 10;

/// The longest interval between two inspections.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long clients may make no progress; unlimited where `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// In the middle of a request or a reply.
    pub stalled: Option<Duration>,
    /// Whenever it is the client's turn, also between two requests.
    pub idle: Option<Duration>,
}

/// The registry of connections.
#[derive(Clone, Default)]
pub struct Peers(Arc<Registry>);

#[derive(Default)]
struct Registry {
    peers: Mutex<HashMap<u64, Watched>>,
    next: AtomicU64,
    /// The size of each connection's output buffer, in bytes.
    room: AtomicUsize,
    observe: OnceLock<ObserveClients>,
}

/// A function that is told of a client that begins to use an export (true), or has ended (false). It is
/// called with locks held, so it must be quick, and must not use the server.
pub type ObserveClients = Box<dyn Fn(&ConnectedClient, bool) + Send + Sync>;

/// A connection's entry in the registry.
struct Watched {
    client: ConnectedClient,
    activity: Arc<Activity>,
    /// When it was last seen to have made progress.
    progress: Seen,
    /// When it was last seen to have moved any byte.
    byte: Seen,
}

/// The number of bytes that a connection had moved at a time.
#[derive(Clone, Copy)]
struct Seen {
    moved: u64,
    at: Instant,
}

impl Seen {
    /// Whether at least `least` bytes were moved since; if so, they are recorded.
    fn has_moved(&mut self, least: u64, moved: u64, now: Instant) -> bool {
        let has = moved - self.moved >= least;
        if has {
            *self = Self { moved, at: now };
        }
        has
    }

    fn is_over(self, limit: Option<Duration>, now: Instant) -> bool {
        limit.is_some_and(|limit| now.duration_since(self.at) >= limit)
    }
}

/// A client that is connected to an export.
#[derive(Clone, Debug)]
pub struct ConnectedClient {
    /// The number of the connection, which no other one of this server has or had.
    pub id: u64,
    /// Where the client comes from, for people.
    pub peer: Arc<str>,
    /// The namespace of the export; empty if it has none.
    pub namespace: Arc<str>,
    /// The name of the export there.
    pub export: Arc<str>,
    /// The number of the export ([`Export::id`](crate::exports::Export::id)).
    pub id_of_export: u64,
    /// When the client chose the export.
    pub since: Instant,
}

/// The export that a client chose.
pub(super) struct Chosen {
    pub(super) namespace: Arc<str>,
    /// The name of the export there.
    pub(super) export: Arc<str>,
    /// The number of the export.
    pub(super) id: u64,
}

/// A connection's handle to the registry, which removes it when dropped.
pub(super) struct Peer {
    peers: Peers,
    key: u64,
    activity: Arc<Activity>,
    /// The waker that is kept for those who close it, to be replaced when it is another or was
    /// used.
    registered: Option<Waker>,
}

/// What a connection and the registry tell each other.
#[derive(Default)]
struct Activity {
    /// The number of bytes received and sent.
    moved: AtomicU64,
    /// A [`Waits`].
    waits: AtomicU8,
    /// A [`Waits`]: why the connection has to be closed; [`Waits::Nothing`] if it has not.
    closed: AtomicU8,
    /// The connection has to check whether its client is still there.
    look: AtomicBool,
    waker: AtomicWaker,
}

/// What a connection waits for, of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Waits {
    /// Nothing: it is not the client's turn.
    Nothing,
    /// The next request.
    Request,
    /// The rest of a request, or room to send.
    Rest,
    /// To be disconnected by request: [`Peers::disconnect`].
    Disconnection,
    /// Nothing more: the time limit of the connection is over.
    End,
}

impl Waits {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Rest,
            3 => Self::Disconnection,
            4 => Self::End,
            _ => Self::Nothing,
        }
    }
}

impl Peers {
    /// Returns the clients that are connected to exports of a namespace, in the order in which they
    /// connected.
    pub fn list(&self, namespace: &str) -> Vec<ConnectedClient> {
        let peers = self.0.peers();
        let clients = peers.values().map(|watched| &watched.client);
        let mut list: Vec<_> =
            clients.filter(|client| &*client.namespace == namespace).cloned().collect();
        drop(peers);
        list.sort_unstable_by_key(|client| client.id);
        list
    }

    /// Closes a connection to an export of a namespace. Returns false if there is none of this number.
    /// Requests under way are not answered any more.
    pub fn disconnect(&self, namespace: &str, id: u64) -> bool {
        let peers = self.0.peers();
        let found = peers.get(&id).filter(|watched| &*watched.client.namespace == namespace);
        let Some(Watched { activity, .. }) = found else { return false };
        activity.closed.store(Waits::Disconnection as u8, Ordering::Relaxed);
        activity.waker.wake();
        true
    }

    /// Calls a function whenever a client begins to use an export, or ends. The first call of this method
    /// counts.
    pub fn observe(&self, observe: ObserveClients) {
        let _ = self.0.observe.set(observe);
    }

    /// Returns a number for a connection, which no other connection has or had.
    pub(crate) fn number(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Registers the connection of a client to an export, by its number.
    pub(super) fn enter(&self, key: u64, peer: Arc<str>, chosen: Chosen) -> Peer {
        let Chosen { namespace, export, id: id_of_export } = chosen;
        let activity = Arc::new(Activity::default());
        let since = Instant::now();
        let seen = Seen { moved: 0, at: since };
        let client = ConnectedClient { id: key, peer, namespace, export, id_of_export, since };
        let watched = Watched { client, activity: activity.clone(), progress: seen, byte: seen };
        let mut peers = self.0.peers();
        if let Some(observe) = self.0.observe.get() {
            observe(&watched.client, true);
        }
        peers.insert(key, watched);
        self.0.divide(peers.len());
        drop(peers);
        Peer { peers: self.clone(), key, activity, registered: None }
    }

    /// Inspects the connections periodically, for as long as this is polled. Closes those whose
    /// clients are stalled or idle for too long, and asks those that wait for something else to
    /// check whether their clients are still there.
    pub async fn watch(&self, patience: Patience) {
        let shortest = patience.stalled.into_iter().chain(patience.idle).min();
        let pause = shortest.map_or(LONGEST_PAUSE, |shortest| shortest / 4);
        let pause = pause.clamp(Duration::from_millis(10), LONGEST_PAUSE);
        loop {
            tokio::time::sleep(pause).await;
            self.look(patience, Instant::now());
        }
    }

    fn look(&self, patience: Patience, now: Instant) {
        for watched in self.0.peers().values_mut() {
            let activity = &watched.activity;
            let moved = activity.moved.load(Ordering::Relaxed);
            let waits = Waits::from(activity.waits.load(Ordering::Relaxed));
            if waits == Waits::Nothing {
                if !watched.byte.has_moved(1, moved, now) {
                    activity.look.store(true, Ordering::Relaxed);
                    activity.waker.wake();
                }
                let seen = Seen { moved, at: now };
                (watched.progress, watched.byte) = (seen, seen);
                continue;
            }
            watched.progress.has_moved(PROGRESS, moved, now);
            watched.byte.has_moved(1, moved, now);
            let stalled = waits == Waits::Rest && watched.progress.is_over(patience.stalled, now);
            if stalled || watched.byte.is_over(patience.idle, now) {
                activity.closed.store(waits as u8, Ordering::Relaxed);
                activity.waker.wake();
            }
        }
    }
}

impl Registry {
    fn peers(&self) -> MutexGuard<'_, HashMap<u64, Watched>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn divide(&self, count: usize) {
        let room = (WAITING / count.max(1)).clamp(LEAST_ROOM, MOST_ROOM);
        self.room.store(room, Ordering::Relaxed);
    }
}

impl Peer {
    /// Closes the connection after this time, unless the result is dropped before.
    pub(super) fn close_after(&self, limit: Duration) -> ClosedInTime {
        let activity = self.activity.clone();
        ClosedInTime(tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            activity.closed.store(Waits::End as u8, Ordering::Relaxed);
            activity.waker.wake();
        }))
    }

    /// Returns the size of the output buffer, in bytes.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.peers.0.room.load(Ordering::Relaxed)
    }

    /// Publishes what the connection waits for, and how many bytes it has received and sent. The
    /// waker is used when the connection has to be closed.
    #[inline]
    pub(super) fn wait(&mut self, waits: Waits, moved: u64, waker: &Waker) {
        self.activity.moved.store(moved, Ordering::Relaxed);
        self.activity.waits.store(waits as u8, Ordering::Relaxed);
        if !self.registered.as_ref().is_some_and(|registered| registered.will_wake(waker)) {
            self.register(waker);
        }
    }

    #[cold]
    fn register(&mut self, waker: &Waker) {
        self.activity.waker.register(waker);
        self.registered = Some(waker.clone());
    }

    /// Returns true, once, if the connection has to check whether its client is still there.
    #[inline]
    pub(super) fn take_look(&mut self) -> bool {
        let look = self.activity.look.load(Ordering::Relaxed)
            && self.activity.look.swap(false, Ordering::Relaxed);
        if look {
            self.registered = None;
        }
        look
    }

    /// Returns what was waited for too long, if the connection has to be closed for that.
    #[inline]
    pub(super) fn closed(&self) -> Waits {
        Waits::from(self.activity.closed.load(Ordering::Relaxed))
    }
}

/// The time limit of a connection, which is given up when this is dropped.
pub(super) struct ClosedInTime(JoinHandle<()>);

impl Drop for ClosedInTime {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut peers = self.peers.0.peers();
        let removed = peers.remove(&self.key);
        if let (Some(observe), Some(watched)) = (self.peers.0.observe.get(), removed) {
            observe(&watched.client, false);
        }
        self.peers.0.divide(peers.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn chosen(namespace: &str, export: &str, id: u64) -> Chosen {
        Chosen { namespace: namespace.into(), export: export.into(), id }
    }

    fn enter(peers: &Peers) -> Peer {
        peers.enter(peers.number(), "peer".into(), chosen("", "export", 1))
    }

    /// What becomes of a connection that waits and moves so many bytes each second.
    fn seconds_until_closed(waits: Waits, bytes: u64) -> Option<u32> {
        let patience = Patience { stalled: Some(60 * SECOND), idle: Some(100 * SECOND) };
        let peers = Peers::default();
        let mut peer = enter(&peers);
        let start = Instant::now();
        (0..1000).find(|&second| {
            peer.wait(waits, u64::from(second) * bytes, Waker::noop());
            peers.look(patience, start + second * SECOND);
            peer.closed() != Waits::Nothing
        })
    }

    #[test]
    fn clients_that_do_nothing_are_closed_and_others_are_not() {
        assert_eq!(seconds_until_closed(Waits::Rest, 0), Some(60));
        assert_eq!(seconds_until_closed(Waits::Rest, 1), Some(60), "a byte is no progress");
        assert_eq!(seconds_until_closed(Waits::Rest, PROGRESS / 50), None);
        assert_eq!(seconds_until_closed(Waits::Request, 0), Some(100));
        assert_eq!(seconds_until_closed(Waits::Request, 1), None);
        assert_eq!(seconds_until_closed(Waits::Nothing, 0), None);
    }

    #[test]
    fn those_who_wait_for_something_else_look_after_their_clients() {
        let peers = Peers::default();
        let mut peer = enter(&peers);
        for (waits, look) in [(Waits::Nothing, true), (Waits::Rest, false)] {
            peer.wait(waits, 0, Waker::noop());
            peers.look(Patience::default(), Instant::now());
            assert_eq!(peer.take_look(), look);
            assert!(!peer.take_look(), "once");
        }
    }

    #[test]
    fn what_may_wait_is_divided_among_all() {
        let peers = Peers::default();
        let first = enter(&peers);
        assert_eq!(first.room(), MOST_ROOM);
        let more: Vec<Peer> = (0..1099).map(|_| enter(&peers)).collect();
        assert!(first.room() * 1100 <= WAITING);
        drop(more);
        assert_eq!(first.room(), MOST_ROOM);
        let many: Vec<Peer> = (0..10_000).map(|_| enter(&peers)).collect();
        assert_eq!(many[0].room(), LEAST_ROOM);
    }

    #[test]
    fn connections_are_listed_and_can_be_closed() {
        let peers = Peers::default();
        let first = peers.enter(peers.number(), "one".into(), chosen("", "a", 1));
        let second = peers.enter(peers.number(), "two".into(), chosen("", "b", 2));
        let _other = peers.enter(peers.number(), "three".into(), chosen("other", "b", 3));
        let listed: Vec<_> = peers.list("").into_iter().map(|it| (it.peer, it.export)).collect();
        assert_eq!(listed, [("one".into(), "a".into()), ("two".into(), "b".into())]);
        let id = peers.list("")[1].id;
        assert!(!peers.disconnect("other", id), "it is of another namespace");
        assert!(peers.disconnect("", id));
        assert_eq!((first.closed(), second.closed()), (Waits::Nothing, Waits::Disconnection));
        drop(second);
        assert!(!peers.disconnect("", id), "it is gone");
        assert_eq!((peers.list("").len(), peers.list("other").len()), (1, 1));
    }

    #[test]
    fn observer_is_told_who_comes_and_goes() {
        let told: Arc<Mutex<Vec<(u64, bool)>>> = Arc::default();
        let observed = told.clone();
        let peers = Peers::default();
        let early = enter(&peers);
        peers.observe(Box::new(move |client, came| {
            observed.lock().unwrap().push((client.id, came));
        }));
        let late = enter(&peers);
        drop(early);
        drop(late);
        assert_eq!(*told.lock().unwrap(), [(1, true), (0, false), (1, false)]);
    }
}
