//! A single export: its device, and its state.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::attempt::Attempt;
use super::bitmaps::Bitmaps;
use super::observer::{Change, Observer};
use super::other_name::OtherName;
use super::policy::Policy;
use super::uppers::{Conflict, Uppers};
use super::{Failed, Problem, Stage, State};
use crate::block::{ErrorCode, Operation};
use crate::budget;
use crate::component::Client;
use crate::device::guest::DiskConfig;
use crate::device::{Account, Control, Device, Drained, Heat, InUse, Port, Ports, Replacing};
use crate::parameters::Link;
use crate::rate::Limits;

/// Where the device of an export comes from.
pub trait Source: Send + Sync {
    /// Loads what the device is made of, which may require compiling its component, and calls `stage`
    /// to report progress.
    fn load<'a>(&'a self, stage: &'a (dyn Fn(Stage) + Send + Sync)) -> Loading<'a>;

    /// Returns the user's name for the disk.
    fn label(&self) -> &str;
}

/// What a source supplies.
pub enum Supplied {
    /// The configuration of a disk, with its component. The disk is still to be opened.
    Guest(Box<DiskConfig>),
    /// A device that is open. It stays open until the export is removed.
    Device(Arc<dyn Device>),
}

/// A future that loads what a device is made of.
pub type Loading<'a> = Pin<Box<dyn Future<Output = Result<Supplied, Problem>> + Send + 'a>>;

/// Why an export was not pointed at another device.
#[derive(Debug, PartialEq, Eq)]
pub enum NotReplaced {
    /// The export is not open.
    NotOpen,
    /// Each of its clients has a device of its own.
    Private,
    /// Another export stands on it, and would keep the old device.
    StoodOn,
    /// The device differs in this way from what clients were told.
    Geometry(&'static str),
    /// Requests under way did not end in time.
    InUse(InUse),
}

impl fmt::Display for NotReplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpen => f.write_str("the export is not open"),
            Self::StoodOn => f.write_str("another export stands on it"),
            Self::Private => f.write_str("each client of the export has a device of its own"),
            Self::Geometry(what) => {
                write!(f, "the device {what}, and connected clients were told otherwise")
            }
            Self::InUse(in_use) => in_use.fmt(f),
        }
    }
}

impl std::error::Error for NotReplaced {}

/// A named disk.
pub struct Export {
    id: u64,
    /// The number of the export that clients find: for the disk of a single client, not its own.
    registered_id: u64,
    name: String,
    pub(super) source: Option<Arc<dyn Source>>,
    pub(super) status: watch::Sender<Status>,
    /// The connections that use the disk.
    ports: Arc<Ports>,
    account: Account,
    /// Where the disk is read and written, while somebody looks.
    heat: Heat,
    policy: RwLock<Arc<Policy>>,
    /// How often the device was replaced.
    generation: AtomicU64,
    /// Each client has a disk of its own.
    private: bool,
    /// The devices of other exports that stand on the device.
    uppers: Uppers,
    /// The export by whose disk this one is served, if it is another name of that.
    pub(super) other_name: Option<OtherName>,
    /// The number of exports that are other names of this one.
    pub(super) other_names: AtomicUsize,
    /// The only client of its disk.
    client: Option<Client>,
    /// Somebody may change the device without a connection.
    handed_out: AtomicBool,
    /// What is charged for the size of the disk.
    charged: Mutex<Option<budget::Held>>,
    /// The dirty bitmaps of its disk.
    bitmaps: OnceLock<Arc<dyn Bitmaps>>,
    /// Set when the export is added to a registry. Disks of single clients are in none.
    registered: OnceLock<Registered>,
}

/// How an export is in a registry.
struct Registered {
    observer: Arc<Observer>,
    on_demand: bool,
}

/// Another device stands on the one of this export, for as long as this lives.
pub(super) struct StoodOn {
    export: Arc<Export>,
    link: Link,
}

impl Drop for StoodOn {
    fn drop(&mut self) {
        self.export.uppers.remove(self.link);
    }
}

/// Why another device cannot stand on the one of an export.
pub(super) enum NotStoodOn {
    /// The export could not be opened.
    Failed(Failed),
    /// Somebody else would be disturbed.
    Conflict(Conflict),
}

/// An export whose requests are held back: nobody is at work on its device.
pub struct Held<'a> {
    export: &'a Export,
    drained: Drained<'a>,
    present: Arc<dyn Device>,
}

impl Held<'_> {
    /// Returns the device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.present
    }

    /// Points the export at another device, as [`Export::replace`] does. It may be made of the present one.
    ///
    /// # Errors
    ///
    /// Returns an error, with nothing replaced, if the device is not of the geometry that clients were
    /// told.
    pub fn replace(self, device: Arc<dyn Device>) -> Result<Arc<dyn Device>, NotReplaced> {
        let Self { export, drained, present } = self;
        check_geometry(&present, &device)?;
        let next = Phase::Open(device.clone());
        drained.replace(&device, || {
            export.status.send_modify(|status| status.phase = next);
            export.generation.fetch_add(1, Ordering::Relaxed);
        });
        export.tell(Change::Replaced { generation: export.generation() });
        Ok(present)
    }
}

fn check_geometry(present: &Arc<dyn Device>, next: &Arc<dyn Device>) -> Result<(), NotReplaced> {
    match present.geometry().obstacle_to(next.geometry()) {
        Some(obstacle) => Err(NotReplaced::Geometry(obstacle)),
        None => Ok(()),
    }
}

/// Returns a number that no other export has or had.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Default)]
pub(super) struct Status {
    /// Set once the component is loaded.
    pub(super) config: Option<DiskConfig>,
    pub(super) phase: Phase,
}

#[derive(Clone, Default)]
pub(super) enum Phase {
    /// The disk is opened on demand.
    #[default]
    Closed,
    Busy(Stage),
    Open(Arc<dyn Device>),
    Failed(Failed),
    /// The export is being removed, and its device is still to be flushed.
    Draining(Arc<dyn Device>),
    Gone,
}

impl Export {
    /// Creates an export of a component that is loaded. Its disk is not open yet.
    pub fn new(mut config: DiskConfig) -> Arc<Self> {
        let name = config.export_name.clone();
        config.component = config.component.for_export(&name);
        let status = Status { config: Some(config), phase: Phase::Closed };
        Self::with_status(&name, None, status)
    }

    /// Creates an export of a device that is open, and stays open.
    pub fn of_device(name: &str, device: Arc<dyn Device>) -> Arc<Self> {
        let status = Status { config: None, phase: Phase::Open(device) };
        Self::with_status(name, None, status)
    }

    /// Creates an export of a component that is still to be loaded.
    pub fn of_source(name: &str, source: Arc<dyn Source>) -> Arc<Self> {
        Self::with_status(name, Some(source), Status::default())
    }

    /// Gives each client of the export a disk of its own, which is opened when the client connects and
    /// discarded, without a flush, when it disconnects. Requests for information are answered by another
    /// disk, to which nobody writes.
    #[must_use]
    pub fn private(self: Arc<Self>) -> Arc<Self> {
        Arc::new(Self { private: true, ..self.twin() })
    }

    /// Makes the export, which is not in use yet, demand this of its clients.
    #[must_use]
    pub fn with_policy(self: Arc<Self>, policy: Policy) -> Arc<Self> {
        // Nobody else has it yet, or else there is another disk.
        let export = Arc::try_unwrap(self).unwrap_or_else(|shared| shared.twin());
        Arc::new(Self { policy: RwLock::new(Arc::new(policy)), ..export })
    }

    /// Returns the export for a client that will send requests: this one, or one with a disk of its own.
    pub(crate) fn for_client(self: &Arc<Self>, client: Client) -> Arc<Self> {
        match self.private {
            true => {
                let (client, registered_id) = (Some(client), self.registered_id);
                Arc::new(Self { client, registered_id, ..self.twin() })
            }
            false => self.clone(),
        }
    }

    /// Returns an export like this one, with another disk. They share the account, and whoever removes
    /// one disconnects the clients of both.
    fn twin(&self) -> Self {
        let config = self.status.borrow().config.clone();
        let id = next_id();
        Self {
            id,
            registered_id: id,
            name: self.name.clone(),
            source: self.source.clone(),
            status: watch::Sender::new(Status { config, phase: Phase::Closed }),
            ports: self.ports.clone(),
            account: self.account.clone(),
            heat: self.heat.clone(),
            policy: RwLock::new(self.policy()),
            generation: AtomicU64::new(0),
            private: self.private,
            uppers: Uppers::default(),
            other_name: None,
            other_names: AtomicUsize::new(0),
            client: None,
            handed_out: AtomicBool::new(false),
            charged: Mutex::default(),
            bitmaps: OnceLock::new(),
            registered: OnceLock::new(),
        }
    }

    /// Creates an export that serves the disk of another one.
    pub(super) fn of_main(name: &str, other: OtherName) -> Arc<Self> {
        let (account, registered_id) = (other.main.account.clone(), other.main.id);
        let heat = other.main.heat.clone();
        let mut export = Self::new_with_status(name, None, Status::default());
        (export.account, export.registered_id) = (account, registered_id);
        export.heat = heat;
        Arc::new(Self { other_name: Some(other), ..export })
    }

    fn with_status(name: &str, source: Option<Arc<dyn Source>>, status: Status) -> Arc<Self> {
        Arc::new(Self::new_with_status(name, source, status))
    }

    fn new_with_status(name: &str, source: Option<Arc<dyn Source>>, status: Status) -> Self {
        let id = next_id();
        Self {
            id,
            registered_id: id,
            name: name.to_owned(),
            source,
            status: watch::Sender::new(status),
            ports: Arc::default(),
            account: Account::default(),
            heat: Heat::default(),
            policy: RwLock::default(),
            generation: AtomicU64::new(0),
            private: false,
            uppers: Uppers::default(),
            other_name: None,
            other_names: AtomicUsize::new(0),
            client: None,
            handed_out: AtomicBool::new(false),
            charged: Mutex::default(),
            bitmaps: OnceLock::new(),
            registered: OnceLock::new(),
        }
    }

    /// Returns the export that has the disk: this one, unless it is another name of one.
    fn with_disk(&self) -> &Self {
        self.main().map_or(self, Arc::as_ref)
    }

    /// Returns the ports of the clients of all names.
    pub(super) fn ports(&self) -> &Ports {
        &self.with_disk().ports
    }

    /// Charges the size of a device that was opened, in place of what was charged before.
    pub(super) fn charge(&self, device: &dyn Device) -> Result<(), Problem> {
        let policy = self.policy();
        let Some(sizes) = &policy.sizes else { return Ok(()) };
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        *charged = None;
        let size = device.geometry().size;
        *charged = budget::Held::take(sizes, size);
        match *charged {
            Some(_) => Ok(()),
            None => Err(Problem::Quota(format!(
                "its size, {size} bytes, exceeds what is left of the quota for the sizes of all disks: {} \
                 of {} bytes",
                sizes.available(),
                sizes.limit()
            ))),
        }
    }

    /// Tells an observer that the export is in a registry, and what happens to it from now on. The first
    /// registry counts.
    pub(super) fn register(&self, observer: &Arc<Observer>, on_demand: bool) {
        let registered = Registered { observer: observer.clone(), on_demand };
        if self.registered.set(registered).is_ok() {
            self.tell(Change::Added);
        }
    }

    /// Returns true if the export was made because a client requested its name.
    pub fn is_on_demand(&self) -> bool {
        self.registered.get().is_some_and(|registered| registered.on_demand)
    }

    /// Tells the observer, if there is one.
    pub(super) fn tell(&self, change: Change) {
        if let Some(registered) = self.registered.get() {
            registered.observer.tell(self, change);
        }
    }

    /// Offers dirty bitmaps to clients that negotiate from now on. The first call of this method counts.
    pub fn offer_bitmaps(&self, bitmaps: Arc<dyn Bitmaps>) {
        let _ = self.bitmaps.set(bitmaps);
    }

    /// Returns the dirty bitmaps that clients are offered.
    pub(crate) fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        self.with_disk().bitmaps.get().map(|bitmaps| &**bitmaps)
    }

    /// Returns true if each client has a disk of its own.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// Returns the only client of the disk, if it is for one alone.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Returns a number that no other export of this process has or had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the number of the export that clients find under its name.
    pub(crate) fn registered_id(&self) -> u64 {
        self.registered_id
    }

    /// Returns the name by which clients request the export.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the state of the export.
    pub fn state(&self) -> State {
        let export = if self.has_name() { self.with_disk() } else { self };
        export.status.borrow().phase.state()
    }

    /// Returns how often the export was pointed at another device.
    pub fn generation(&self) -> u64 {
        self.with_disk().generation.load(Ordering::Relaxed)
    }

    /// Returns the size of the disk in bytes, if it is open.
    pub fn size(&self) -> Option<u64> {
        self.opened().map(|device| device.geometry().size)
    }

    /// Returns a human-readable description: the disk's own if it is open and has one, or else the
    /// component's. While there is no disk, it may be the stage of loading, or the reason of a
    /// failure.
    pub fn description(&self) -> String {
        let status = self.with_disk().status.borrow();
        let of_component =
            status.config.as_ref().map(|config| config.component.description().summary.as_str());
        let of_disk = match &status.phase {
            Phase::Open(disk) => Some(disk.geometry().description.as_str()),
            Phase::Failed(failed) => return format!("failed: {failed}"),
            Phase::Busy(stage) if of_component.is_none() => return stage.to_string(),
            Phase::Busy(_) | Phase::Closed | Phase::Draining(_) | Phase::Gone => None,
        };
        of_disk.filter(|own| !own.is_empty()).or(of_component).unwrap_or_default().to_owned()
    }

    /// Returns the disk, and opens it if it is not open yet. Concurrent callers wait for the same
    /// attempt.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk cannot be opened. If a retry can help, the first caller after a
    /// pause makes it.
    pub async fn disk(self: &Arc<Self>) -> Result<Arc<dyn Device>, Failed> {
        // Before the state is read: see `close_unchanged`.
        self.with_disk().handed_out.store(true, Ordering::Relaxed);
        self.disk_for_clients().await
    }

    /// Returns the disk like [`Self::disk`], for a connection: it executes nothing before it has a port, or
    /// nothing at all.
    pub(crate) async fn disk_for_clients(self: &Arc<Self>) -> Result<Arc<dyn Device>, Failed> {
        let export = self.main().unwrap_or(self);
        loop {
            if !self.has_name() {
                return Err(Failed { problem: Arc::new(Problem::Removed), backoff: None });
            }
            if let Some(attempt) = export.attempt() {
                // The caller may be cancelled while the component is at work; the attempt must not
                // be.
                tokio::spawn(attempt.open_and_log());
            }
            match export.settled().await {
                Phase::Open(disk) => return Ok(disk),
                Phase::Failed(failed) => return Err(failed),
                Phase::Draining(_) | Phase::Gone => {
                    return Err(Failed { problem: Arc::new(Problem::Removed), backoff: None });
                }
                // Another caller opened the disk and closed it again.
                Phase::Closed | Phase::Busy(_) => {}
            }
        }
    }

    /// Opens the disk at server startup. From this call on, callers of [`Self::disk`] wait for the
    /// attempt. Unless `keep` is true, the disk is then closed again, so that it takes no memory
    /// until it is needed.
    ///
    /// The future must not be dropped before it completes. Failures are not logged.
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions as [`Self::disk`].
    pub fn start(
        self: &Arc<Self>,
        keep: bool,
    ) -> impl Future<Output = Result<(), Failed>> + Send + use<> {
        let export = self.main().unwrap_or(self).clone();
        let attempt = export.attempt();
        async move {
            match attempt {
                Some(attempt) => attempt.open(keep).await,
                None => export.disk_for_clients().await.map(drop),
            }
        }
    }

    /// Returns a port of the disk for a new connection, or `None` if the disk is not open.
    pub fn enter(&self) -> Option<Arc<Port>> {
        self.ports().enter(self.id, || self.opened())
    }

    /// Returns the account of what clients asked of the export, whichever device it had.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Returns what counts where the disk is read and written.
    pub(crate) fn heat(&self) -> &Heat {
        &self.heat
    }

    /// Returns the limits of what clients transfer and request in a second. They can be changed at any
    /// time.
    pub fn limits(&self) -> Arc<Limits> {
        self.policy().limits.clone()
    }

    /// Returns what the export demands of its clients.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what the export demands of its clients. The rates, and the number of clients if it was limited
    /// by [`Places::new`](crate::places::Places::new), are those of the present limits from now on, so they
    /// apply to connected clients as well. The rest applies to clients that come later.
    pub fn set_policy(&self, policy: Policy) {
        let mut present = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        *present = Arc::new(present.changed_to(policy));
    }

    /// Returns the device for another one to stand on, and opens it if need be. It is not replaced, and the
    /// export not removed, as long as the second value lives.
    pub(super) async fn stand_on(
        self: &Arc<Self>,
        link: Link,
    ) -> Result<(Arc<dyn Device>, StoodOn), NotStoodOn> {
        loop {
            self.disk().await.map_err(NotStoodOn::Failed)?;
            // In turn with those who replace the device.
            let _replacing = self.ports.replacing().await;
            if let Some(device) = self.opened() {
                // Clients of a private export have other disks.
                let may_write = device.geometry().capabilities.writable && !self.private;
                let clients = || if may_write { self.connections() } else { 0 };
                self.uppers.add(link, clients).map_err(NotStoodOn::Conflict)?;
                return Ok((device, StoodOn { export: self.clone(), link }));
            }
        }
    }

    /// Returns true if the device of another export stands on the one of this.
    pub fn is_stood_on(&self) -> bool {
        self.uppers.exist()
    }

    /// Returns true if clients must not write, because another export relies on the content. Ask after
    /// [`Self::enter`]: while a client that may write has a port, nothing comes to rely on the content.
    pub(crate) fn denies_writes(&self) -> bool {
        self.with_disk().uppers.denies_writes()
    }

    /// Returns the components of the disk that take commands, the one nearest to the client first. There are
    /// none unless the disk is open.
    pub fn controls(&self) -> Vec<Control> {
        self.opened().map(Device::controls).unwrap_or_default()
    }

    /// Returns true if nobody uses the export.
    pub(super) fn is_idle(&self) -> bool {
        self.connections() == 0 && !self.is_stood_on()
    }

    /// The number of connections that use the export.
    /// For a disk with other names, they are those of all names.
    pub fn connections(&self) -> usize {
        match &self.other_name {
            Some(other) => other.main.ports.count_of(self.id),
            None => self.ports.count(),
        }
    }

    /// Points the export at another device, between two requests of each of its clients, who notice
    /// nothing but a short delay. Requests are held back while those under way come to
    /// their end, for at most `limit`. Returns the device that was replaced: nobody uses it any more.
    ///
    /// The caller must carry over what was written. It is safe to drop the future; then nothing
    /// is replaced.
    ///
    /// # Errors
    ///
    /// Returns an error, with nothing replaced, if the export is not open, a request takes longer
    /// than `limit`, or the device is not of the geometry that clients were told: it must have the
    /// same size and block sizes, and offer at least what the present one does.
    pub async fn replace(
        &self,
        device: Arc<dyn Device>,
        limit: Duration,
    ) -> Result<Arc<dyn Device>, NotReplaced> {
        let export = self.with_disk();
        let (replacing, present) = export.replaceable().await?;
        check_geometry(&present, &device)?;
        let drained = replacing.drain(limit).await.map_err(NotReplaced::InUse)?;
        Held { export, drained, present }.replace(device)
    }

    /// Holds back the requests of the export's clients, after those under way have come to their end, for
    /// which they have until `limit`. They go on when the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the export is not open, or a request takes longer than `limit`.
    pub async fn hold(&self, limit: Duration) -> Result<Held<'_>, NotReplaced> {
        let export = self.with_disk();
        let (replacing, present) = export.replaceable().await?;
        let drained = replacing.drain(limit).await.map_err(NotReplaced::InUse)?;
        Ok(Held { export, drained, present })
    }

    /// Returns the exclusive right to replace the device, and the device: it stays open meanwhile.
    async fn replaceable(&self) -> Result<(Replacing<'_>, Arc<dyn Device>), NotReplaced> {
        if self.private {
            return Err(NotReplaced::Private);
        }
        let replacing = self.ports.replacing().await;
        if self.is_stood_on() {
            return Err(NotReplaced::StoodOn);
        }
        let present = self.opened().ok_or(NotReplaced::NotOpen)?;
        Ok((replacing, present))
    }

    /// Closes the disk, which takes no memory then until it is needed again. Returns its device, or `None` if
    /// it was not closed: because it is in use or was written to, because its device was replaced or given
    /// to a caller of [`Self::disk`], or because it is not open or cannot be opened again. The caller knows
    /// that the disk has the same content whenever it is opened.
    pub async fn close_unchanged(&self) -> Option<Arc<dyn Device>> {
        if !self.may_be_closed() {
            return None;
        }
        let _replacing = self.ports.replacing().await;
        let mut closed = None;
        self.ports.while_unused(|| {
            if self.is_stood_on() || !self.begins_the_same() {
                return;
            }
            self.status.send_if_modified(|status| {
                let Phase::Open(device) = &status.phase else { return false };
                // Whoever gets the device later than this finds it closed.
                if self.handed_out.load(Ordering::Relaxed) {
                    return false;
                }
                closed = Some(device.clone());
                status.phase = Phase::Closed;
                true
            });
        });
        if closed.is_some() {
            self.tell(Change::State(State::Closed));
        }
        closed
    }

    /// Returns false if [`Self::close_unchanged`] would not close the disk, as far as that can be told at a
    /// glance.
    pub fn may_be_closed(&self) -> bool {
        self.is_idle() && self.begins_the_same()
    }

    /// Returns true if the disk can be opened again, and neither it nor its device was changed.
    fn begins_the_same(&self) -> bool {
        let again = || self.source.is_some() || self.status.borrow().config.is_some();
        let was_written_to = || {
            let totals = self.account.totals();
            let changes = [Operation::Write, Operation::Zero, Operation::Trim];
            changes.into_iter().any(|operation| totals.of(operation).requests > 0)
        };
        self.other_name.is_none()
            && !self.private
            && self.generation() == 0
            && !self.handed_out.load(Ordering::Relaxed)
            && again()
            && !was_written_to()
    }

    /// Closes the export for good: it has no more clients after this, and lets go of its device, which
    /// is flushed. Requests under way have until `limit` to finish; then their connections are closed.
    ///
    /// The future must not be dropped before it completes.
    ///
    /// # Errors
    ///
    /// Returns an error if the device fails to flush; this is logged.
    pub(super) async fn close(&self, limit: Duration) -> Result<(), ErrorCode> {
        if let Some(other) = &self.other_name {
            self.close_name(other, limit).await;
            return Ok(());
        }
        // In turn with those who replace the device.
        let replacing = self.ports.replacing().await;
        let device = loop {
            let mut device = None;
            let ended = self.status.send_if_modified(|status| {
                let next = match &status.phase {
                    Phase::Busy(_) => return false,
                    Phase::Open(open) => {
                        device = Some(open.clone());
                        Phase::Draining(open.clone())
                    }
                    Phase::Closed | Phase::Failed(_) | Phase::Draining(_) | Phase::Gone => {
                        status.config = None;
                        Phase::Gone
                    }
                };
                status.phase = next;
                true
            });
            if ended {
                break device;
            }
            self.settled().await;
        };
        // Private disks have clients even if this one was never opened.
        replacing.end(limit).await;
        let Some(device) = device else { return Ok(()) };
        let flushed = device.last_flush().await.map(drop).map_err(|error| error.code);
        self.status.send_modify(|status| {
            // With the configuration goes its share of the memory.
            *status = Status { config: None, phase: Phase::Gone };
        });
        flushed
    }

    /// Returns false once the export is being removed.
    pub(super) fn may_be_used(&self) -> bool {
        let is_ended = |export: &Self| {
            matches!(export.status.borrow().phase, Phase::Draining(_) | Phase::Gone)
        };
        !is_ended(self) && self.main().is_none_or(|main| !is_ended(main))
    }

    /// Waits until the export is open, closed or failed, or its component is being compiled, which
    /// takes long.
    pub async fn settled_or_compiling(&self) {
        let wanted = |status: &Status| {
            let stage = status.stage();
            stage.is_none() || stage == Some(Stage::Compiling)
        };
        // This cannot fail, because the export owns the sender.
        let _ = self.with_disk().status.subscribe().wait_for(wanted).await;
    }

    /// Returns true if the disk is open.
    pub(super) fn is_open(&self) -> bool {
        self.opened().is_some()
    }

    /// Flushes the disk of an export that is about to be forgotten. The device logs a failure.
    pub(super) async fn flush_idle(&self) {
        if let Some(device) = self.opened().filter(|device| device.needs_last_flush()) {
            let _ = device.last_flush().await;
        }
    }

    /// Returns true if the last attempt to open the disk failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.with_disk().status.borrow().phase, Phase::Failed(_))
    }

    async fn settled(&self) -> Phase {
        let mut changes = self.status.subscribe();
        match changes.wait_for(|status| status.stage().is_none()).await {
            Ok(status) => status.phase.clone(),
            // This cannot fail, because `self` owns the sender.
            Err(_) => Phase::Closed,
        }
    }

    /// Begins an attempt to open the disk, which the caller must carry out. Returns `None` if none
    /// is needed or allowed now.
    fn attempt(self: &Arc<Self>) -> Option<Attempt> {
        let mut before = None;
        let taken = self.status.send_if_modified(|status| {
            match &status.phase {
                Phase::Busy(_) | Phase::Open(_) | Phase::Draining(_) | Phase::Gone => return false,
                Phase::Failed(failed) if !failed.is_due() => return false,
                Phase::Failed(failed) => before = Some(failed.clone()),
                Phase::Closed => {}
            }
            let stage = if status.config.is_some() { Stage::Opening } else { Stage::Loading };
            status.phase = Phase::Busy(stage);
            true
        });
        taken.then(|| Attempt { export: self.clone(), before, ended: false })
    }

    /// Returns true if [`Self::finish`] has anything to do.
    pub fn needs_last_flush(&self) -> bool {
        self.held().is_some_and(|disk| disk.needs_last_flush())
    }

    /// Flushes the disk, if it is open, before the process stops.
    ///
    /// # Errors
    ///
    /// Returns an error if the component fails to flush; this is logged.
    pub async fn finish(&self) -> Result<(), ErrorCode> {
        match self.held() {
            Some(disk) => disk.last_flush().await.map(drop).map_err(|error| error.code),
            None => Ok(()),
        }
    }

    /// Returns the device even if the export is being removed.
    fn held(&self) -> Option<Arc<dyn Device>> {
        match &self.status.borrow().phase {
            Phase::Open(disk) | Phase::Draining(disk) => Some(disk.clone()),
            _ => None,
        }
    }

    /// Waits for the exclusive right to replace the device.
    pub(crate) async fn replacing(&self) -> Replacing<'_> {
        self.ports().replacing().await
    }

    pub(super) fn opened(&self) -> Option<Arc<dyn Device>> {
        if !self.has_name() {
            return None;
        }
        match &self.with_disk().status.borrow().phase {
            Phase::Open(disk) => Some(disk.clone()),
            _ => None,
        }
    }
}

impl Phase {
    pub(super) fn state(&self) -> State {
        match self {
            Self::Closed => State::Closed,
            Self::Busy(stage) => State::Opening(*stage),
            Self::Open(_) => State::Live,
            Self::Failed(failed) => State::Failed(failed.clone()),
            Self::Draining(_) => State::Draining,
            Self::Gone => State::Gone,
        }
    }
}

impl Status {
    pub(super) fn stage(&self) -> Option<Stage> {
        match self.phase {
            Phase::Busy(stage) => Some(stage),
            _ => None,
        }
    }
}
