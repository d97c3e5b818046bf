//! Tenants: parties that share a server and do not know of each other.
//!
//! Each has disks and snapshots of its own, in a registry of its own, and an API of its own for them,
//! with its own locks. What one does for a tenant finds nothing of another one. The tenant `default`
//! is the administrator's: its disks are those of the command line, and what clients get whom nobody
//! knows.
//!
//! - `entries`: whose disks an NBD client gets.
//! - `levels`: how much of its quotas a tenant uses.
//! - `near`: telling tenants that they come near their quotas.
//! - `routes`: tenants and tokens in the API.
//! - `sockets`: the sockets of tenants.
//! - `spec`: what a tenant may have.
//! - `tokens`: secrets, and what they are good for.
//! - `ways`: how clients are recognised.

mod entries;
mod levels;
mod near;
mod routes;
mod sockets;
mod spec;
mod tokens;
mod ways;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use axum::Router;
use memnbd::budget::Budget;
use memnbd::device::SharedBuffers;
use memnbd::device::guest::GuestTime;
use memnbd::exports::{Exports, SharedBudgets};
use memnbd::rate::{Limits, Scope};
use memnbd::server::{Handle, Namespace};
use tokio::task::AbortHandle;

use super::api::{Api, Room};
use super::catalog::Entry;
use super::changes::Origin;
use super::events::{self, AllLives};
use super::lives::Lives;
use super::metrics::Board;
use super::model::DiskSpec;
use super::offers::{ExportSpec, Offer};
use super::problem::Problem;
use super::{idle, lives};
use crate::chain::Chain;
use crate::events::Hubs;
use crate::grants::Grants;
use crate::leftovers::Leftovers;
use crate::making::{Maker, Owner};
use crate::plan::Listen;
pub(crate) use entries::{Entries, NoSeat};
pub(super) use levels::Level;
pub(super) use routes::router;
pub(crate) use sockets::Sockets;
pub(crate) use spec::{Cpus, FIRST, Quotas, TenantSpec, check_tenant, check_token};
pub(crate) use tokens::{Holder, NotSet, Role, Token};

/// The most tenants, besides the first.
pub(crate) const MAX_TENANTS: usize = 1000;

/// A tenant that is not served yet.
pub(crate) struct Founded {
    pub(crate) name: String,
    pub(crate) spec: TenantSpec,
    pub(crate) exports: Arc<Exports>,
    pub(crate) maker: Maker,
    /// Its disks, which are among the exports.
    pub(crate) disks: HashMap<String, (DiskSpec, Arc<Chain>)>,
    /// Its exports that are other names of disks, which are among the exports as well.
    pub(crate) offers: BTreeMap<String, ExportSpec>,
    pub(crate) sockets: Sockets,
    origin: Origin,
    owner: Owner,
}

impl Founded {
    /// Founds a tenant, who may name these grants.
    pub(crate) fn new(name: &str, spec: TenantSpec, grants: Grants, maker: &Maker) -> Self {
        Self::of_origin(name, spec, grants, maker, Origin::File)
    }

    fn of_origin(
        name: &str,
        spec: TenantSpec,
        grants: Grants,
        maker: &Maker,
        origin: Origin,
    ) -> Self {
        let exports = Arc::new(Exports::in_namespace(name));
        let budgets = SharedBudgets {
            memory: maker.process().memory().child_up_to(spec.quotas.memory),
            buffers: SharedBuffers::new(spec.quotas.inflight.get()),
            time: GuestTime::default(),
        };
        budgets.time.set(spec.quotas.processors());
        let owner = Owner {
            exports: Arc::downgrade(&exports),
            budgets,
            sizes: Budget::new(spec.quotas.size.unwrap_or(u64::MAX)),
            limits: Arc::new(Limits::default()),
        };
        let maker = maker.for_owner(owner.clone(), Arc::new(grants));
        let (name, disks, offers) = (name.to_owned(), HashMap::new(), BTreeMap::new());
        let sockets = Sockets::default();
        Self { name, spec, exports, maker, disks, offers, sockets, origin, owner }
    }
}

/// A tenant.
pub(super) struct Tenant {
    name: String,
    pub(super) api: Arc<Api>,
    router: Router,
    /// What bounds it, unless it is the first.
    bounds: Option<Bounds>,
    sockets: tokio::sync::Mutex<Sockets>,
    /// What ends with the tenant.
    tasks: [AbortHandle; 2],
}

/// What bounds a tenant.
struct Bounds {
    spec: Mutex<TenantSpec>,
    budgets: SharedBudgets,
    sizes: Budget,
    limits: Arc<Limits>,
    origin: Origin,
    _namespace: Namespace,
}

impl Tenant {
    fn new(name: &str, api: Api, bounds: Option<Bounds>, sockets: Sockets) -> Self {
        let api = Arc::new(api);
        events::observe_disks(&api);
        let tasks = [
            tokio::spawn(idle::close_idle(api.clone())).abort_handle(),
            tokio::spawn(lives::end_lives(api.clone())).abort_handle(),
        ];
        let router = super::router_of(api.clone());
        Self { name: name.to_owned(), api, router, bounds, sockets: sockets.into(), tasks }
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if the configuration file has it.
    fn is_of_file(&self) -> bool {
        self.bounds.as_ref().is_some_and(|bounds| bounds.origin == Origin::File)
    }

    /// Closes its sockets but these.
    pub(super) async fn close_other_sockets(&self, wanted: &[Listen]) {
        for listen in self.sockets.lock().await.close_others(wanted).await {
            tracing::info!("tenant {:?}: closed {}", self.name, listen.address);
        }
    }

    /// Opens those of these sockets that it does not have yet. Returns what went wrong.
    pub(super) async fn open_sockets(
        &self,
        wanted: &[Listen],
        leftovers: &Leftovers,
    ) -> Vec<String> {
        let opened = self.sockets.lock().await.open(wanted, &self.api.server, leftovers);
        let told = opened.into_iter().filter_map(|(listen, done)| match done {
            Ok(()) => {
                tracing::info!("tenant {:?}: listens on {}", self.name, listen.address);
                None
            }
            Err(error) => Some(format!("the tenant {:?}: {error:#}", self.name)),
        });
        told.collect()
    }

    /// Returns what it may have; `None` if it is the first.
    pub(super) fn spec(&self) -> Option<TenantSpec> {
        self.bounds.as_ref().map(|bounds| bounds.spec().clone())
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Bounds {
    fn spec(&self) -> MutexGuard<'_, TenantSpec> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All tenants.
pub(super) struct Tenants {
    server: Handle,
    hubs: Hubs,
    pub(super) entries: Arc<Entries>,
    first: Arc<Tenant>,
    others: RwLock<BTreeMap<String, Arc<Tenant>>>,
    lives: AllLives,
    /// Which disks have metrics of their own.
    pub(super) board: Mutex<Board>,
    /// Held while tenants come, change or go.
    pub(super) changing: tokio::sync::Mutex<()>,
}

impl Tenants {
    /// Creates the tenants of a server, of which the first has this API.
    pub(super) fn new(first: Api, hubs: Hubs, entries: Arc<Entries>) -> Self {
        let server = first.server.clone();
        let lives = AllLives::default();
        events::observe_clients(&server, &hubs, &lives);
        lives_of(&lives).insert(String::new(), first.lives.clone());
        let first = Arc::new(Tenant::new(FIRST, first, None, Sockets::default()));
        entries.open(FIRST, server.registry(), GuestTime::default());
        let (others, changing) = (RwLock::default(), tokio::sync::Mutex::default());
        let board = Mutex::default();
        Self { server, hubs, entries, first, others, lives, board, changing }
    }

    /// Returns the API of the first tenant.
    pub(super) fn first(&self) -> &Arc<Api> {
        &self.first.api
    }

    /// Returns the names of all tenants, and their APIs.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, Arc<Api>)> {
        let all = [self.first.clone()].into_iter().chain(self.others());
        all.map(|tenant| (tenant.name.clone(), tenant.api.clone()))
    }

    /// Returns a tenant.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Tenant>> {
        match name {
            FIRST => Some(self.first.clone()),
            name => self.others.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned(),
        }
    }

    /// Returns the tenants besides the first, by their names.
    pub(super) fn others(&self) -> Vec<Arc<Tenant>> {
        self.others.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Serves a tenant from now on.
    ///
    /// # Errors
    ///
    /// Returns a problem if there is one of this name, if there are too many, or if its clients are those of
    /// another one.
    pub(super) fn open(&self, founded: Founded) -> Result<Arc<Tenant>, Problem> {
        let Founded { name, spec, exports, maker, disks, offers, sockets, origin, owner } = founded;
        let count = self.others.read().unwrap_or_else(PoisonError::into_inner).len();
        if count >= MAX_TENANTS {
            return Err(Problem::full(format!(
                "there are {MAX_TENANTS} tenants, and no more are possible; remove some"
            )));
        }
        self.check_names(&name)?;
        let conflict = |problem: &dyn std::fmt::Display| {
            Problem::conflict(format!("the tenant {name:?}: {problem}"))
        };
        let added = self.server.add_namespace(exports.clone(), spec.quotas.connections);
        let (namespace, server) = added.map_err(|error| conflict(&error))?;
        self.entries.ways.set(&name, &spec).map_err(|error| conflict(&error))?;
        owner.limits.set(Scope::Export, spec.quotas.rates());
        let room = Room::of(&spec.quotas);
        let api = Api::new(server, maker, HashMap::new(), self.hubs.add(&name), room);
        for (disk, (spec, chain)) in disks {
            if let Some(export) = api.server.named(&disk) {
                api.record(&export, Entry { spec, chain, origin: Some(Origin::File) });
            }
        }
        for (export, spec) in offers {
            api.offers.insert(&export, Offer { spec, origin: Some(Origin::File) });
        }
        lives_of(&self.lives).insert(name.clone(), api.lives.clone());
        let time = owner.budgets.time.clone();
        let bounds = Bounds {
            spec: Mutex::new(spec),
            budgets: owner.budgets,
            sizes: owner.sizes,
            limits: owner.limits,
            origin,
            _namespace: namespace,
        };
        let tenant = Arc::new(Tenant::new(&name, api, Some(bounds), sockets));
        tokio::spawn(near::watch(Arc::downgrade(&tenant)));
        self.entries.open(&name, &exports, time);
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.insert(name, tenant.clone());
        Ok(tenant)
    }

    /// Checks that no disk of the first tenant is called like one of this tenant in the log.
    fn check_names(&self, tenant: &str) -> Result<(), Problem> {
        let is_like = |name: &str| name.split_once('/').is_some_and(|(begin, _)| begin == tenant);
        let exports = self.server.exports();
        match exports.iter().find(|export| is_like(export.name())) {
            Some(export) => Err(Problem::conflict(format!(
                "the disk {:?} of the tenant {FIRST:?} is called like one of the tenant {tenant:?}; choose \
                 another name for one of them",
                export.name()
            ))),
            None => Ok(()),
        }
    }

    /// Changes what a tenant may have, and how its clients are recognised.
    ///
    /// # Errors
    ///
    /// Returns a problem if its clients would be those of another one.
    pub(super) fn change(&self, tenant: &Tenant, spec: TenantSpec) -> Result<(), Problem> {
        let Some(bounds) = &tenant.bounds else {
            return Err(Problem::conflict(format!("the tenant {FIRST:?} has no quotas")));
        };
        let ways = self.entries.ways.set(&tenant.name, &spec);
        ways.map_err(|error| Problem::conflict(error.to_string()))?;
        bounds.budgets.memory.set_limit(spec.quotas.memory);
        bounds.budgets.buffers.set_limit(spec.quotas.inflight.get());
        bounds.budgets.time.set(spec.quotas.processors());
        bounds.sizes.set_limit(spec.quotas.size.unwrap_or(u64::MAX));
        bounds.limits.set(Scope::Export, spec.quotas.rates());
        tenant.api.server.set_max_connections(spec.quotas.connections);
        tenant.api.set_room(Room::of(&spec.quotas));
        *bounds.spec() = spec;
        Ok(())
    }

    /// Removes a tenant with all that it has. Its clients are disconnected.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Problem> {
        let removed = {
            let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
            others.remove(name)
        };
        let Some(tenant) = removed else { return Err(unknown(name)) };
        self.entries.close(name);
        tenant.close_other_sockets(&[]).await;
        tenant.api.remove_everything().await;
        lives_of(&self.lives).remove(name);
        self.hubs.remove(name);
        tracing::info!("tenant {name:?}: removed");
        Ok(())
    }
}

/// What the configuration file asks for.
impl Tenants {
    /// Returns the names of the tenants of the file that are not in it any more.
    pub(super) fn without_file(&self, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        let others = self.others();
        let gone = others.iter().filter(|tenant| tenant.is_of_file() && !is_there(&tenant.name));
        gone.map(|tenant| tenant.name.clone()).collect()
    }

    /// Returns a tenant of the file, if it is served already.
    ///
    /// # Errors
    ///
    /// Returns a problem if the tenant was not made by the file, or cannot be served.
    pub(super) fn of_file(&self, name: &str) -> Result<Option<Arc<Tenant>>, Problem> {
        match self.get(name) {
            None => self.check_names(name).map(|()| None),
            Some(tenant) if tenant.is_of_file() => Ok(Some(tenant)),
            Some(_) => Err(Problem::conflict(format!(
                "the tenant {name:?} was made through the control API; remove it there first"
            ))),
        }
    }

    /// Checks that these can be the clients of these tenants.
    ///
    /// # Errors
    ///
    /// Returns a problem if two tenants would have the same.
    pub(super) fn check_clients(&self, all: &[(&str, &TenantSpec)]) -> Result<(), Problem> {
        let checked = self.entries.ways.check(all);
        checked.map_err(|error| Problem::conflict(error.to_string()))
    }

    /// Makes these the clients of these tenants, all at once.
    ///
    /// # Errors
    ///
    /// Returns a problem if two tenants would have the same.
    pub(super) fn set_clients(&self, all: &[(&str, &TenantSpec)]) -> Result<(), Problem> {
        let set = self.entries.ways.replace(all);
        set.map_err(|error| Problem::conflict(error.to_string()))
    }
}

fn lives_of(all: &AllLives) -> RwLockWriteGuard<'_, HashMap<String, Lives>> {
    all.write().unwrap_or_else(PoisonError::into_inner)
}

/// There is no such tenant, or none for whoever asks.
pub(super) fn unknown(name: &str) -> Problem {
    Problem::not_found(format!("there is no tenant {name:?}"))
}
