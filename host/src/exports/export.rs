//! A single export: what it is called, how clients may use it, and what it counts. Its disk is opened by
//! `opening`, closed by `closing`, and replaced by `replacing`.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use super::bitmaps::Bitmaps;
use super::observer::{Change, Observer};
use super::other_name::OtherName;
use super::phase::{Phase, Status};
use super::policy::Policy;
use super::uppers::Uppers;
use super::{Problem, Stage, State};
use crate::budget;
use crate::component::Client;
use crate::device::guest::DiskConfig;
use crate::device::{Account, Control, Device, Heat, Port, Ports};
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

/// A named disk.
pub struct Export {
    id: u64,
    /// The number of the export that clients find: for the disk of a single client, not its own.
    registered_id: u64,
    name: String,
    pub(super) source: Option<Arc<dyn Source>>,
    pub(super) status: watch::Sender<Status>,
    /// The connections that use the disk.
    pub(super) ports: Arc<Ports>,
    pub(super) account: Account,
    /// Where the disk is read and written, while somebody looks.
    heat: Heat,
    policy: RwLock<Arc<Policy>>,
    /// How often the device was replaced.
    pub(super) generation: AtomicU64,
    /// Each client has a disk of its own.
    pub(super) private: bool,
    /// The devices of other exports that stand on the device.
    pub(super) uppers: Uppers,
    /// The export by whose disk this one is served, if it is another name of that.
    pub(super) other_name: Option<OtherName>,
    /// The number of exports that are other names of this one.
    pub(super) other_names: AtomicUsize,
    /// The only client of its disk.
    client: Option<Client>,
    /// Somebody may change the device without a connection.
    pub(super) handed_out: AtomicBool,
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

/// Returns a number that no other export has or had.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
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
    pub(super) fn with_disk(&self) -> &Self {
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
}
