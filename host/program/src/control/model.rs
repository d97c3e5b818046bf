//! The resources of the control API, as they are in JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use memnbd::block::Operation;
use memnbd::device::OperationTotals;
use memnbd::exports::{Export, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ttl::Ttl;
use crate::making::Layers;

/// The most filters of a disk.
pub(super) const MAX_FILTERS: usize = 16;

/// The most parameters of a disk, and of a command.
const MAX_PARAMETERS: usize = 1024;

/// The most labels of a disk, and the longest key and value, in bytes.
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 64;
const MAX_LABEL_VALUE: usize = 256;

/// What a disk is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "component": "memory",
    "filters": ["error"],
    "parameters": ["size=1G", "error-rate=1%"],
    "labels": {"suite": "nightly"}
}))]
pub(crate) struct DiskSpec {
    /// The backend: the name of a built-in component, or of one that the administrator granted. Without
    /// it, `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) component: Option<String>,
    /// The snapshot with which the disk begins, in place of a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<String>,
    /// The filters between the clients and the backend, at most 16, the one nearest to the clients first.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub(crate) filters: Vec<String>,
    /// The parameters of all of them, as on the command line: `KEY=VALUE`, `LAYER.KEY=VALUE` or a bare
    /// value of the backend's main parameter. Files, directories and secrets are named by the grants of
    /// the administrator.
    #[serde(default)]
    #[schema(max_items = 1024)]
    pub(crate) parameters: Vec<String>,
    /// Whether all writes are refused.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// Anything that those who use the disk want to remember, at most 64 entries.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// How long the disk stays, from when it was created or this was last given: then it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<Ttl>,
    /// Whether the disk is removed when its last client has gone, unless another comes within 5 seconds. It
    /// waits for the first one.
    #[serde(default)]
    pub(crate) ephemeral: bool,
}

/// The backend of disks that name none.
const DEFAULT_COMPONENT: &str = "memory";

impl DiskSpec {
    /// Checks the limits, and names the backend if none is named.
    pub(crate) fn checked(mut self) -> Result<Self, String> {
        match (&self.component, &self.snapshot) {
            (Some(_), Some(_)) => {
                return Err("it begins with a snapshot, or has a component, but not both".into());
            }
            (None, None) => self.component = Some(DEFAULT_COMPONENT.into()),
            _ => {}
        }
        if self.filters.len() > MAX_FILTERS {
            let given = self.filters.len();
            return Err(format!("{given} filters; a disk has at most {MAX_FILTERS}"));
        }
        check_parameters(&self.parameters)?;
        let too_long = |(key, value): (&String, &String)| {
            key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE
        };
        if self.labels.len() > MAX_LABELS || self.labels.iter().any(too_long) {
            return Err(format!(
                "there are at most {MAX_LABELS} labels, with keys of at most {MAX_LABEL_KEY} bytes and \
                 values of at most {MAX_LABEL_VALUE}"
            ));
        }
        self.ttl.map_or(Ok(()), Ttl::check)?;
        Ok(self)
    }

    /// Returns the same disk with the labels of another description, and when that ends.
    pub(super) fn relabelled(&self, after: &Self) -> Self {
        let Self { labels, ttl, ephemeral, .. } = after.clone();
        Self { labels, ttl, ephemeral, ..self.clone() }
    }

    /// Returns how much memory its texts take.
    pub(crate) fn weight(&self) -> usize {
        let texts = self.filters.iter().chain(&self.parameters);
        let texts = texts.chain(&self.component).chain(&self.snapshot);
        let labels = self.labels.iter().flat_map(|(key, value)| [key, value]);
        texts.chain(labels).map(|text| text.len() + size_of::<String>()).sum()
    }

    pub(crate) fn layers(&self) -> Layers {
        Layers {
            component: self.component.clone().unwrap_or_else(|| DEFAULT_COMPONENT.into()),
            filters: self.filters.clone(),
            parameters: self.parameters.clone(),
            read_only: self.read_only,
        }
    }
}

impl Default for DiskSpec {
    fn default() -> Self {
        Self {
            component: Some(DEFAULT_COMPONENT.into()),
            snapshot: None,
            filters: Vec::new(),
            parameters: Vec::new(),
            read_only: false,
            labels: BTreeMap::new(),
            ttl: None,
            ephemeral: false,
        }
    }
}

impl From<Layers> for DiskSpec {
    fn from(layers: Layers) -> Self {
        let Layers { component, filters, parameters, read_only } = layers;
        let component = Some(component);
        Self { component, filters, parameters, read_only, ..Self::default() }
    }
}

pub(super) fn check_parameters(parameters: &[String]) -> Result<(), String> {
    match parameters.len() {
        ..=MAX_PARAMETERS => Ok(()),
        given => Err(format!("{given} parameters; there are at most {MAX_PARAMETERS}")),
    }
}

/// A disk.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Disk {
    /// The name by which clients request it.
    name: String,
    /// What it is made of; absent for one that a client asked for by a pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<DiskSpec>,
    state: DiskState,
    /// What it is doing or why it failed, for people.
    detail: String,
    /// The size in bytes, if the disk is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// How often what is behind the name was replaced.
    generation: u64,
    /// The number of connected clients.
    connections: usize,
    /// The seconds until the disk is removed, if it has a `ttl`, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    /// What clients asked for since the disk was created, by operation; operations that were not used are
    /// left out.
    operations: BTreeMap<&'static str, Requests>,
}

/// The state of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DiskState {
    /// It is opened when a client needs it.
    Closed,
    /// It is being opened.
    Opening,
    /// It is open.
    Live,
    /// It could not be opened.
    Failed,
    /// It is being removed.
    Draining,
    /// It was removed.
    Gone,
}

/// The requests of one operation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Requests {
    /// How many were answered.
    requests: u64,
    /// How many of them with an error.
    errors: u64,
    /// The bytes of those that succeeded.
    bytes: u64,
    /// The time that all of them took together, in nanoseconds: each from when its header was received
    /// until its reply was sent.
    latency_sum_ns: u64,
    /// The time than which half of them took less, in nanoseconds, rounded up by at most a quarter.
    latency_median_ns: u64,
    /// The time than which 99 % of them took less, likewise.
    latency_p99_ns: u64,
}

impl Disk {
    pub(super) fn of(
        name: &str,
        export: &Arc<Export>,
        spec: Option<DiskSpec>,
        left: Option<Duration>,
    ) -> Self {
        let state = export.state();
        let totals = export.account().totals();
        let operations = Operation::ALL.into_iter().filter_map(|operation| {
            let of = totals.of(operation);
            (of.requests > 0).then(|| (operation.name(), Requests::of(of)))
        });
        Self {
            name: name.to_owned(),
            spec,
            detail: state.to_string(),
            state: (&state).into(),
            size: export.size(),
            generation: export.generation(),
            connections: export.connections(),
            expires_in: left.map(seconds),
            operations: operations.collect(),
        }
    }
}

/// Returns a time in whole seconds, rounded up.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Requests {
    fn of(totals: &OperationTotals) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let quantile = |fraction| totals.latency.quantile(fraction).map_or(0, nanos);
        Self {
            requests: totals.requests,
            errors: totals.errors,
            bytes: totals.bytes,
            latency_sum_ns: nanos(totals.latency.sum()),
            latency_median_ns: quantile(0.5),
            latency_p99_ns: quantile(0.99),
        }
    }
}

impl DiskState {
    /// Returns the name of the state, as in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Opening => "opening",
            Self::Live => "live",
            Self::Failed => "failed",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

impl From<&State> for DiskState {
    fn from(state: &State) -> Self {
        match state {
            State::Closed => Self::Closed,
            State::Opening(_) => Self::Opening,
            State::Live => Self::Live,
            State::Failed(_) => Self::Failed,
            State::Draining => Self::Draining,
            State::Gone => Self::Gone,
        }
    }
}

/// A layer of a disk that takes commands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Controlled {
    /// The name of its component.
    component: String,
    commands: Vec<CommandDescription>,
}

/// A command to a disk that is in use.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommandDescription {
    name: String,
    summary: String,
    parameters: Vec<ParameterDescription>,
}

/// A parameter of a command.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ParameterDescription {
    name: String,
    summary: String,
    /// How its values are written.
    #[serde(rename = "type")]
    kind: String,
    required: bool,
    repeatable: bool,
}

impl Controlled {
    pub(super) fn of(control: &memnbd::device::Control) -> Self {
        let parameter = |parameter: &memnbd::parameters::Parameter| ParameterDescription {
            name: parameter.name.clone(),
            summary: parameter.summary.clone(),
            kind: parameter.kind.usage(),
            required: parameter.required,
            repeatable: parameter.repeatable,
        };
        let commands = control.commands().iter().map(|command| CommandDescription {
            name: command.name.clone(),
            summary: command.summary.clone(),
            parameters: command.parameters.iter().map(parameter).collect(),
        });
        Self { component: control.component().to_owned(), commands: commands.collect() }
    }
}

/// A command to carry out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"command": "set", "parameters": ["error-rate=10%"]}))]
pub(super) struct CommandRequest {
    /// The layer that gets it: the name of its component. Without it, the layer nearest to the clients
    /// that has the command.
    #[serde(default)]
    pub(super) component: Option<String>,
    /// The name of the command.
    pub(super) command: String,
    /// Its parameters, as `KEY=VALUE`.
    #[serde(default)]
    #[schema(max_items = 1024)]
    pub(super) parameters: Vec<String>,
}

/// The answer of a component to a command.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommandAnswer {
    /// The component that carried it out.
    pub(super) component: String,
    /// What it says, possibly nothing.
    pub(super) answer: String,
}

/// A connected client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Connection {
    /// Its number, which no other connection of this server has or had.
    pub(super) id: u64,
    /// Where it comes from, for people.
    pub(super) peer: String,
    /// The disk that it uses.
    pub(super) disk: String,
    /// The seconds since it chose the disk.
    pub(super) seconds: u64,
}
