//! What is asked of the disks, for those who look at it again and again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use memnbd::block::Operation;
use memnbd::exports::Export;
use serde::Serialize;
use utoipa::ToSchema;

use super::api::{Api, Shared};
use super::catalog::Entry;
use super::path::{At, OfTenant};
use super::problem::{NotFound, Problem};

/// What is asked of the disks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Usage {
    /// The number of disks, with those that nobody used.
    total: usize,
    /// The disks that were used since they were created, or have clients.
    disks: Vec<DiskUsage>,
}

/// What is asked of a disk. All but the connections and the memory is counted since the disk was created.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DiskUsage {
    /// The name of the disk.
    disk: String,
    /// A number that a disk has which is created anew by the same name does not have.
    id: u64,
    /// The number of connected clients.
    connections: usize,
    /// The number of requests that were answered, of all operations.
    requests: u64,
    /// How many of them with an error.
    errors: u64,
    /// The bytes that were read.
    read_bytes: u64,
    /// The bytes that were written, without those that were zeroed or trimmed.
    written_bytes: u64,
    /// The time that all requests took together, in nanoseconds.
    latency_sum_ns: u64,
    /// The memory that it takes now, in bytes; absent for one that a client asked for by a pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
}

impl DiskUsage {
    fn of(export: &Arc<Export>, api: &Api) -> Option<Self> {
        let connections = export.connections();
        let totals = export.account().totals();
        let mut usage = Self {
            disk: String::new(),
            id: export.id(),
            connections,
            requests: 0,
            errors: 0,
            read_bytes: totals.of(Operation::Read).bytes,
            written_bytes: totals.of(Operation::Write).bytes,
            latency_sum_ns: 0,
            memory_bytes: None,
        };
        for (_, of) in totals.iter() {
            usage.requests = usage.requests.saturating_add(of.requests);
            usage.errors = usage.errors.saturating_add(of.errors);
            let took = u64::try_from(of.latency.sum().as_nanos()).unwrap_or(u64::MAX);
            usage.latency_sum_ns = usage.latency_sum_ns.saturating_add(took);
        }
        (usage.requests > 0 || connections > 0).then(|| {
            let name = api.server.local_name(export);
            usage.disk = name.to_owned();
            let memory = |entry: &Entry| entry.chain.volume().costs().memory;
            usage.memory_bytes = api.catalog().disk(name).map(memory);
            usage
        })
    }
}

/// Shows what is asked of the disks, without what they are made of. Whoever wants rates asks again
/// after a while, and divides the differences by the time.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/usage",
    params(OfTenant),
    responses(
        (status = 200, body = Usage),
        NotFound,
    )
)]
pub(super) async fn show_usage(
    State(api): Shared,
    _: At<OfTenant>,
) -> Result<Json<Usage>, Problem> {
    let exports = api.server.exports();
    // What is asked by other names is asked of the same disk.
    let is_disk = |export: &&Arc<Export>| export.main().is_none();
    // Adding up thousands of accounts would keep NBD clients waiting for the thread.
    let adding = tokio::task::spawn_blocking(move || Usage {
        total: exports.iter().filter(is_disk).count(),
        disks: exports
            .iter()
            .filter(is_disk)
            .filter_map(|export| DiskUsage::of(export, &api))
            .collect(),
    });
    adding.await.map(Json).map_err(|_| Problem::failed())
}
