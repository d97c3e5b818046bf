//! The API of a tenant: its routes, and what their handlers share.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ETAG, HeaderName};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{delete, get};
use axum::{Json, Router};
use futures_util::future::join_all;
use memnbd::exports::{Export, NotRemoved};
use memnbd::parameters::nearest;
use memnbd::server::Handle;
use tokio::sync::Semaphore;
use utoipa::OpenApi;

use super::bitmaps;
use super::catalog::{Catalog, Entry};
use super::changes::named;
use super::diff;
use super::discard::discard;
use super::disks;
use super::exports;
use super::filters;
use super::heap::count_closed;
use super::heat;
use super::lives::{Key, Lives};
use super::map;
use super::model::{Disk, DiskSpec};
use super::offers::Offers;
use super::populate;
use super::problem::Problem;
use super::snapshots::{self, MAX_SNAPSHOTS};
use super::tenants::Quotas;
use super::upgrade;
use super::usage::show_usage;
use crate::chain::Chain;
use crate::events::{Hub, Hubs, TOLD};
use crate::making::{Layers, Made, Maker, Rights};

/// The most disks, however they were made.
pub(crate) const MAX_DISKS: usize = 10_000;

/// The memory that the texts of all disks may take together, in bytes.
pub(crate) const MAX_WEIGHT: usize = 64 << 20;

/// How long requests under way may take when their disk is removed.
pub(super) const REMOVAL: Duration = Duration::from_secs(10);

/// The same for the disks of each tenant but the first.
const TENANT_WEIGHT: usize = 4 << 20;

/// The most streams of events of a tenant at a time.
pub(super) const MAX_STREAMS: usize = 32;

/// How many maps of disks of a tenant are drawn at a time.
const MAX_MAPS: usize = 4;

/// The longest name of a disk, in bytes.
const MAX_NAME: usize = 255;

/// The description of the API, except for tenants and tokens.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "memnbd control API",
        description = "Creates, shows, changes and removes the disks of a memnbd server while it runs.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        disks::list_disks,
        disks::show_disk,
        disks::put_disk,
        filters::patch_disk,
        disks::remove_disk,
        disks::list_commands,
        disks::execute_command,
        disks::list_connections,
        disks::disconnect,
        super::events::follow_events,
        populate::populate_disks,
        exports::list_exports,
        exports::show_export,
        exports::put_export,
        exports::remove_export,
        snapshots::list_snapshots,
        snapshots::show_snapshot,
        snapshots::take_snapshot,
        snapshots::delete_snapshot,
        snapshots::reset_disk,
        super::diff::diff_snapshot,
        super::diff::diff_disk,
        super::usage::show_usage,
        map::show_map,
        heat::show_heat,
        super::upgrade::connect_nbd
    )
)]
pub(super) struct Description;

/// How much a tenant may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) disks: usize,
    pub(super) snapshots: usize,
    /// The memory that the texts of all disks take together, in bytes.
    weight: usize,
}

impl Room {
    /// That of the first tenant.
    pub(super) const WHOLE: Self =
        Self { disks: MAX_DISKS, snapshots: MAX_SNAPSHOTS, weight: MAX_WEIGHT };

    /// Returns that of another tenant.
    pub(super) fn of(quotas: &Quotas) -> Self {
        Self {
            disks: quotas.disks.min(MAX_DISKS),
            snapshots: quotas.snapshots.min(MAX_SNAPSHOTS),
            weight: TENANT_WEIGHT,
        }
    }
}

/// What the handlers of a tenant share.
pub(super) struct Api {
    pub(super) server: Handle,
    pub(super) maker: Maker,
    pub(super) events: Hub,
    pub(super) lives: Lives,
    pub(super) offers: Offers,
    /// All hubs, if this is the first tenant's.
    hubs: Option<Hubs>,
    catalog: Arc<Mutex<Catalog>>,
    room: Mutex<Room>,
    /// The places of the streams of events.
    pub(super) streams: Arc<Semaphore>,
    /// The places of maps that are being drawn.
    pub(super) maps: Semaphore,
    /// The place of a configuration that is being handled.
    pub(super) populating: Arc<Semaphore>,
    /// The numbers of the exports whose limits are those of the command line.
    pub(super) fixed: HashSet<u64>,
    /// Held while the disks and snapshots change.
    pub(super) changing: tokio::sync::Mutex<()>,
}

pub(super) type Shared = State<Arc<Api>>;

impl Api {
    pub(super) fn new(
        server: Handle,
        maker: Maker,
        disks: HashMap<String, (Layers, Arc<Chain>)>,
        events: Hub,
        room: Room,
    ) -> Self {
        let (mut catalog, mut fixed) = (Catalog::default(), HashSet::new());
        for (name, (layers, chain)) in disks {
            fixed.extend(server.export(&name).map(|export| export.id()));
            catalog.insert(&name, Entry { spec: layers.into(), chain, origin: None });
        }
        let (catalog, changing) = (Arc::new(Mutex::new(catalog)), tokio::sync::Mutex::default());
        for export in server.exports() {
            bitmaps::offer(&export, server.local_name(&export), &catalog);
        }
        let (room, streams) = (Mutex::new(room), Arc::new(Semaphore::new(MAX_STREAMS)));
        let (lives, offers) = (Lives::default(), Offers::default());
        Self {
            server,
            maker,
            events,
            hubs: None,
            lives,
            offers,
            catalog,
            fixed,
            room,
            streams,
            maps: Semaphore::new(MAX_MAPS),
            populating: Arc::new(Semaphore::new(1)),
            changing,
        }
    }

    /// Makes this the API of the first tenant, among those that these hubs are of.
    pub(super) fn among(self, hubs: Hubs) -> Self {
        Self { hubs: Some(hubs), ..self }
    }

    pub(super) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/v1/tenants/{tenant}/disks", get(disks::list_disks))
            .route(
                "/v1/tenants/{tenant}/disks/{disk}",
                get(disks::show_disk)
                    .put(disks::put_disk)
                    .patch(filters::patch_disk)
                    .delete(disks::remove_disk),
            )
            .route(
                "/v1/tenants/{tenant}/disks/{disk}/commands",
                get(disks::list_commands).post(disks::execute_command),
            )
            .route("/v1/tenants/{tenant}/disks/{disk}/map", get(map::show_map))
            .route("/v1/tenants/{tenant}/disks/{disk}/heat", get(heat::show_heat))
            .route("/v1/tenants/{tenant}/disks/{disk}/reset", snapshots::reset_route())
            .route("/v1/tenants/{tenant}/disks/{disk}/diff", diff::disk_route())
            .route("/v1/tenants/{tenant}/exports", exports::list_route())
            .route("/v1/tenants/{tenant}/exports/{export}", exports::route())
            .route("/v1/tenants/{tenant}/snapshots", snapshots::list_route())
            .route("/v1/tenants/{tenant}/snapshots/{snapshot}", snapshots::route())
            .route("/v1/tenants/{tenant}/snapshots/{snapshot}/diff", diff::snapshot_route())
            .route("/v1/tenants/{tenant}/disks/{disk}/nbd", get(upgrade::connect_nbd))
            .route("/v1/tenants/{tenant}/connections", get(disks::list_connections))
            .route("/v1/tenants/{tenant}/connections/{id}", delete(disks::disconnect))
            .route("/v1/tenants/{tenant}/populate", populate::route())
            .route("/v1/tenants/{tenant}/usage", get(show_usage))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .with_state(self)
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how much the tenant may have.
    pub(super) fn room(&self) -> Room {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how much the tenant may have. What it has beyond that stays.
    pub(super) fn set_room(&self, room: Room) {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = room;
    }

    /// Records what a disk is made of, and when it ends.
    pub(super) fn record(&self, export: &Arc<Export>, entry: Entry) {
        self.lives.set_disk(export, &entry.spec);
        self.catalog().insert(self.server.local_name(export), entry);
    }

    pub(super) fn export(&self, name: &str) -> Option<Arc<Export>> {
        self.server.named(name).filter(|_| !self.offers.has(name))
    }

    pub(super) fn disk(&self, name: &str) -> Result<Arc<Export>, Problem> {
        self.export(name).ok_or_else(|| {
            if self.offers.has(name) {
                let detail = "is an export, and no disk; memnbd exports tells of which";
                return Problem::not_found(format!("{name:?} {detail}"));
            }
            let exports = self.server.exports();
            let known = exports.iter().map(|export| self.server.local_name(export));
            let guess = nearest(name, known)
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            Problem::not_found(format!("there is no disk {name:?}{guess}"))
        })
    }

    /// Removes a disk.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Problem> {
        let _alone = self.changing.lock().await;
        let removed = self.remove_alone(name).await;
        if removed.is_ok() {
            tracing::info!(target: TOLD, "disk {name:?}: removed");
        }
        removed
    }

    /// Removes all disks and snapshots. Failures are logged.
    pub(super) async fn remove_everything(&self) {
        let _alone = self.changing.lock().await;
        self.set_room(Room { disks: 0, snapshots: 0, weight: 0 });
        for export in self.offers.names() {
            // It can only be gone already.
            let _ = self.withdraw(&export).await;
        }
        let mut left = usize::MAX;
        loop {
            let exports = self.server.exports();
            if exports.is_empty() || exports.len() == left {
                break;
            }
            left = exports.len();
            // Those that others stand on are removed after them.
            let names = exports.iter().map(|export| self.server.local_name(export));
            let removing = names.map(|name| self.remove_alone(name));
            for problem in join_all(removing).await.into_iter().filter_map(Result::err) {
                tracing::debug!("{}", problem.detail());
            }
        }
        let snapshots = std::mem::take(self.catalog().snapshots());
        discard(snapshots);
    }

    /// Removes a disk, while nothing else changes the disks.
    pub(super) async fn remove_alone(&self, name: &str) -> Result<(), Problem> {
        self.disk(name)?;
        let removed = self.server.remove(name, REMOVAL).await;
        match removed {
            Err(NotRemoved::Unknown) => {
                return Err(Problem::not_found(format!("there is no disk {name:?}")));
            }
            Err(NotRemoved::StoodOn) => {
                return Err(Problem::conflict(format!(
                    "another disk stands on {name:?}; remove that one first"
                )));
            }
            Err(NotRemoved::HasOtherNames) => {
                let exports = self.offers.of_disk(name);
                let names: Vec<&str> = exports.iter().map(String::as_str).collect();
                return Err(Problem::conflict(format!(
                    "the disk {name:?} is exported as {}; remove that first (memnbd rm --export)",
                    named(&names)
                )));
            }
            Ok(()) | Err(NotRemoved::Unflushed(_)) => {}
        }
        self.catalog().remove(name);
        count_closed();
        removed.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    /// Checks that there is room for these disks, with texts of this weight, besides those there are.
    pub(super) fn check_room(&self, disks: usize, weight: usize) -> Result<(), Problem> {
        self.check_room_of(self.room(), disks, weight)
    }

    /// The same with another room than there is now.
    pub(super) fn check_room_of(
        &self,
        room: Room,
        disks: usize,
        weight: usize,
    ) -> Result<(), Problem> {
        let Room { disks: most, weight: most_weight, .. } = room;
        if self.server.export_count() + disks <= most
            && self.catalog().weight() + self.offers.weight() + weight <= most_weight
        {
            return Ok(());
        }
        Err(Problem::full(format!(
            "there are too many disks and exports: at most {most}, with texts of at most {most_weight} bytes \
             together; remove some"
        )))
    }

    /// Checks that the log calls no disk of another tenant by this name.
    pub(super) fn check_free(&self, name: &str) -> Result<(), Problem> {
        match self.hubs.as_ref().is_some_and(|hubs| hubs.is_like_of_tenant(name)) {
            true => Err(Problem::bad_request(format!(
                "{name:?} is what the log calls a disk of a tenant; choose another name"
            ))),
            false => Ok(()),
        }
    }

    /// Makes an export, without opening its disk.
    pub(super) async fn make(
        &self,
        name: &str,
        spec: &DiskSpec,
        rights: Rights<'_>,
    ) -> Result<Made, Problem> {
        self.check_free(name)?;
        let layers = spec.layers();
        let made = match (&spec.snapshot, rights) {
            (Some(snapshot), _) => {
                let snapshot = self.snapshot(snapshot)?.snapshot;
                self.maker.clone_of(snapshot, name, &layers).await
            }
            (None, Rights::Server(directory)) => {
                self.maker.export_with_rights(name, &layers, directory).await
            }
            (None, Rights::Grants) => self.maker.export(name, &layers).await,
        };
        let made = made.map_err(|failure| Problem::bad_request(failure.to_string()))?;
        bitmaps::offer(&made.export, name, &self.catalog);
        Ok(made)
    }

    pub(super) fn shown(&self, export: &Arc<Export>) -> Disk {
        let left = self.lives.left(&Key::Disk(export.id()));
        let name = self.server.local_name(export);
        Disk::of(name, export, self.catalog().spec(name).cloned(), left)
    }
}

/// Checks the name of a disk.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    match name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        true => Err(format!("the name of a disk has 1 to {MAX_NAME} bytes, none of which is zero")),
        false => Ok(()),
    }
}

/// A resource with its status and its entity tag.
pub(super) type Tagged<T> = (StatusCode, [(HeaderName, String); 1], Json<T>);

pub(super) fn tagged(status: StatusCode, api: &Api, export: &Arc<Export>) -> Tagged<Disk> {
    // With the number, for a disk that is created anew is another one.
    let tag = format!("\"{}-{}\"", export.id(), export.generation());
    (status, [(ETAG, tag)], Json(api.shown(export)))
}

pub(super) async fn no_route(uri: Uri) -> Problem {
    Problem::not_found(format!(
        "there is nothing at {:?}; /v1/openapi.json describes what there is",
        uri.path()
    ))
}

pub(super) async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible on {:?}; /v1/openapi.json describes what is", uri.path()),
    )
}
