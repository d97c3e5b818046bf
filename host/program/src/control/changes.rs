//! What a configuration asks for, and what was done for it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::api::Room;
use super::model::DiskSpec;
use super::offers::ExportSpec;
use super::problem::Problem;
use crate::events::TOLD;
use crate::making::Rights;

/// How many disks a message names.
const MAX_NAMED: usize = 10;

/// How many changes of a configuration are logged one by one.
const MAX_LOGGED: usize = 100;

/// Which configuration made a disk or an export. Each changes and removes only those that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The configuration file of the server.
    File,
    /// A configuration that came through the API.
    Api,
}

/// What is to become of disks that are made of something else, and would lose their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Differing {
    /// Nothing is changed at all.
    Refuse,
    /// They stay, and the others are changed.
    Keep,
    /// They are removed and created anew.
    Replace,
}

/// The disks and exports that there are to be.
pub(super) struct Wanted<'a> {
    pub(super) disks: BTreeMap<String, DiskSpec>,
    pub(super) exports: BTreeMap<String, ExportSpec>,
    pub(super) origin: Origin,
    pub(super) rights: Rights<'a>,
    pub(super) differing: Differing,
    /// How much the tenant may have then.
    pub(super) room: Room,
    pub(super) dry_run: bool,
}

/// Why nothing was changed.
pub(super) struct Refused {
    /// The name of the disk or the export that is wrong, if it is one.
    pub(super) name: Option<String>,
    pub(super) problem: Problem,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { name: None, problem }
    }
}

/// What was changed, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Populated {
    /// Whether nothing was changed, because only the plan was asked for.
    pub(super) dry_run: bool,
    /// The changes, in the order in which they were made.
    pub(super) changes: Vec<Change>,
    /// The number of disks whose description is the same.
    pub(super) unchanged: usize,
    /// The changes of exports.
    pub(super) exports: Vec<ExportChange>,
    /// The number of exports whose description is the same.
    pub(super) unchanged_exports: usize,
}

/// A change of a disk.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Change {
    pub(super) disk: String,
    pub(super) action: Action,
    /// What it was made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<DiskSpec>,
    /// What it is to be made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<DiskSpec>,
    /// Why it could not be changed, or not as it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// A change of an export.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExportChange {
    pub(super) export: String,
    pub(super) action: Action,
    /// What it served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<ExportSpec>,
    /// What it is to serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<ExportSpec>,
    /// Why it could not be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// What is done with a disk or an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Action {
    /// It is new.
    Create,
    /// It is not described any more.
    Remove,
    /// Its labels are others, or when it ends; clients notice nothing.
    Relabel,
    /// Its filters or their parameters are others; clients notice nothing but that.
    Refilter,
    /// It is made of something else: it is removed and created anew, a disk without its content.
    Replace,
    /// It is to be made of something else, and is left as it is.
    Keep,
}

impl Populated {
    /// Returns what was done for a configuration that found these disks as they are to be.
    pub(super) fn new(dry_run: bool, changes: Vec<Change>, unchanged: usize) -> Self {
        Self { dry_run, changes, unchanged, exports: Vec::new(), unchanged_exports: 0 }
    }

    /// Adds what was done for a tenant.
    pub(super) fn add(&mut self, tenant: &str, other: Self) {
        let full = |name: String| format!("{tenant}/{name}");
        let disks = other.changes.into_iter();
        self.changes.extend(disks.map(|change| Change { disk: full(change.disk), ..change }));
        let exports = other.exports.into_iter();
        let named = |change: ExportChange| ExportChange { export: full(change.export), ..change };
        self.exports.extend(exports.map(named));
        self.unchanged += other.unchanged;
        self.unchanged_exports += other.unchanged_exports;
    }

    /// Logs what was changed.
    pub(super) fn log(&self) {
        let done = self.changes.iter().filter(|change| change.error.is_none());
        for Change { disk, action, .. } in done.take(MAX_LOGGED) {
            tracing::info!(target: TOLD, "disk {disk:?}: {} by a configuration", action.done());
        }
        if self.changes.len() > MAX_LOGGED {
            let count = self.changes.len();
            tracing::info!(target: TOLD, "a configuration asked for {count} changes in all");
        }
    }
}

impl Action {
    fn done(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Remove => "removed",
            Self::Relabel => "relabelled",
            Self::Refilter => "given other filters",
            Self::Replace => "created anew",
            Self::Keep => "left as it is",
        }
    }
}

impl Change {
    pub(super) fn new(
        disk: &str,
        action: Action,
        before: Option<DiskSpec>,
        after: Option<DiskSpec>,
    ) -> Self {
        Self { disk: disk.to_owned(), action, before, after, error: None }
    }
}

impl ExportChange {
    pub(super) fn new(
        export: &str,
        action: Action,
        before: Option<ExportSpec>,
        after: Option<ExportSpec>,
    ) -> Self {
        Self { export: export.to_owned(), action, before, after, error: None }
    }
}

/// How many disks and exports a configuration adds and removes, and how much memory their texts take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    pub(super) added: usize,
    pub(super) removed: usize,
    /// In bytes.
    pub(super) weight: usize,
    pub(super) weight_removed: usize,
}

/// Returns names for a message.
pub(super) fn named(names: &[&str]) -> String {
    let first: Vec<String> = names.iter().take(MAX_NAMED).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    first.join(", ") + &rest
}
