//! Stops the users of an export's device for a moment, in which it is replaced by another.
//!
//! Each connection has a [`Port`], and is inside of it while it or one of its tasks is at work on the
//! device. To replace the device, [`Ports`] closes all of them and waits until nobody is inside; a
//! request that comes meanwhile waits. So every request is executed by one device, from its first
//! byte to its last, and one that follows a reply sees the device that gave it, or a later one.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::Device;
use super::turnstile::Turnstile;

/// A connection's way to the device of an export.
pub struct Port {
    /// The number of the export by which the client asked for the disk.
    owner: u64,
    turnstile: Turnstile,
    device: Mutex<Arc<dyn Device>>,
    /// How often the port was closed.
    generation: AtomicU64,
    /// The export was removed, so the port stays closed.
    ended: AtomicBool,
    /// Wakes the connection when the port is opened, even an idle one, because it holds the device.
    opened: AtomicWaker,
    /// Notified when the last user has left a closed port.
    emptied: Arc<Notify>,
}

impl Port {
    /// A port of a device that is never replaced.
    pub fn alone(device: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Self::new(0, device, Arc::default()))
    }

    fn new(owner: u64, device: Arc<dyn Device>, emptied: Arc<Notify>) -> Self {
        Self {
            owner,
            turnstile: Turnstile::default(),
            device: Mutex::new(device),
            generation: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            opened: AtomicWaker::new(),
            emptied,
        }
    }

    /// Enters the port, once it is open. It must be left again.
    ///
    /// # Errors
    ///
    /// Returns an error if the port stays closed.
    #[inline]
    pub(super) fn poll_enter(&self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.turnstile.try_enter() {
            return Poll::Ready(Ok(()));
        }
        self.register(cx.waker());
        // It may have been opened since.
        match self.turnstile.try_enter() {
            true => Poll::Ready(Ok(())),
            false if self.has_ended() => Poll::Ready(Err(Ended)),
            false => Poll::Pending,
        }
    }

    /// Whether the export was removed. Whoever is still inside has had the time to finish.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Enters once more, for a task of somebody who is inside.
    pub(super) fn enter_again(&self) {
        self.turnstile.enter_again();
    }

    #[inline]
    pub(super) fn leave(&self) {
        if self.turnstile.leave() {
            self.emptied.notify_waiters();
        }
    }

    /// How often the port was closed, and its device perhaps replaced.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The device. It does not change while somebody is inside.
    pub(super) fn device(&self) -> Arc<dyn Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers a waker for when the port is opened the next time.
    pub(super) fn register(&self, waker: &Waker) {
        self.opened.register(waker);
    }

    /// Has the port stay closed, whoever opens it.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn open(&self) {
        if self.has_ended() {
            return self.opened.wake();
        }
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.turnstile.open();
        self.opened.wake();
    }
}

/// The export of a port was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

/// The ports of an export.
#[derive(Default)]
pub struct Ports {
    list: Mutex<List>,
    emptied: Arc<Notify>,
    /// Held while the device is replaced.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct List {
    ports: Vec<Weak<Port>>,
    /// New ports are closed, too.
    closed: bool,
}

impl List {
    fn ports(&self) -> impl Iterator<Item = Arc<Port>> {
        self.ports.iter().filter_map(Weak::upgrade)
    }
}

/// The device was not replaced, because requests under way did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The number of connections in the middle of a request.
    pub connections: usize,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.connections == 1 { "" } else { "s" };
        let count = self.connections;
        write!(f, "{count} connection{s} did not finish a request in time")
    }
}

impl std::error::Error for InUse {}

impl Ports {
    /// Creates a port of the device that `current` returns, which is called while the device cannot
    /// be replaced. `owner` is the export that the client uses.
    pub fn enter(
        &self,
        owner: u64,
        current: impl FnOnce() -> Option<Arc<dyn Device>>,
    ) -> Option<Arc<Port>> {
        let mut list = self.list();
        let port = Arc::new(Port::new(owner, current()?, self.emptied.clone()));
        if list.closed {
            port.turnstile.close();
        }
        if list.ports.len() == list.ports.capacity() {
            // Rarely, for it looks at all of them.
            list.ports.retain(|port| port.strong_count() > 0);
        }
        list.ports.push(Arc::downgrade(&port));
        Some(port)
    }

    /// Calls a function if there is no port. None is created meanwhile.
    pub(crate) fn while_unused(&self, function: impl FnOnce()) {
        let list = self.list();
        if list.ports().next().is_none() {
            function();
        }
    }

    /// The number of connections.
    pub fn count(&self) -> usize {
        self.list().ports().count()
    }

    /// The number of connections to one of the exports.
    pub fn count_of(&self, owner: u64) -> usize {
        self.list().ports().filter(|port| port.owner == owner).count()
    }

    /// Waits for the exclusive right to replace the device.
    pub async fn replacing(&self) -> Replacing<'_> {
        Replacing { ports: self, _turn: self.turn.lock().await }
    }

    fn ending(&self, owner: u64) -> Ending {
        Ending(self.list().ports().filter(|port| port.owner == owner).collect())
    }

    fn close(&self) -> Closed<'_> {
        let mut list = self.list();
        list.closed = true;
        list.ports().for_each(|port| port.turnstile.close());
        Closed(self)
    }

    /// Waits until nobody is inside.
    async fn empty(&self) {
        self.until(|| self.inside() == 0).await;
    }

    /// Waits until this is true, which may change when somebody leaves a closed port.
    async fn until(&self, is_empty: impl Fn() -> bool) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// The number of ports that somebody is inside of.
    fn inside(&self) -> usize {
        self.list().ports().filter(|port| !port.turnstile.is_empty()).count()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exclusive right to replace the device.
pub struct Replacing<'a> {
    ports: &'a Ports,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl<'a> Replacing<'a> {
    /// Holds requests back, and waits until nobody is at work on the device. It is safe to drop the
    /// future.
    ///
    /// # Errors
    ///
    /// Returns an error if somebody is still at work after `limit`. Nobody is held back any more then.
    pub async fn drain(self, limit: Duration) -> Result<Drained<'a>, InUse> {
        let ports = self.ports;
        let closed = ports.close();
        if tokio::time::timeout(limit, ports.empty()).await.is_err() {
            return Err(InUse { connections: ports.inside() });
        }
        Ok(Drained { closed, _replacing: self })
    }

    /// Closes all ports for good, when nobody is at work on the device or after `limit`. There must not
    /// be new ones by then.
    pub async fn end(self, limit: Duration) {
        let _closed = self.ports.close();
        let _ = tokio::time::timeout(limit, self.ports.empty()).await;
        self.ports.list().ports().for_each(|port| port.end());
    }
}

impl Replacing<'_> {
    /// Closes the ports of one owner for good, when nobody is inside of them or after `limit`. There must
    /// not be new ones by then. The others stay open.
    pub async fn end_of(self, owner: u64, limit: Duration) {
        let ending = self.ports.ending(owner);
        ending.0.iter().for_each(|port| port.turnstile.close());
        let are_empty = || ending.0.iter().all(|port| port.turnstile.is_empty());
        let _ = tokio::time::timeout(limit, self.ports.until(are_empty)).await;
    }
}

/// Ports that stay closed when this is dropped.
struct Ending(Vec<Arc<Port>>);

impl Drop for Ending {
    fn drop(&mut self) {
        for port in &self.0 {
            port.end();
            port.open();
        }
    }
}

/// Nobody is at work on the device while this lives, and requests are held back.
pub struct Drained<'a> {
    // Dropped first: a port is opened before somebody else closes it.
    closed: Closed<'a>,
    _replacing: Replacing<'a>,
}

impl Drained<'_> {
    /// Replaces the device of all ports. `commit` is called in the moment in which it is replaced.
    pub fn replace(self, device: &Arc<dyn Device>, commit: impl FnOnce()) {
        // Held until `commit` has returned, for new ports have the device that it replaces.
        let list = self.closed.0.list();
        for port in list.ports() {
            *port.device.lock().unwrap_or_else(PoisonError::into_inner) = device.clone();
        }
        commit();
    }
}

/// All ports are closed while this lives.
struct Closed<'a>(&'a Ports);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut list = self.0.list();
        list.closed = false;
        list.ports().for_each(|port| port.open());
    }
}
