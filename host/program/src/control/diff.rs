//! The routes of the control API that tell what differs between a snapshot and another one, or a disk.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{MethodRouter, get};
use memnbd::block::Error;
use memnbd::device::snapshot::{Difference, NotCompared, Side};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::api::{Api, Shared};
use super::catalog::Taken;
use super::path::{At, OfDisk, OfSnapshot};
use super::problem::{BadRequest, NotFound, Problem};

/// The most extents of an answer.
const MAX_EXTENTS: u32 = 10_000;

/// What is to be compared.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// The name of the snapshot with which to compare.
    from: String,
    /// Where to begin, in bytes: `next` of the answer before. It is rounded down to a whole block.
    #[serde(default)]
    #[param(default = 0)]
    start: u64,
    /// The most extents of the answer.
    #[serde(default = "most")]
    #[param(minimum = 1, maximum = 10000, default = 10000)]
    limit: u32,
}

fn most() -> u32 {
    MAX_EXTENTS
}

/// What may differ. Nothing else does.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Diff {
    /// The size of both in bytes.
    size: u64,
    /// The unit in which changes are recorded, in bytes: all of a block may differ if a byte of it was
    /// written, whether or not that made a difference.
    granularity: u64,
    /// What may differ, in ascending order.
    extents: Vec<DiffExtent>,
    /// Where to go on if this is not all, and else null.
    next: Option<u64>,
}

/// A range of bytes.
#[derive(Debug, Serialize, ToSchema)]
struct DiffExtent {
    /// In bytes.
    offset: u64,
    /// In bytes.
    length: u64,
}

impl From<Difference> for Diff {
    fn from(difference: Difference) -> Self {
        let Difference { size, granularity, extents, next } = difference;
        let extents = extents.into_iter();
        let extents = extents.map(|one| DiffExtent { offset: one.offset, length: one.length });
        Self { size, granularity, extents: extents.collect(), next }
    }
}

impl Api {
    /// Compares a snapshot with another side, which this text names.
    async fn diff(&self, wanted: &Wanted, with: Side<'_>, what: &str) -> Result<Diff, Problem> {
        let Wanted { from, start, limit } = wanted;
        if !(1..=MAX_EXTENTS).contains(limit) {
            return Err(Problem::bad_request(format!(
                "limit is {limit}; it must be from 1 to {MAX_EXTENTS}"
            )));
        }
        let Taken { snapshot, .. } = self.snapshot(from)?;
        let compared = snapshot.difference(with, *start, *limit as usize).await;
        compared.map(Diff::from).map_err(|error| match error {
            NotCompared::Unrelated => unrelated(from, what),
            NotCompared::BeyondEnd(size) => Problem::bad_request(format!(
                "start is {start}; it must be less than the size, which is {size}"
            )),
            NotCompared::Failed(Error { code, message }) => {
                let reason = message.map_or_else(|| code.to_string(), String::from);
                Problem::conflict(format!(
                    "the snapshot {from:?} and {what} cannot be compared: {reason}"
                ))
            }
        })
    }
}

fn unrelated(from: &str, what: &str) -> Problem {
    Problem::conflict(format!(
        "the snapshot {from:?} and {what} do not stem from the same data: there is no snapshot with which \
         both began"
    ))
}

/// Tells which extents of two snapshots may differ. Both must stem from the same data: one was taken after the
/// other of a disk that descends from it, or both descend from a third snapshot, even if that was deleted.
/// The content is not read: what was written since counts as different, in whole blocks.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/snapshots/{snapshot}/diff",
    params(OfSnapshot, Wanted),
    responses(
        (status = 200, body = Diff),
        BadRequest,
        NotFound,
        (status = 409, description = "They do not stem from the same data", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn diff_snapshot(
    State(api): Shared,
    At(OfSnapshot { snapshot: name, .. }): At<OfSnapshot>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Diff>, Problem> {
    let Query(wanted) = wanted?;
    let Taken { snapshot, .. } = api.snapshot(&name)?;
    let what = format!("the snapshot {name:?}");
    api.diff(&wanted, Side::Snapshot(&snapshot), &what).await.map(Json)
}

/// Tells which extents of a disk may differ from a snapshot, in the same way. Offsets are those beneath the
/// filters of the disk. It is opened for that if it is not open.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}/diff",
    params(OfDisk, Wanted),
    responses(
        (status = 200, body = Diff),
        BadRequest,
        NotFound,
        (status = 409, description = "They do not stem from the same data, or the disk cannot be opened",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn diff_disk(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Diff>, Problem> {
    let Query(wanted) = wanted?;
    let (_, device, entry) = api.opened(&disk).await?;
    let volume = entry.chain.volume();
    let (layer, origin) = (volume.layer(), volume.origin());
    let what = format!("the disk {disk:?}");
    let side = match (&layer, &origin) {
        (Some(layer), _) => Side::Disk(layer),
        (None, Some(origin)) => Side::Snapshot(origin),
        (None, None) => {
            // So that a name that does not exist is told first.
            api.snapshot(&wanted.from)?;
            return Err(unrelated(&wanted.from, &what));
        }
    };
    let diff = api.diff(&wanted, side, &what).await;
    drop(device);
    diff.map(Json)
}

pub(super) fn snapshot_route() -> MethodRouter<Arc<Api>> {
    get(diff_snapshot)
}

pub(super) fn disk_route() -> MethodRouter<Arc<Api>> {
    get(diff_disk)
}
