//! Exports: further names by which clients find a disk, and snapshots that are served as they are.
//!
//! Each export has limits of its own. One of a disk serves its device, so clients of both names see each
//! other's writes, and whatever is done to the disk reaches them as well.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get};
use memnbd::exports::{Export, NotRemoved};
use serde::Serialize;
use utoipa::ToSchema;

use super::api::{Api, REMOVAL, Shared, check_name};
use super::changes::Origin;
use super::filters::problem_of;
use super::model::DiskState;
use super::object::Object;
use super::offers::{ExportSpec, Offer};
use super::path::{At, OfExport, OfTenant};
use super::problem::{BadBody, BadRequest, NotFound, Problem};
use crate::events::{Happening, TOLD};
use crate::making::{Layers, Made};

/// An export.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Export)]
pub(super) struct Shown {
    /// The name by which clients request it.
    name: String,
    spec: ExportSpec,
    /// The state of the disk.
    state: DiskState,
    /// The size in bytes, if the disk is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// The number of clients that are connected to this export.
    connections: usize,
}

impl Api {
    pub(super) fn offered(&self, name: &str) -> Result<(Arc<Export>, ExportSpec), Problem> {
        self.server.named(name).zip(self.offers.spec(name)).ok_or_else(|| {
            let guess = self.offers.nearest(name);
            let guess = guess.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            Problem::not_found(format!("there is no export {name:?}{guess}"))
        })
    }

    fn shown_export(&self, name: &str) -> Result<Shown, Problem> {
        let (export, spec) = self.offered(name)?;
        Ok(Shown {
            name: name.to_owned(),
            spec,
            state: (&export.state()).into(),
            size: export.size(),
            connections: export.connections(),
        })
    }

    /// Creates an export, unless there is one that is the same.
    async fn offer(&self, name: &str, spec: ExportSpec) -> Result<(StatusCode, Shown), Problem> {
        let _alone = self.changing.lock().await;
        if let Some(present) = self.offers.spec(name) {
            if present == spec {
                return self.shown_export(name).map(|shown| (StatusCode::OK, shown));
            }
            return Err(Problem::conflict(format!(
                "the export {name:?} exists and is another one; remove it first"
            )));
        }
        if self.export(name).is_some() {
            return Err(Problem::conflict(format!(
                "there is a disk {name:?}, and clients find disks and exports by the same names; choose \
                 another one"
            )));
        }
        self.check_room(1, spec.weight())?;
        self.offer_alone(name, spec, None).await?;
        self.shown_export(name).map(|shown| (StatusCode::CREATED, shown))
    }

    /// Creates an export, while nothing else changes the disks.
    pub(super) async fn offer_alone(
        &self,
        name: &str,
        spec: ExportSpec,
        origin: Option<Origin>,
    ) -> Result<(), Problem> {
        self.check_free(name)?;
        let policy = spec.policy(&self.maker)?;
        let export = match (&spec.disk, &spec.snapshot) {
            (Some(disk), _) => {
                let main = self.disk(disk)?;
                if self.catalog().disk(disk).is_none() {
                    return Err(Problem::conflict(format!(
                        "the disk {disk:?} was opened for a client by a pattern, and such disks have no \
                         other names"
                    )));
                }
                spec.of_disk(&main, &self.server.full_name(name), policy)?
            }
            (None, snapshot) => {
                let snapshot = self.snapshot(snapshot.as_deref().unwrap_or_default())?.snapshot;
                let layers = Layers { read_only: true, ..Layers::default() };
                let made = self.maker.clone_of(snapshot, name, &layers).await;
                let Made { export, .. } = made.map_err(problem_of)?;
                export.set_policy(policy);
                export
            }
        };
        let disk = spec.disk.clone();
        // Before it is added, so that nobody takes it for a disk.
        self.offers.insert(name, Offer { spec, origin });
        if let Err(error) = self.server.add(export) {
            self.offers.remove(name);
            return Err(Problem::conflict(error.to_string()));
        }
        self.events.tell(disk, Happening::ExportCreated { export: name.to_owned() });
        tracing::info!(target: TOLD, "export {name:?}: created");
        Ok(())
    }

    /// Removes an export, while nothing else changes the disks.
    pub(super) async fn withdraw(&self, name: &str) -> Result<(), Problem> {
        let (_, spec) = self.offered(name)?;
        if let Err(NotRemoved::StoodOn) = self.server.remove(name, REMOVAL).await {
            return Err(Problem::conflict(format!(
                "a disk stands on {name:?}; remove that one first"
            )));
        }
        self.offers.remove(name);
        self.events.tell(spec.disk, Happening::ExportRemoved { export: name.to_owned() });
        tracing::info!(target: TOLD, "export {name:?}: removed");
        Ok(())
    }
}

/// Lists the exports: the further names of disks, and the snapshots that are served.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/exports",
    params(OfTenant),
    responses(
        (status = 200, body = Vec<Shown>),
        NotFound,
    )
)]
pub(super) async fn list_exports(State(api): Shared, _: At<OfTenant>) -> Json<Vec<Shown>> {
    let names = api.offers.names();
    // Those that are removed meanwhile are left out.
    Json(names.iter().filter_map(|name| api.shown_export(name).ok()).collect())
}

/// Shows an export.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/exports/{export}",
    params(OfExport),
    responses(
        (status = 200, body = Shown),
        NotFound,
    )
)]
pub(super) async fn show_export(
    State(api): Shared,
    At(OfExport { export, .. }): At<OfExport>,
) -> Result<Json<Shown>, Problem> {
    api.shown_export(&export).map(Json)
}

/// Serves a disk by a further name, or a snapshot. If there is such an export already, nothing happens.
///
/// Clients of all names of a disk see each other's writes, and a flush by one is for all. What they do is
/// counted for the disk. A disk can be removed only after its exports, unless it ends by itself.
#[utoipa::path(
    put,
    path = "/v1/tenants/{tenant}/exports/{export}",
    params(OfExport),
    request_body = ExportSpec,
    responses(
        (status = 200, description = "It exists and is the same", body = Shown),
        (status = 201, description = "It was created", body = Shown),
        BadRequest,
        NotFound,
        (status = 409, description = "It exists and is another one, or cannot be served so", body = Problem,
            content_type = "application/problem+json"),
        BadBody,
        (status = 507, description = "There are too many disks and exports", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn put_export(
    State(api): Shared,
    At(OfExport { export, .. }): At<OfExport>,
    Object(spec): Object<ExportSpec>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    check_name(&export).map_err(Problem::bad_request)?;
    let spec = spec.checked().map_err(Problem::bad_request)?;
    let (status, shown) = api.offer(&export, spec).await?;
    Ok((status, Json(shown)))
}

/// Removes an export. Its clients are disconnected; those of the disk's other names are not.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}/exports/{export}",
    params(OfExport),
    responses(
        (status = 204, description = "It is gone"),
        NotFound,
        (status = 409, description = "A disk stands on it", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove_export(
    State(api): Shared,
    At(OfExport { export, .. }): At<OfExport>,
) -> Result<StatusCode, Problem> {
    // To its end, even if the client does not wait for it.
    let removing = tokio::spawn(async move {
        let _alone = api.changing.lock().await;
        api.withdraw(&export).await
    });
    removing.await.unwrap_or_else(|_| Err(Problem::failed())).map(|()| StatusCode::NO_CONTENT)
}

/// Returns the route for the list of exports.
pub(super) fn list_route() -> MethodRouter<Arc<Api>> {
    get(list_exports)
}

/// Returns the routes for an export.
pub(super) fn route() -> MethodRouter<Arc<Api>> {
    get(show_export).put(put_export).delete(remove_export)
}
