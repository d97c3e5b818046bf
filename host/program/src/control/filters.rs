//! Changing the filters of disks in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use memnbd::device::Divided;
use memnbd::exports::Export;
use serde::{Deserialize, Deserializer};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::api::{Api, Shared, Tagged, tagged};
use super::catalog::Entry;
use super::discard::discard;
use super::model::{Disk, DiskSpec};
use super::object::Object;
use super::path::{At, OfDisk};
use super::problem::{BadBody, BadRequest, NotFound, Problem};
use super::snapshots::PATIENCE;
use super::ttl::Ttl;
use crate::Failure;
use crate::chain::Chain;
use crate::events::{Happening, TOLD};
use crate::making::{Differences, Rights};

/// What is to change about a disk. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"filters": ["delay"], "parameters": ["size=1G", "delay-read=10ms"]}))]
pub(super) struct DiskPatch {
    /// Another backend, or a backend in place of a snapshot. Only with `replace`.
    #[serde(default)]
    component: Option<String>,
    /// The filters between the clients and the backend, the one nearest to the clients first.
    #[serde(default)]
    #[schema(max_items = 16)]
    filters: Option<Vec<String>>,
    /// Whether the disk begins anew, made of what is described now. What was written to it is lost. Its size,
    /// and what it offers to clients, have to stay the same.
    #[serde(default)]
    replace: bool,
    /// The parameters of all layers. Those of the backend have to stay the same, unless it is replaced.
    #[serde(default)]
    #[schema(max_items = 1024)]
    parameters: Option<Vec<String>>,
    /// What those who use the disk want to remember.
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// How long the disk stays from now on; null for as long as nobody removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Ttl>)]
    ttl: Option<Option<Ttl>>,
    /// Whether the disk is removed when its last client has gone.
    #[serde(default)]
    ephemeral: Option<bool>,
}

/// Tells null from nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Ttl>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl DiskPatch {
    fn of(self, spec: DiskSpec) -> DiskSpec {
        let (component, snapshot) = match self.component {
            Some(component) => (Some(component), None),
            None => (spec.component, spec.snapshot),
        };
        DiskSpec {
            component,
            snapshot,
            filters: self.filters.unwrap_or(spec.filters),
            parameters: self.parameters.unwrap_or(spec.parameters),
            labels: self.labels.unwrap_or(spec.labels),
            ttl: self.ttl.unwrap_or(spec.ttl),
            ephemeral: self.ephemeral.unwrap_or(spec.ephemeral),
            ..spec
        }
    }
}

impl Api {
    /// Returns what a disk would be made of with the filters of another description.
    pub(super) async fn refiltered(
        &self,
        entry: &Entry,
        after: &DiskSpec,
        rights: Rights<'_>,
    ) -> Result<Chain, Problem> {
        if entry.spec.snapshot != after.snapshot {
            return Err(Problem::conflict("it would begin with something else"));
        }
        let (before, after) = (entry.spec.layers(), after.layers());
        let chain = self.maker.with_filters(&entry.chain, &before, &after, rights).await;
        chain.map_err(problem_of)
    }

    /// Gives a disk other filters between two requests of each of its clients. Those that it has end, and the
    /// others begin as they are when they are new, except for limits that are parts of the server, which
    /// alone change without a pause. Nothing else changes the disks meanwhile.
    pub(super) async fn refilter(
        &self,
        name: &str,
        after: DiskSpec,
        rights: Rights<'_>,
    ) -> Result<Arc<Export>, Problem> {
        let export = self.disk(name)?;
        let mut entry = self.catalog().disk(name).cloned().ok_or_else(|| {
            Problem::conflict(format!("the disk {name:?} was opened for a client by a pattern"))
        })?;
        let Differences { layers, policy } = self.differences(&export, name, &entry, &after)?;
        if layers {
            entry.chain = self.relayer(name, &after, rights).await?;
        }
        if let Some(policy) = policy {
            export.set_policy(policy);
        }
        self.record(&export, Entry { spec: after, ..entry });
        self.events.tell(Some(name.to_owned()), Happening::DiskUpdated);
        Ok(export)
    }

    /// Returns in what a disk is to differ.
    pub(super) fn differences(
        &self,
        export: &Export,
        name: &str,
        entry: &Entry,
        after: &DiskSpec,
    ) -> Result<Differences, Problem> {
        let differences = self.maker.differences(&entry.spec.layers(), &after.layers());
        let differences = differences.map_err(problem_of)?;
        if differences.policy.is_some() && self.fixed.contains(&export.id()) {
            return Err(Problem::conflict(format!(
                "the limits of the disk {name:?} are those of the command line, and stay"
            )));
        }
        Ok(differences)
    }

    /// Gives a disk other layers above what it holds. Returns what it is made of then.
    async fn relayer(
        &self,
        name: &str,
        after: &DiskSpec,
        rights: Rights<'_>,
    ) -> Result<Arc<Chain>, Problem> {
        let (export, device, entry) = self.opened(name).await?;
        drop(device);
        let not_changed = |reason: &dyn std::fmt::Display| {
            Problem::conflict(format!(
                "the filters of the disk {name:?} were not changed: {reason}"
            ))
        };
        let content = entry.chain.content().await.map_err(|error| not_changed(&error))?;
        let chain = self.refiltered(&entry, after, rights).await?;
        let held = export.hold(PATIENCE).await.map_err(|error| not_changed(&error))?;
        let divided = Divided::of(held.device(), content.filters);
        let divided = divided.map_err(|error| not_changed(&error))?;
        let opening = timeout(PATIENCE, chain.open_on(divided.beneath().clone())).await;
        let opened =
            opening.map_err(|_| not_changed(&format!("it took longer than {PATIENCE:?}")))?;
        let next = opened.map_err(|error| not_changed(&error))?;
        discard(held.replace(next).map_err(|error| not_changed(&error))?);
        Ok(Arc::new(chain))
    }

    async fn patch(&self, name: &str, patch: DiskPatch) -> Result<Arc<Export>, Problem> {
        let _alone = self.changing.lock().await;
        let export = self.disk(name)?;
        let entry = self.catalog().disk(name).cloned().ok_or_else(|| {
            Problem::conflict(format!("the disk {name:?} was opened for a client by a pattern"))
        })?;
        let (before, renews) = (entry.spec.clone(), patch.ttl.is_some());
        let replace = patch.replace;
        let after = patch.of(before.clone()).checked().map_err(Problem::bad_request)?;
        let added = after.weight().saturating_sub(before.weight());
        self.check_room(0, added)?;
        if replace {
            self.remake(name, after).await?;
        } else if (&before.component, &before.snapshot) != (&after.component, &after.snapshot) {
            return Err(Problem::conflict(format!(
                "another component holds something else: \"replace\" begins the disk {name:?} anew, without \
                 what was written to it"
            )));
        } else if (&before.filters, &before.parameters) == (&after.filters, &after.parameters) {
            if before != after {
                self.events.tell(Some(name.to_owned()), Happening::DiskRelabelled);
            }
            self.record(&export, Entry { spec: after, ..entry });
        } else {
            self.refilter(name, after, Rights::Grants).await?;
            tracing::info!(target: TOLD, "disk {name:?}: given other filters");
        }
        if renews {
            self.lives.renew(&export);
        }
        Ok(export)
    }
}

pub(super) fn problem_of(failure: Failure) -> Problem {
    match failure {
        Failure::Usage(text) => Problem::bad_request(text),
        Failure::Failed(error) => Problem::conflict(format!("{error:#}")),
    }
}

/// Changes the filters, their parameters, the labels of a disk, or when it ends, while its clients stay
/// connected. With `replace`, the disk begins anew and can be made of something else. No request is lost. The
/// size and what the disk offers stay the same. A `ttl` begins anew.
#[utoipa::path(
    patch,
    path = "/v1/tenants/{tenant}/disks/{disk}",
    params(OfDisk),
    request_body = DiskPatch,
    responses(
        (status = 200, description = "It was changed", body = Disk,
            headers(("etag" = String, description = "The generation"))),
        BadRequest,
        NotFound,
        (status = 409, description = "It cannot be changed so while it is in use", body = Problem,
            content_type = "application/problem+json"),
        BadBody,
        (status = 507, description = "The texts of the disks are too long", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn patch_disk(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
    Object(patch): Object<DiskPatch>,
) -> Result<Tagged<Disk>, Problem> {
    let shared = api.clone();
    // To its end, even if the client does not wait for it.
    let patching = tokio::spawn(async move { api.patch(&disk, patch).await });
    let export = patching.await.unwrap_or_else(|_| Err(Problem::failed()))?;
    Ok(tagged(StatusCode::OK, &shared, &export))
}
