//! The routes of the control API for snapshots, and for what is done with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get, post};
use memnbd::device::{Device, Divided, snapshot};
use memnbd::exports::{Export, NotReplaced};
use memnbd::parameters::nearest;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::api::{Api, Shared, Tagged, check_name, tagged};
use super::catalog::{Entry, Taken};
use super::discard::discard;
use super::lives::{Key, Lives};
use super::model::{Disk, seconds};
use super::object::Object;
use super::path::{At, OfDisk, OfSnapshot, OfTenant};
use super::problem::{BadBody, BadRequest, NotFound, Problem};
use super::ttl::Ttl;
use crate::chain::{Content, Kept};
use crate::events::{Happening, Reason, TOLD};

/// The most snapshots.
pub(super) const MAX_SNAPSHOTS: usize = 10_000;

/// How long requests under way may take when a disk gets another device, and how long that may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a snapshot is to be taken of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"disk": "golden"}))]
pub(super) struct SnapshotSpec {
    /// The name of the disk.
    disk: String,
    /// Whether the disk keeps what is written to it from now on in memory, even if it kept that in files
    /// before. Without it, no snapshot is taken of a disk that writes to files.
    #[serde(default)]
    in_memory: bool,
    /// How long the snapshot stays, from when this was last given: then it is deleted.
    #[serde(default)]
    ttl: Option<Ttl>,
}

/// What a disk held at a moment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Snapshot {
    name: String,
    /// The disk of which it was taken.
    disk: String,
    /// The size in bytes.
    size: u64,
    /// The seconds since it was taken.
    seconds: u64,
    /// The seconds until it is deleted, if it has a `ttl`, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
}

/// The snapshot to which a disk is to be reset.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"snapshot": "clean"}))]
pub(super) struct ResetRequest {
    /// The name of the snapshot; without it, the one with which the disk began.
    #[serde(default)]
    snapshot: Option<String>,
}

impl Snapshot {
    fn of(name: &str, taken: &Taken, lives: &Lives) -> Self {
        Self {
            name: name.to_owned(),
            disk: taken.disk.clone(),
            size: taken.snapshot.size(),
            seconds: taken.at.elapsed().as_secs(),
            expires_in: lives.left(&Key::Snapshot(name.to_owned())).map(seconds),
        }
    }
}

impl Api {
    /// Returns a snapshot.
    pub(super) fn snapshot(&self, name: &str) -> Result<Taken, Problem> {
        let mut catalog = self.catalog();
        let snapshots = catalog.snapshots();
        snapshots.get(name).cloned().ok_or_else(|| {
            let guess = nearest(name, snapshots.keys().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            Problem::not_found(format!("there is no snapshot {name:?}{guess}"))
        })
    }

    /// Takes a snapshot.
    async fn take(
        &self,
        name: &str,
        spec: SnapshotSpec,
    ) -> Result<(StatusCode, Snapshot), Problem> {
        spec.ttl.map_or(Ok(()), Ttl::check).map_err(Problem::bad_request)?;
        let _alone = self.changing.lock().await;
        if let Some(taken) = self.catalog().snapshots().get(name) {
            if taken.disk == spec.disk {
                self.lives.set_snapshot(name, spec.ttl);
                return Ok((StatusCode::OK, Snapshot::of(name, taken, &self.lives)));
            }
            return Err(Problem::conflict(format!(
                "the snapshot {name:?} exists and was taken of the disk {:?}; choose another name, or \
                 delete it first",
                taken.disk
            )));
        }
        let most = self.room().snapshots;
        if self.catalog().snapshots().len() >= most {
            return Err(Problem::full(format!(
                "there are {most} snapshots, and no more are possible; delete some"
            )));
        }
        let (export, device, entry) = self.opened(&spec.disk).await?;
        let volume = entry.chain.volume().clone();
        let filters = self.content(&spec.disk, &device, &entry, spec.in_memory).await?;
        let not_taken = |reason: &dyn std::fmt::Display| {
            let disk = &spec.disk;
            Problem::conflict(format!("no snapshot was taken of the disk {disk:?}: {reason}"))
        };
        if device.geometry().capabilities.flush {
            // While clients go on. What fails here fails again when it matters.
            let _ = snapshot::flush(&device).await;
        }
        let divided = Divided::of(&device, filters).map_err(|error| not_taken(&error))?;
        let prepared =
            volume.prepare(divided.beneath()).await.map_err(|error| not_taken(&error))?;
        drop((divided, device));
        let held = export.hold(PATIENCE).await.map_err(|error| not_taken(&error))?;
        let begin = Instant::now();
        let divided = Divided::of(held.device(), filters).map_err(|error| not_taken(&error))?;
        let taking = timeout(PATIENCE, volume.take(divided.beneath(), prepared)).await;
        let taken = taking.map_err(|_| not_taken(&format!("it took longer than {PATIENCE:?}")))?;
        let (snapshot, layer) = taken.map_err(|error| not_taken(&error))?;
        if let Some(layer) = layer {
            let next = divided.replace(layer.device().clone());
            let next = next.map_err(|error| not_taken(&error))?;
            discard(held.replace(next).map_err(|error| not_taken(&error))?);
            volume.stand_on(layer);
        }
        let held_for = begin.elapsed();
        let taken = Taken { snapshot, disk: spec.disk, at: Instant::now() };
        self.lives.set_snapshot(name, spec.ttl);
        let shown = Snapshot::of(name, &taken, &self.lives);
        let (disk, snapshot) = (&taken.disk, name.to_owned());
        let held_us = held_for.as_micros() as u64;
        self.events.tell(Some(disk.clone()), Happening::SnapshotTaken { snapshot, held_us });
        tracing::info!(
            target: TOLD,
            "snapshot {name:?}: taken of the disk {disk:?}, held for {held_for:.1?}"
        );
        self.catalog().snapshots().insert(name.to_owned(), taken);
        Ok((StatusCode::CREATED, shown))
    }

    /// Deletes a snapshot. Its content stays until nothing stands on it any more.
    async fn forget(&self, name: &str) -> Result<(), Problem> {
        let _alone = self.changing.lock().await;
        self.forget_alone(name, None)
    }

    /// Deletes a snapshot, while nothing else changes them. `reason` is why, if nobody asked for that.
    pub(super) fn forget_alone(&self, name: &str, reason: Option<Reason>) -> Result<(), Problem> {
        let Taken { disk, .. } = self.snapshot(name)?;
        let taken = self.catalog().snapshots().remove(name);
        discard(taken);
        let snapshot = name.to_owned();
        self.lives.forget(&Key::Snapshot(snapshot.clone()));
        self.events.tell(Some(disk), Happening::SnapshotDeleted { snapshot, reason });
        let why = reason.map_or_else(String::new, |reason| format!(", {reason}"));
        tracing::info!(target: TOLD, "snapshot {name:?}: deleted{why}");
        Ok(())
    }

    /// Gives a disk the content of a snapshot, and filters as they are when they are new.
    async fn reset(&self, name: &str, request: ResetRequest) -> Result<Arc<Export>, Problem> {
        let _alone = self.changing.lock().await;
        let (export, device, entry) = self.opened(name).await?;
        let wanted = request.snapshot.or_else(|| entry.spec.snapshot.clone()).ok_or_else(|| {
            Problem::conflict(format!(
                "the disk {name:?} did not begin with a snapshot, so \"snapshot\" has to name one"
            ))
        })?;
        let Taken { snapshot, .. } = self.snapshot(&wanted)?;
        self.content(name, &device, &entry, false).await?;
        let not_reset = |reason: &dyn std::fmt::Display| {
            Problem::conflict(format!("the disk {name:?} was not reset to {wanted:?}: {reason}"))
        };
        let chain = entry.chain.on_snapshot(snapshot).await.map_err(|error| not_reset(&error))?;
        let next = chain.open().await.map_err(|error| not_reset(&error))?;
        let replaced = export.replace(next, PATIENCE).await;
        discard(replaced.map_err(|error| not_reset(&error))?);
        discard(device);
        self.catalog().set_chain(name, Arc::new(chain));
        tracing::info!(target: TOLD, "disk {name:?}: reset to the snapshot {wanted:?}");
        self.events.tell(Some(name.to_owned()), Happening::DiskReset { snapshot: wanted });
        Ok(export)
    }

    /// Opens a disk, if it is not open.
    pub(super) async fn opened(
        &self,
        name: &str,
    ) -> Result<(Arc<Export>, Arc<dyn Device>, Entry), Problem> {
        let export = self.disk(name)?;
        let entry = self.catalog().disk(name).cloned().ok_or_else(|| {
            Problem::conflict(format!(
                "the disk {name:?} was opened for a client by a pattern, and such disks have no snapshots"
            ))
        })?;
        if export.is_private() {
            return Err(Problem::conflict(NotReplaced::Private.to_string()));
        }
        let device = export.disk().await.map_err(|failed| {
            Problem::conflict(format!("the disk {name:?} cannot be opened: {failed}"))
        })?;
        Ok((export, device, entry))
    }

    /// Checks that a disk keeps its content where nobody else changes it. Returns the number of filters
    /// above it.
    async fn content(
        &self,
        name: &str,
        device: &Arc<dyn Device>,
        entry: &Entry,
        in_memory: bool,
    ) -> Result<usize, Problem> {
        let content = entry.chain.content().await;
        let Content { filters, kept } =
            content.map_err(|error| Problem::conflict(format!("the disk {name:?}: {error}")))?;
        if entry.chain.volume().is_layered() {
            return Ok(filters);
        }
        match kept {
            Kept::Memory => Ok(filters),
            Kept::Files if in_memory || !device.geometry().capabilities.writable => Ok(filters),
            Kept::Files => Err(Problem::conflict(format!(
                "the disk {name:?} writes to files, which would not change any more after a snapshot: \
                 what is written would be kept in memory, and lost when the disk is removed; a request \
                 for a snapshot may say in_memory to accept that"
            ))),
            Kept::Disk(other) => Err(Problem::conflict(format!(
                "the disk {name:?} stands on the disk {other:?}, which others can change; take a snapshot \
                 of that one"
            ))),
        }
    }
}

/// Lists the snapshots.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/snapshots",
    params(OfTenant),
    responses(
        (status = 200, body = Vec<Snapshot>),
        NotFound,
    )
)]
pub(super) async fn list_snapshots(State(api): Shared, _: At<OfTenant>) -> Json<Vec<Snapshot>> {
    let mut catalog = api.catalog();
    let snapshots = catalog.snapshots().iter();
    Json(snapshots.map(|(name, taken)| Snapshot::of(name, taken, &api.lives)).collect())
}

/// Shows a snapshot.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/snapshots/{snapshot}",
    params(OfSnapshot),
    responses(
        (status = 200, body = Snapshot),
        NotFound,
    )
)]
pub(super) async fn show_snapshot(
    State(api): Shared,
    At(OfSnapshot { snapshot: name, .. }): At<OfSnapshot>,
) -> Result<Json<Snapshot>, Problem> {
    api.snapshot(&name).map(|taken| Json(Snapshot::of(&name, &taken, &api.lives)))
}

/// Takes a snapshot of a disk while its clients go on: each request is part of it, or comes after it. If
/// there is one of this name and disk, only its `ttl` begins anew, or ends where none is given.
///
/// Filters keep their state, and are not part of the snapshot, except for those that keep content on devices
/// of their own. The memory that the content takes is charged to the disk of which the snapshot was taken,
/// until neither the snapshot nor anything that began with it exists any more.
#[utoipa::path(
    put,
    path = "/v1/tenants/{tenant}/snapshots/{snapshot}",
    params(OfSnapshot),
    request_body = SnapshotSpec,
    responses(
        (status = 200, description = "It exists and was taken of this disk", body = Snapshot),
        (status = 201, description = "It was taken", body = Snapshot),
        BadRequest,
        NotFound,
        (status = 409, description = "It exists and was taken of another disk, or none can be taken",
            body = Problem, content_type = "application/problem+json"),
        BadBody,
        (status = 507, description = "There are too many snapshots", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn take_snapshot(
    State(api): Shared,
    At(OfSnapshot { snapshot: name, .. }): At<OfSnapshot>,
    Object(spec): Object<SnapshotSpec>,
) -> Result<(StatusCode, Json<Snapshot>), Problem> {
    check_name(&name).map_err(Problem::bad_request)?;
    // To its end, even if the client does not wait for it.
    let taking = tokio::spawn(async move { api.take(&name, spec).await });
    let taken = taking.await.unwrap_or_else(|_| Err(Problem::failed()));
    taken.map(|(status, snapshot)| (status, Json(snapshot)))
}

/// Deletes a snapshot. Disks that began with it stay, and the content that they need with them.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}/snapshots/{snapshot}",
    params(OfSnapshot),
    responses(
        (status = 204, description = "It is deleted"),
        NotFound,
    )
)]
pub(super) async fn delete_snapshot(
    State(api): Shared,
    At(OfSnapshot { snapshot, .. }): At<OfSnapshot>,
) -> Result<StatusCode, Problem> {
    api.forget(&snapshot).await.map(|()| StatusCode::NO_CONTENT)
}

/// Resets a disk to a snapshot of the same size while its clients stay connected. What was written since is
/// lost. Filters begin anew, without what was set by commands.
#[utoipa::path(
    post,
    path = "/v1/tenants/{tenant}/disks/{disk}/reset",
    params(OfDisk),
    request_body = ResetRequest,
    responses(
        (status = 200, description = "It was reset", body = Disk,
            headers(("etag" = String, description = "The generation"))),
        BadRequest,
        NotFound,
        (status = 409, description = "It cannot be reset to that", body = Problem,
            content_type = "application/problem+json"),
        BadBody,
    )
)]
pub(super) async fn reset_disk(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
    Object(request): Object<ResetRequest>,
) -> Result<Tagged<Disk>, Problem> {
    let shared = api.clone();
    let resetting = tokio::spawn(async move { api.reset(&disk, request).await });
    let export = resetting.await.unwrap_or_else(|_| Err(Problem::failed()))?;
    Ok(tagged(StatusCode::OK, &shared, &export))
}

/// Returns the route for the list of snapshots.
pub(super) fn list_route() -> MethodRouter<Arc<Api>> {
    get(list_snapshots)
}

/// Returns the routes for a snapshot.
pub(super) fn route() -> MethodRouter<Arc<Api>> {
    get(show_snapshot).put(take_snapshot).delete(delete_snapshot)
}

/// Returns the route for resets of a disk.
pub(super) fn reset_route() -> MethodRouter<Arc<Api>> {
    post(reset_disk)
}
