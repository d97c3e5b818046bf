//! The route of the heat of a disk: where it is read and written.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use memnbd::device::{HALF_LIFE, HeatMap, KEPT};
use memnbd::exports::NotWatched;
use serde::Serialize;
use utoipa::ToSchema;

use super::api::Shared;
use super::path::{At, OfDisk};
use super::problem::{NotFound, Problem};

/// Where a disk is read and written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Heat {
    /// The size of the disk, in bytes.
    size: u64,
    /// The length of each part but the last one, in bytes.
    cell: u64,
    /// The bytes of each part that were read.
    read: Vec<u64>,
    /// The bytes of each part that were written, zeroed or trimmed.
    written: Vec<u64>,
    /// The time in seconds after which what was counted before counts half.
    half_life: u64,
    /// For how long requests are counted after this one, in seconds.
    kept: u64,
}

impl From<HeatMap> for Heat {
    fn from(HeatMap { size, length, regions }: HeatMap) -> Self {
        let (read, written) =
            regions.into_iter().map(|region| (region.read, region.written)).unzip();
        let (half_life, kept) = (HALF_LIFE.as_secs(), KEPT.as_secs());
        Self { size, cell: length, read, written, half_life, kept }
    }
}

/// Shows which of at most 1024 equal parts of a disk were read and written recently, by clients of all its names.
/// The first request has the server begin to count, so it shows nothing; counting ends when there was no
/// request for `kept` seconds. What was counted since the request before counts in full, what is older counts
/// half after each `half_life`. The numbers take 32 KiB of the disk's memory.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}/heat",
    params(OfDisk),
    responses(
        (status = 200, body = Heat),
        NotFound,
        (status = 409, description = "The disk is not open", body = Problem,
            content_type = "application/problem+json"),
        (status = 507, description = "There is no memory left for the numbers", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn show_heat(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
) -> Result<Json<Heat>, Problem> {
    let export = api.disk(&disk)?;
    let found = api.catalog().disk(&disk).map(|entry| entry.chain.volume().memory().clone());
    // A disk that a client asked for by a pattern has no memory of its own here.
    let memory = found.unwrap_or_else(|| api.maker.memory().clone());
    let looked = export.look(&memory).map_err(|error| {
        let status = match error {
            NotWatched::NotOpen => StatusCode::CONFLICT,
            NotWatched::NoMemory => StatusCode::INSUFFICIENT_STORAGE,
        };
        Problem::new(status, format!("the disk {disk:?}: {error}"))
    })?;
    Ok(Json(looked.into()))
}
