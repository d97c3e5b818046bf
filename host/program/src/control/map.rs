//! The route of the map of a disk: how much of each part is stored.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use memnbd::exports::{MAX_CELLS, NotMapped};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::api::Shared;
use super::path::{At, OfDisk};
use super::problem::{BadRequest, NotFound, Problem};

/// Time limit for a map.
const LIMIT: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// The number of parts, 256 unless given.
    #[serde(default = "default_cells")]
    #[param(default = 256, minimum = 1, maximum = 4096)]
    cells: u32,
}

fn default_cells() -> u32 {
    256
}

/// How much of each part of a disk is stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Map {
    /// The size of the disk, in bytes.
    size: u64,
    /// The length of each part but the last one, in bytes.
    cell: u64,
    /// How much of each part is stored, in bytes: allocated, whether it reads as zeroes or not.
    stored: Vec<u64>,
    /// Whether some parts have so many extents that only the first ones were counted, and the rest taken to
    /// be like those.
    estimated: bool,
}

/// Shows how much of each of so many equal parts of a disk is stored. A small disk has fewer parts. The
/// disk has to be open; its filters take part as if a client had asked for the block status.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}/map",
    params(OfDisk, Wanted),
    responses(
        (status = 200, body = Map),
        BadRequest,
        NotFound,
        (status = 409, description = "The disk is not open, or does not tell", body = Problem,
            content_type = "application/problem+json"),
        (status = 504, description = "The disk did not tell in time", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn show_map(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Map>, Problem> {
    let Query(Wanted { cells }) = wanted?;
    if !(1..=MAX_CELLS).contains(&cells) {
        return Err(Problem::bad_request(format!("cells={cells}: it is 1 to {MAX_CELLS}")));
    }
    let export = api.disk(&disk)?;
    // It is never closed.
    let _place = api.maps.acquire().await.map_err(|_| Problem::failed())?;
    let map = export.map(cells, LIMIT).await.map_err(|error| {
        let status = match error {
            NotMapped::Late => StatusCode::GATEWAY_TIMEOUT,
            NotMapped::NotOpen | NotMapped::Failed(_) => StatusCode::CONFLICT,
        };
        Problem::new(status, format!("the disk {disk:?}: {error}"))
    })?;
    let memnbd::exports::Map { size, cell, stored, estimated } = map;
    Ok(Json(Map { size, cell, stored, estimated }))
}
