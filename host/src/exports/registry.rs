//! The registry of a server's exports.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::Export;
use super::links::Links;
use super::listing::{FindExports, Listing};
use super::naming::Naming;
use super::observer::{Change, Observe, Observer};
use super::policy::Policy;
use crate::access::Origin;
use crate::block::ErrorCode;
use crate::component::Listed;
use crate::parameters::nearest;
use crate::places::ExportPlaces;

/// How many times as large as its content the table of names may be before it gives back memory.
const SPARSE: usize = 8;

/// The exports of a server, to which others may be added while it runs, and from which they may be
/// removed.
#[derive(Default)]
pub struct Exports {
    /// What the names of all of them begin with, which clients leave out.
    prefix: String,
    list: RwLock<List>,
    links: Arc<Links>,
    /// Those that can be made on demand, if there is a list of them.
    listing: OnceLock<Listing>,
    /// What clients get that do not use TLS, whatever they ask for; if not set, the same as others.
    without_tls: OnceLock<Arc<Export>>,
    naming: OnceLock<Naming>,
    observer: Arc<Observer>,
    /// The places of their connections, once they are served.
    places: Arc<OnceLock<ExportPlaces>>,
}

#[derive(Default)]
struct List {
    /// In the order in which they were added.
    list: Vec<Arc<Export>>,
    /// By what clients call them.
    by_name: HashMap<String, Arc<Export>>,
    /// The name of the first that was added, which the empty name stands for. That does not change when
    /// the export is removed: clients that name none must not end up with another's disk.
    default: Option<String>,
    on_demand: Option<OnDemand>,
    /// The default export stands for all names that no other has.
    any_name: bool,
}

/// Exports that are made when clients ask for them.
struct OnDemand {
    make: Make,
    /// What they demand of their clients.
    policy: Policy,
    most: usize,
    /// Those that were made, the one first that was asked for the longest time ago.
    names: VecDeque<String>,
}

/// Makes an export of a name that a client asks for.
pub type Make = Box<dyn Fn(&str) -> Arc<Export> + Send + Sync>;

/// The answer to a client that asks for an export.
pub(crate) struct Requested {
    /// The export, if there is one.
    pub(crate) export: Option<Arc<Export>>,
    /// The name of an export that was closed to make room for this one.
    pub(crate) closed: Option<String>,
}

impl Exports {
    /// Creates a registry of these exports.
    ///
    /// # Errors
    ///
    /// Returns an error if two exports have the same name.
    pub fn new(list: impl IntoIterator<Item = Arc<Export>>) -> Result<Self, DuplicateName> {
        let exports = Self::default();
        list.into_iter().try_for_each(|export| exports.add(export))?;
        Ok(exports)
    }

    /// Creates a registry of a single export.
    pub fn only(export: Arc<Export>) -> Self {
        let exports = Self::default();
        // There is no other name.
        let _ = exports.add(export);
        exports
    }

    /// Creates an empty registry whose exports have names of their own: the names of the exports begin with
    /// that of the namespace and a slash, which their clients leave out. No client can name, find or list
    /// exports of another registry.
    pub fn in_namespace(name: &str) -> Self {
        Self { prefix: format!("{name}/"), ..Self::default() }
    }

    /// Returns the name of the namespace; empty if the exports have none.
    pub fn namespace(&self) -> &str {
        self.prefix.strip_suffix('/').unwrap_or_default()
    }

    /// Returns what an export has to be called whose clients call it `name`.
    pub fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Returns what the clients of an export call it.
    pub fn local_name<'a>(&self, export: &'a Export) -> &'a str {
        export.name().strip_prefix(&self.prefix).unwrap_or(export.name())
    }

    /// Says from where connections take their places. The first call of this method counts.
    pub(crate) fn set_places(&self, places: ExportPlaces) {
        let _ = self.places.set(places);
    }

    /// Returns the places of the exports' connections, without limits before they are served.
    pub(crate) fn places(&self) -> &ExportPlaces {
        self.places.get_or_init(ExportPlaces::default)
    }

    /// Calls a function whenever something happens to an export of this registry, from now on. The first
    /// call of this method counts.
    pub fn observe(&self, observe: Observe) {
        self.observer.set(observe);
    }

    /// Makes exports when clients request unknown names, at most `most` at a time. Beyond that, the least
    /// recently requested one without clients is closed, and its disk is dropped; if all have clients, the
    /// request fails.
    pub fn on_demand(&self, most: usize, make: Make) {
        self.on_demand_for(most, Policy::default(), make);
    }

    /// Makes exports like [`Self::on_demand`], where all that `make` returns have this policy.
    pub fn on_demand_for(&self, most: usize, policy: Policy, make: Make) {
        self.write().on_demand = Some(OnDemand { make, policy, most, names: VecDeque::new() });
    }

    /// Serves this export, and no other, to all clients that do not use TLS, whatever they ask for. The
    /// first call of this method counts.
    pub fn serve_without_tls(&self, export: Arc<Export>) {
        let _ = self.without_tls.set(export);
    }

    /// Returns the only export for clients that do not use TLS, if they get another than the rest.
    pub(crate) fn without_tls(&self) -> Option<&Arc<Export>> {
        self.without_tls.get()
    }

    /// Tells clients of names by these rules. They are not for sockets that serve one export. The first call
    /// of this method counts.
    pub fn name_by(&self, naming: Naming) {
        let _ = self.naming.set(naming);
    }

    /// Returns the rules for names.
    pub(crate) fn naming(&self) -> &Naming {
        self.naming.get_or_init(Naming::default)
    }

    /// Returns a registry of one of these exports, for a socket that serves no other.
    pub fn narrowed(&self, export: Arc<Export>) -> Self {
        let narrowed = self.only_one(export);
        if let Some(export) = self.without_tls() {
            narrowed.serve_without_tls(export.clone());
        }
        narrowed
    }

    /// Returns a registry of one of these exports, which clients get even if they do not use TLS.
    pub(crate) fn only_one(&self, export: Arc<Export>) -> Self {
        let places = self.places.clone();
        let only = Self { prefix: self.prefix.clone(), places, ..Self::default() };
        // There is no other name.
        let _ = only.add(export);
        only
    }

    /// Returns true if there may be an export for this client.
    pub(crate) fn permit(&self, origin: &Origin) -> bool {
        let list = self.read();
        let on_demand = list.on_demand.as_ref().map(|on_demand| &on_demand.policy);
        (list.list.is_empty() && on_demand.is_none())
            || list.list.iter().any(|export| export.policy().permits(origin))
            || on_demand.is_some_and(|policy| policy.permits(origin))
    }

    /// Lists the exports that are made on demand: those that a function finds, which is called when
    /// clients ask for a list, at most once a second. With `is_volatile`, the names may soon stand for
    /// something else: exports without clients are then opened anew. The first call of this method counts.
    pub fn list_on_demand(&self, find: FindExports, is_volatile: bool) {
        let _ = self.listing.set(Listing::new(find, is_volatile));
    }

    /// Returns the exports that can be made on demand, or `None` if there is no list of them.
    pub(crate) async fn listed_on_demand(&self) -> Option<Arc<Listed>> {
        Some(self.listing.get()?.listed().await)
    }

    /// Returns the name that stands for the empty one where exports are made on demand.
    pub(crate) async fn default_on_demand(&self) -> Option<String> {
        match self.find("") {
            Some(_) => None,
            None => self.listed_on_demand().await?.default.clone(),
        }
    }

    /// Returns the name that stands for the empty one, which is the empty one if there is no other.
    pub(crate) async fn default_name(&self) -> String {
        if let Some(default) = &self.naming().default {
            return default.clone();
        }
        match self.find("") {
            Some(export) => self.local_name(&export).to_owned(),
            None => self.default_on_demand().await.unwrap_or_default(),
        }
    }

    /// Makes the export that the empty name stands for answer to every name that no other export has,
    /// unless exports are made on demand.
    pub fn answer_any_name(&self) {
        self.write().any_name = true;
    }

    /// Returns true if exports are made on demand.
    pub fn has_on_demand(&self) -> bool {
        self.read().on_demand.is_some()
    }

    /// Adds an export. Clients find it from now on.
    ///
    /// # Errors
    ///
    /// Returns an error if there is an export of this name.
    pub fn add(&self, export: Arc<Export>) -> Result<(), DuplicateName> {
        let name = self.local_name(&export).to_owned();
        let mut list = self.write();
        if list.by_name.contains_key(&name) {
            return Err(DuplicateName(name));
        }
        list.default.get_or_insert_with(|| name.clone());
        list.list.push(export.clone());
        list.by_name.insert(name, export.clone());
        export.register(&self.observer, false);
        Ok(())
    }

    /// Removes an export, as [`Handle::remove`](crate::server::Handle::remove) does. The name is taken
    /// until then. The future must not be dropped before it completes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such export, or if its disk could not be flushed.
    pub(crate) async fn remove(&self, name: &str, limit: Duration) -> Result<(), NotRemoved> {
        let export = self.named(name).ok_or(NotRemoved::Unknown)?;
        if export.is_stood_on() {
            return Err(NotRemoved::StoodOn);
        }
        if export.has_other_names() {
            return Err(NotRemoved::HasOtherNames);
        }
        let closed = export.close(limit).await;
        self.write().forget(&export);
        closed.map_err(NotRemoved::Unflushed)
    }

    /// Returns the export that a client requests by this name.
    pub fn find(&self, name: &str) -> Option<Arc<Export>> {
        let list = self.read();
        let found = match list.by_name.get(name) {
            None if name.is_empty() || list.any_name => list.by_name.get(list.default.as_ref()?),
            found => found,
        };
        found.filter(|export| export.may_be_used()).cloned()
    }

    /// Returns the export of exactly this name: the empty one is that of an export which has no other.
    pub fn named(&self, name: &str) -> Option<Arc<Export>> {
        let list = self.read();
        list.by_name.get(name).filter(|export| export.may_be_used()).cloned()
    }

    /// Returns the export for a client, and makes it if exports are made on demand. It must be called
    /// inside of a tokio runtime.
    pub(crate) fn request(&self, name: &str) -> Requested {
        if !self.has_on_demand() {
            return Requested { export: self.find(name), closed: None };
        }
        let mut list = self.write();
        if let Some(found) = list.by_name.get(name).cloned() {
            if !self.is_stale(&found, &list) {
                list.touch(name);
                let export = found.may_be_used().then_some(found);
                return Requested { export, closed: None };
            }
            list.forget(&found);
            // A client that has just asked for it may go on.
            tokio::spawn(async move { found.flush_idle().await });
        }
        let closed = match list.make_room() {
            Ok(closed) => closed,
            Err(Full) => {
                tracing::debug!("no export {name:?} is made: all that may be made have clients");
                return Requested { export: None, closed: None };
            }
        };
        let export = list.make(name);
        if let Some(export) = &export {
            export.register(&self.observer, true);
        }
        drop(list);
        let name = closed.as_ref().map(|closed| closed.name().to_owned());
        if let Some(closed) = closed {
            // It has no clients. A failure is logged.
            tokio::spawn(async move { closed.close(Duration::ZERO).await });
        }
        Requested { export, closed: name }
    }

    /// Returns the message that there is no export of this name, with the nearest.
    pub(super) fn unknown(&self, name: &str) -> String {
        let list = self.read();
        let names: Vec<&str> = list.list.iter().map(|export| self.local_name(export)).collect();
        let nearest = nearest(name, names.iter().copied());
        let guess = nearest.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        format!("there is no export {name:?}{guess}")
    }

    pub(super) fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Returns true if an export that was made on demand from a list of names has to be made again,
    /// because its name may stand for something else by now.
    fn is_stale(&self, export: &Export, list: &List) -> bool {
        let made = list
            .on_demand
            .as_ref()
            .is_some_and(|on_demand| on_demand.names.iter().any(|name| name == export.name()));
        self.listing.get().is_some_and(|listing| listing.is_volatile)
            && made
            && export.is_idle()
            && export.is_open()
    }

    /// Returns the exports, in the order in which they were added.
    pub fn list(&self) -> Vec<Arc<Export>> {
        let list = self.read();
        list.list.iter().filter(|export| export.may_be_used()).cloned().collect()
    }

    /// Returns the number of exports, with those that are being removed.
    pub(crate) fn count(&self) -> usize {
        self.read().list.len()
    }

    /// Returns those that are being removed, too.
    pub(crate) fn all(&self) -> Vec<Arc<Export>> {
        self.read().list.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many exports were made on demand as may be, and all have clients.
struct Full;

impl List {
    /// Says that an export was asked for.
    fn touch(&mut self, name: &str) {
        let Some(OnDemand { names, .. }) = &mut self.on_demand else { return };
        if let Some(index) = names.iter().position(|made| made == name)
            && let Some(name) = names.remove(index)
        {
            names.push_back(name);
        }
    }

    /// Forgets an export that was made on demand and has no clients, if there is no room for another.
    fn make_room(&mut self) -> Result<Option<Arc<Export>>, Full> {
        let Some(OnDemand { names, most, .. }) = &mut self.on_demand else { return Err(Full) };
        if names.len() < *most {
            return Ok(None);
        }
        let is_idle = |name: &String| self.by_name.get(name).is_none_or(|export| export.is_idle());
        let has_failed =
            |name: &String| self.by_name.get(name).is_some_and(|export| export.has_failed());
        // Those that failed are of no use to anybody.
        let failed = names.iter().position(|name| has_failed(name) && is_idle(name));
        let index = failed.or_else(|| names.iter().position(is_idle)).ok_or(Full)?;
        let name = names.remove(index).ok_or(Full)?;
        let export = self.by_name.get(&name).cloned();
        export.iter().for_each(|export| self.forget(export));
        Ok(export)
    }

    /// Makes an export on demand.
    fn make(&mut self, name: &str) -> Option<Arc<Export>> {
        let OnDemand { names, make, .. } = self.on_demand.as_mut()?;
        let export = make(name);
        names.push_back(name.to_owned());
        self.list.push(export.clone());
        self.by_name.insert(name.to_owned(), export.clone());
        Some(export)
    }

    fn forget(&mut self, export: &Arc<Export>) {
        let is_other = |present: &Arc<Export>| !Arc::ptr_eq(present, export);
        self.list.retain(is_other);
        self.by_name.retain(|_, present| is_other(present));
        if self.by_name.len() < self.by_name.capacity() / SPARSE {
            self.by_name.shrink_to(2 * self.by_name.len());
            self.list.shrink_to(2 * self.list.len());
        }
        if let Some(OnDemand { names, .. }) = &mut self.on_demand {
            names.retain(|name| name != export.name());
        }
        export.tell(Change::Removed);
    }
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list().iter().map(|export| export.name())).finish()
    }
}

/// Two exports have this name.
#[derive(Debug, PartialEq, Eq)]
pub struct DuplicateName(pub String);

impl fmt::Display for DuplicateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two exports have the name {:?}", self.0)
    }
}

impl std::error::Error for DuplicateName {}

/// Why an export was not removed as it should be.
#[derive(Debug, PartialEq, Eq)]
pub enum NotRemoved {
    /// There is no export of this name, or it is being removed already.
    Unknown,
    /// Another export stands on it.
    StoodOn,
    /// There are exports of its disk by other names.
    HasOtherNames,
    /// The export was removed, but its disk could not be flushed.
    Unflushed(ErrorCode),
}

impl fmt::Display for NotRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is no export of this name"),
            Self::StoodOn => f.write_str("another export stands on it"),
            Self::HasOtherNames => f.write_str("its disk is exported by other names as well"),
            Self::Unflushed(error) => {
                write!(f, "removed, but not flushed, so data may be lost: {error:?}")
            }
        }
    }
}

impl std::error::Error for NotRemoved {}
