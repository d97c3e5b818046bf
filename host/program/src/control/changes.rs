//! What a configuration asks for, and what was done for it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::api::Room;
use super::model::DiskSpec;
use super::problem::Problem;
use crate::events::TOLD;
use crate::making::Rights;

/// How many disks a message names.
const MAX_NAMED: usize = 10;

/// How many changes of a configuration are logged one by one.
const MAX_LOGGED: usize = 100;

/// Which configuration made a disk. Each changes and removes only the disks that it made.
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

/// The disks that there are to be.
pub(super) struct Wanted<'a> {
    pub(super) disks: BTreeMap<String, DiskSpec>,
    pub(super) origin: Origin,
    pub(super) rights: Rights<'a>,
    pub(super) differing: Differing,
    /// How much the tenant may have then.
    pub(super) room: Room,
    pub(super) dry_run: bool,
}

/// Why nothing was changed.
pub(super) struct Refused {
    /// The disk that is wrong, if it is one.
    pub(super) disk: Option<String>,
    pub(super) problem: Problem,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { disk: None, problem }
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

/// What is done with a disk.
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
    /// It is made of something else: it is removed and created anew, without its content.
    Replace,
    /// It is to be made of something else, and is left as it is.
    Keep,
}

impl Populated {
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

/// Returns names for a message.
pub(super) fn named(names: &[&str]) -> String {
    let first: Vec<String> = names.iter().take(MAX_NAMED).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    first.join(", ") + &rest
}
