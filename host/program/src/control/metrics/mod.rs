//! Metrics, in the text format of OpenMetrics, which Prometheus reads.
//!
//! A scrape adds up accounts that are kept anyway, so it costs NBD clients nothing; accounts are added up for
//! one scrape at a time. What it takes is bounded: see [`board`] and [`PLACES`].
//!
//! - `board`: which disks have series of their own.
//! - `process`: what the system says of the process.
//! - `sums`: the counters of a disk.
//! - `text`: the names of the metrics, and their descriptions.

mod board;
mod process;
mod sums;
mod text;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use bytes::Bytes;
use memnbd::exports::Export;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::api::Api;
use super::problem::Problem;
use super::tenants::{Level, Tenants};
use crate::volume::Costs;
pub(super) use board::Board;
use sums::Sums;
use text::{Disk, Metrics, Quota, Server};

/// How many scrapes are in memory at a time, until their clients have taken all of them.
static PLACES: Semaphore = Semaphore::const_new(4);

/// A scrape.
struct Scrape {
    text: String,
    _place: SemaphorePermit<'static>,
}

impl AsRef<[u8]> for Scrape {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// The type of the response.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The tenant and the name of a disk, as in labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    tenant: String,
    disk: String,
}

impl Name {
    /// Returns the name of all disks together that have no series of their own. No disk is called so.
    fn of_others() -> Self {
        Self { tenant: String::new(), disk: String::new() }
    }

    fn len(&self) -> usize {
        self.tenant.len() + self.disk.len()
    }
}

/// Shows metrics of all tenants, in the text format of OpenMetrics, for Prometheus. Counters of requests are of disks that
/// were used since they were created. The first 1000 of those have series of their own, fewer if their names
/// are longer than 64 KiB together. All later ones are summed up in series whose labels `tenant` and `disk`
/// are empty.
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, description = "The metrics", body = String,
            content_type = "application/openmetrics-text"),
    )
)]
pub(super) async fn show_metrics(
    State(tenants): State<Arc<Tenants>>,
) -> Result<([(HeaderName, &'static str); 1], Bytes), Problem> {
    // It is never closed.
    let place = PLACES.acquire().await.map_err(|_| Problem::failed())?;
    // Adding up thousands of accounts would keep NBD clients waiting for the thread.
    let collecting = tokio::task::spawn_blocking(move || {
        let mut board = tenants.board.lock().unwrap_or_else(PoisonError::into_inner);
        collect(&tenants, &mut board).encode()
    });
    let text = collecting.await.ok().flatten().ok_or_else(Problem::failed)?;
    let scrape = Bytes::from_owner(Scrape { text, _place: place });
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], scrape))
}

/// A disk, and whose it is.
struct Found {
    export: Arc<Export>,
    name: Name,
    costs: Option<Costs>,
}

/// Returns the disks of a tenant. What is asked by other names is asked of the same disk.
fn exports_of(tenant: &str, api: &Api) -> Vec<Found> {
    let exports = api.server.exports();
    let catalog = api.catalog();
    let disks = exports.into_iter().filter(|export| export.main().is_none());
    let found = disks.map(|export| {
        let disk = api.server.local_name(&export).to_owned();
        let costs = catalog.disk(&disk).map(|entry| entry.chain.volume().costs());
        Found { name: Name { tenant: tenant.to_owned(), disk }, costs, export }
    });
    found.collect()
}

fn collect(tenants: &Tenants, board: &mut Board) -> Metrics {
    let (mut exports, mut snapshots, mut connections) = (Vec::new(), 0, 0);
    for (tenant, api) in tenants.all() {
        exports.extend(exports_of(&tenant, &api));
        snapshots += api.catalog().snapshots().len();
        connections += api.server.clients().len();
    }
    // In the order in which they were created.
    exports.sort_unstable_by_key(|found| found.export.id());
    let mut states = HashMap::new();
    for Found { export, .. } in &exports {
        *states.entry(super::model::DiskState::from(&export.state()).name()).or_default() += 1;
    }
    board.keep(exports.iter().map(|found| found.export.id()));
    let mut disks = Vec::new();
    for Found { export, name, costs } in exports {
        let connections = export.connections();
        let sums = || Sums::of(&export.account().totals(), costs);
        if let Some(sums) = board.enter(export.id(), name.len(), connections > 0, sums) {
            let size = export.size();
            disks.push(Disk { name, sums, connections, size, costs });
        }
    }
    let memory = tenants.first().maker.process().memory();
    let memory = (memory.used(), memory.limit());
    let server = Server { states, snapshots, connections, memory };
    let (quotas, process) = (quotas(tenants), process::Process::look());
    Metrics { disks, others: board.others(), server, quotas, process }
}

/// Returns what the tenants have of their quotas.
fn quotas(tenants: &Tenants) -> Vec<Quota> {
    let mut all = Vec::new();
    for tenant in tenants.others() {
        let held_back = tenant.held_back().unwrap_or_default();
        for Level { quota, used, most, .. } in tenant.levels().into_iter().flatten() {
            let Some(most) = most else { continue };
            let unit = if quota == "cpus" { 1000.0 } else { 1.0 };
            let held_back = held_back.iter().find(|(of, _)| *of == quota).map(|(_, time)| *time);
            let (used, most) = (used as f64 / unit, most as f64 / unit);
            all.push(Quota { tenant: tenant.name().to_owned(), quota, used, most, held_back });
        }
    }
    all
}
