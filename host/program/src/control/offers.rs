//! What exports serve: further names of disks, and snapshots as they are.
//!
//! The list says which exports a server has besides its disks. The module does not know requests of the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memnbd::exports::{Export, Exports, Policy};
use memnbd::parameters::nearest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::changes::Origin;
use super::filters::problem_of;
use super::model::{MAX_FILTERS, check_parameters};
use super::problem::Problem;
use crate::making::Maker;

/// What an export serves, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "disk": "scratch",
    "read_only": true,
    "filters": ["limit"],
    "parameters": ["limit=1"]
}))]
pub(crate) struct ExportSpec {
    /// The disk. Either this or `snapshot` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<String>,
    /// The snapshot, which is served read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<String>,
    /// Whether clients of this export cannot write, even if those of the disk's own name can.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// Whether clients must use TLS.
    #[serde(default)]
    pub(crate) tls: bool,
    /// The filters that limit clients: `ip`, `limit`, `rate` and `time-limit`, at most 16. Those of the disk's
    /// own name do not count here.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub(crate) filters: Vec<String>,
    /// Their parameters, as `KEY=VALUE`.
    #[serde(default)]
    #[schema(max_items = 1024)]
    pub(crate) parameters: Vec<String>,
}

impl ExportSpec {
    /// Checks the limits, and that either a disk or a snapshot is served.
    pub(crate) fn checked(self) -> Result<Self, String> {
        if self.disk.is_some() == self.snapshot.is_some() {
            return Err("an export has either a disk or a snapshot".into());
        }
        if self.filters.len() > MAX_FILTERS {
            let given = self.filters.len();
            return Err(format!("{given} filters; an export has at most {MAX_FILTERS}"));
        }
        check_parameters(&self.parameters)?;
        Ok(Self { read_only: self.read_only || self.snapshot.is_some(), ..self })
    }

    /// Returns how much memory its texts take.
    pub(crate) fn weight(&self) -> usize {
        let texts = self.filters.iter().chain(&self.parameters);
        let texts = texts.chain(&self.disk).chain(&self.snapshot);
        texts.map(|text| text.len() + size_of::<String>()).sum()
    }

    /// Returns what the export demands of its clients.
    pub(super) fn policy(&self, maker: &Maker) -> Result<Policy, Problem> {
        if self.tls && !maker.has_tls() {
            return Err(Problem::conflict("the server was started without TLS"));
        }
        let policy = maker.demands(&self.filters, &self.parameters).map_err(problem_of)?;
        Ok(Policy { tls: self.tls, ..policy })
    }

    /// Makes the export of a disk.
    pub(super) fn of_disk(
        &self,
        disk: &Arc<Export>,
        full_name: &str,
        policy: Policy,
    ) -> Result<Arc<Export>, Problem> {
        let export = disk.by_another_name(full_name, self.read_only);
        let export = export
            .ok_or_else(|| Problem::conflict("each client has a disk of its own (--private)"))?;
        Ok(export.with_policy(policy))
    }

    /// Returns true if both differ in the limits of their clients at most.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let unlimited = |spec: &Self| {
            let (filters, parameters) = (Vec::new(), Vec::new());
            Self { filters, parameters, ..spec.clone() }
        };
        unlimited(self) == unlimited(other)
    }
}

/// An export, and the configuration that made it, if one did.
pub(super) struct Offer {
    pub(super) spec: ExportSpec,
    pub(super) origin: Option<Origin>,
}

/// The exports that are no disks.
#[derive(Clone, Default)]
pub(super) struct Offers(Arc<Mutex<List>>);

#[derive(Default)]
struct List {
    offers: BTreeMap<String, Offer>,
    /// The memory that the texts take, in bytes.
    weight: usize,
}

impl Offers {
    /// Returns true if there is an export of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.list().offers.contains_key(name)
    }

    /// Returns the memory that the texts of all take, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.list().weight
    }

    /// Returns the names of the exports of a disk.
    pub(super) fn of_disk(&self, disk: &str) -> Vec<String> {
        let list = self.list();
        let of_it =
            list.offers.iter().filter(|(_, offer)| offer.spec.disk.as_deref() == Some(disk));
        of_it.map(|(name, _)| name.clone()).collect()
    }

    /// Returns true if there is an export of this name that serves a snapshot.
    pub(super) fn is_of_snapshot(&self, name: &str) -> bool {
        self.list().offers.get(name).is_some_and(|offer| offer.spec.snapshot.is_some())
    }

    /// Returns the names of all.
    pub(super) fn names(&self) -> Vec<String> {
        self.list().offers.keys().cloned().collect()
    }

    /// Returns what an export serves.
    pub(super) fn spec(&self, name: &str) -> Option<ExportSpec> {
        self.list().offers.get(name).map(|offer| offer.spec.clone())
    }

    /// Returns the exports that a configuration made, by their names.
    pub(super) fn of_origin(&self, origin: Origin) -> BTreeMap<String, ExportSpec> {
        let list = self.list();
        let of_it = list.offers.iter().filter(|(_, offer)| offer.origin == Some(origin));
        of_it.map(|(name, offer)| (name.clone(), offer.spec.clone())).collect()
    }

    /// Returns true if a configuration made the export.
    pub(super) fn is_of(&self, name: &str, origin: Origin) -> bool {
        self.list().offers.get(name).is_some_and(|offer| offer.origin == Some(origin))
    }

    /// Returns the name of the export that is most like a wrong one.
    pub(super) fn nearest(&self, name: &str) -> Option<String> {
        let list = self.list();
        nearest(name, list.offers.keys().map(String::as_str)).map(str::to_owned)
    }

    /// Records an export, in place of one of the same name.
    pub(super) fn insert(&self, name: &str, offer: Offer) {
        let mut list = self.list();
        list.weight += offer.spec.weight();
        let before = list.offers.insert(name.to_owned(), offer);
        list.weight -= before.map_or(0, |offer| offer.spec.weight());
    }

    /// Forgets an export.
    pub(super) fn remove(&self, name: &str) {
        let mut list = self.list();
        let removed = list.offers.remove(name);
        list.weight -= removed.map_or(0, |offer| offer.spec.weight());
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds an export of a disk to those of a server or tenant that is not served yet.
///
/// # Errors
///
/// Returns a message if there is no such disk, if a disk has this name, or if the filters, their parameters
/// or TLS are not possible.
pub(crate) fn offer_at_start(
    exports: &Exports,
    maker: &Maker,
    name: &str,
    spec: &ExportSpec,
) -> Result<(), String> {
    let disk = spec.disk.as_deref().unwrap_or_default();
    let main = exports.named(disk).ok_or_else(|| {
        let all = exports.list();
        let known = all.iter().map(|export| exports.local_name(export));
        let guess = nearest(disk, known)
            .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        format!("there is no disk {disk:?}{guess}")
    })?;
    if main.main().is_some() {
        return Err(format!("{disk:?} is an export, and no disk; name the disk itself"));
    }
    let made = spec
        .policy(maker)
        .and_then(|policy| spec.of_disk(&main, &exports.full_name(name), policy))
        .map_err(|problem| problem.detail().to_owned())?;
    exports.add(made).map_err(|_| format!("there is a disk {name:?} already; choose another name"))
}
