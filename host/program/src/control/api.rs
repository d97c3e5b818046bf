//! The routes of the control API, and what they do.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header::{ETAG, HeaderName};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{delete, get};
use axum::{Json, Router};
use futures_util::future::join_all;
use memnbd::device::{Control, ControlError};
use memnbd::exports::{Export, NotRemoved};
use memnbd::parameters::nearest;
use memnbd::server::Handle;
use tokio::sync::Semaphore;
use utoipa::OpenApi;

use super::bitmaps;
use super::catalog::{Catalog, Entry};
use super::changes::named;
use super::diff;
use super::exports::{self, Offers};
use super::filters;
use super::lives::{Key, Lives};
use super::map;
use super::model::{
    CommandAnswer, CommandRequest, Connection, Controlled, Disk, DiskSpec, check_parameters,
};
use super::object::Object;
use super::path::{At, OfConnection, OfDisk, OfTenant};
use super::populate;
use super::problem::{BadBody, BadRequest, NotFound, Problem};
use super::snapshots::{self, MAX_SNAPSHOTS};
use super::tenants::Quotas;
use super::upgrade;
use super::usage::show_usage;
use crate::chain::Chain;
use crate::events::{Happening, Hub, Hubs, TOLD};
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
        list_disks,
        show_disk,
        put_disk,
        filters::patch_disk,
        remove_disk,
        list_commands,
        execute_command,
        list_connections,
        disconnect,
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
            changing,
        }
    }

    /// Makes this the API of the first tenant, among those that these hubs are of.
    pub(super) fn among(self, hubs: Hubs) -> Self {
        Self { hubs: Some(hubs), ..self }
    }

    pub(super) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/v1/tenants/{tenant}/disks", get(list_disks))
            .route(
                "/v1/tenants/{tenant}/disks/{disk}",
                get(show_disk).put(put_disk).patch(filters::patch_disk).delete(remove_disk),
            )
            .route(
                "/v1/tenants/{tenant}/disks/{disk}/commands",
                get(list_commands).post(execute_command),
            )
            .route("/v1/tenants/{tenant}/disks/{disk}/map", get(map::show_map))
            .route("/v1/tenants/{tenant}/disks/{disk}/reset", snapshots::reset_route())
            .route("/v1/tenants/{tenant}/disks/{disk}/diff", diff::disk_route())
            .route("/v1/tenants/{tenant}/exports", exports::list_route())
            .route("/v1/tenants/{tenant}/exports/{export}", exports::route())
            .route("/v1/tenants/{tenant}/snapshots", snapshots::list_route())
            .route("/v1/tenants/{tenant}/snapshots/{snapshot}", snapshots::route())
            .route("/v1/tenants/{tenant}/snapshots/{snapshot}/diff", diff::snapshot_route())
            .route("/v1/tenants/{tenant}/disks/{disk}/nbd", get(upgrade::connect_nbd))
            .route("/v1/tenants/{tenant}/connections", get(list_connections))
            .route("/v1/tenants/{tenant}/connections/{id}", delete(disconnect))
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
    async fn remove(&self, name: &str) -> Result<(), Problem> {
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
        tokio::task::spawn_blocking(move || drop(snapshots));
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
        removed.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    /// Checks that there is room for these disks, with texts of this weight, besides those there are.
    pub(super) fn check_room(&self, disks: usize, weight: usize) -> Result<(), Problem> {
        let Room { disks: most, weight: most_weight, .. } = self.room();
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

    fn shown(&self, export: &Arc<Export>) -> Disk {
        let left = self.lives.left(&Key::Disk(export.id()));
        let name = self.server.local_name(export);
        Disk::of(name, export, self.catalog().spec(name).cloned(), left)
    }
}

/// Lists the disks.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks",
    params(OfTenant),
    responses(
        (status = 200, body = Vec<Disk>),
        NotFound,
    )
)]
async fn list_disks(State(api): Shared, _: At<OfTenant>) -> Json<Vec<Disk>> {
    let exports = api.server.exports();
    let disks = exports.iter().filter(|export| !api.offers.has(api.server.local_name(export)));
    Json(disks.map(|export| api.shown(export)).collect())
}

/// Shows a disk.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}",
    params(OfDisk),
    responses(
        (status = 200, body = Disk, headers(("etag" = String, description = "The generation"))),
        NotFound,
    )
)]
async fn show_disk(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
) -> Result<Tagged<Disk>, Problem> {
    let export = api.disk(&disk)?;
    Ok(tagged(StatusCode::OK, &api, &export))
}

/// Creates a disk. If there is one that is made of the same, only its `ttl` begins anew, if it has one.
#[utoipa::path(
    put,
    path = "/v1/tenants/{tenant}/disks/{disk}",
    params(OfDisk),
    request_body = DiskSpec,
    responses(
        (status = 200, description = "It exists and is made of the same", body = Disk,
            headers(("etag" = String, description = "The generation"))),
        (status = 201, description = "It was created", body = Disk,
            headers(("etag" = String, description = "The generation"))),
        BadRequest,
        NotFound,
        (status = 409, description = "It exists and is made of something else", body = Problem,
            content_type = "application/problem+json"),
        BadBody,
        (status = 507, description = "There are too many disks", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn put_disk(
    State(api): Shared,
    At(OfDisk { disk: name, .. }): At<OfDisk>,
    Object(spec): Object<DiskSpec>,
) -> Result<Tagged<Disk>, Problem> {
    check_name(&name).map_err(Problem::bad_request)?;
    let spec = spec.checked().map_err(Problem::bad_request)?;
    let _alone = api.changing.lock().await;
    if let Some(export) = api.export(&name) {
        if api.catalog().spec(&name) == Some(&spec) {
            api.lives.renew(&export);
            return Ok(tagged(StatusCode::OK, &api, &export));
        }
        return Err(Problem::conflict(format!(
            "the disk {name:?} exists and is made of something else; remove it first"
        )));
    }
    api.check_room(1, spec.weight())?;
    let Made { export, chain } = api.make(&name, &spec, Rights::Grants).await?;
    api.server.add(export.clone()).map_err(|error| Problem::conflict(error.to_string()))?;
    api.record(&export, Entry { spec, chain, origin: None });
    tracing::info!(target: TOLD, "disk {name:?}: created");
    Ok(tagged(StatusCode::CREATED, &api, &export))
}

/// Removes a disk. Its clients are disconnected, and it is flushed.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}/disks/{disk}",
    params(OfDisk),
    responses(
        (status = 204, description = "It is gone"),
        NotFound,
        (status = 409, description = "Another disk stands on it, or it has exports", body = Problem,
            content_type = "application/problem+json"),
        (status = 500, description = "It is gone, but could not be flushed", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn remove_disk(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
) -> Result<StatusCode, Problem> {
    // To its end, even if the client does not wait for it.
    let removing = tokio::spawn(async move { api.remove(&disk).await });
    removing.await.unwrap_or_else(|_| Err(Problem::failed())).map(|()| StatusCode::NO_CONTENT)
}

/// Lists the layers of a disk that take commands, the one nearest to the clients first. The disk is opened
/// for that if it is not open.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}/commands",
    params(OfDisk),
    responses(
        (status = 200, body = Vec<Controlled>),
        NotFound,
        (status = 409, description = "The disk cannot be opened", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn list_commands(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
) -> Result<Json<Vec<Controlled>>, Problem> {
    let controls = controls(&api, &disk).await?;
    Ok(Json(controls.iter().map(Controlled::of).collect()))
}

/// Gives a command to a disk that is in use: the command `set` of `error` changes its faults, for
/// example.
#[utoipa::path(
    post,
    path = "/v1/tenants/{tenant}/disks/{disk}/commands",
    params(OfDisk),
    request_body = CommandRequest,
    responses(
        (status = 200, description = "It was carried out", body = CommandAnswer),
        BadRequest,
        NotFound,
        (status = 409, description = "The disk cannot be opened, or refuses the command",
            body = Problem, content_type = "application/problem+json"),
        BadBody,
    )
)]
async fn execute_command(
    State(api): Shared,
    At(OfDisk { disk: name, .. }): At<OfDisk>,
    Object(request): Object<CommandRequest>,
) -> Result<Json<CommandAnswer>, Problem> {
    let CommandRequest { component, command, parameters } = request;
    check_parameters(&parameters).map_err(Problem::bad_request)?;
    let controls = controls(&api, &name).await?;
    let of_layer = |control: &&Control| match &component {
        Some(component) => control.component() == component,
        None => true,
    };
    let has = |control: &&Control| control.commands().iter().any(|one| one.name == command);
    let layers: Vec<&Control> = controls.iter().filter(of_layer).collect();
    let Some(&control) = layers.iter().find(|control| has(control)).or(layers.first()) else {
        let layers: Vec<&str> = controls.iter().map(Control::component).collect();
        return Err(Problem::bad_request(match (layers.is_empty(), component) {
            (false, Some(component)) => format!(
                "no layer {component:?} of the disk {name:?} takes commands; there are {}",
                layers.join(", ")
            ),
            _ => format!("the disk {name:?} takes no commands"),
        }));
    };
    let executed = control.execute(&command, &parameters).await;
    let answer = executed.map_err(|error| match error {
        ControlError::Refused(_) => Problem::conflict(error.to_string()),
        ControlError::Unknown { .. } | ControlError::Arguments(_) => {
            Problem::bad_request(format!("{}: {error}", control.component()))
        }
    })?;
    let component = control.component();
    api.events.tell(Some(name.clone()), Happening::command(component, &command, &parameters));
    tracing::info!(target: TOLD, "disk {name:?}: {component} carried out {command:?}");
    Ok(Json(CommandAnswer { component: control.component().to_owned(), answer }))
}

/// Opens a disk, and returns its layers that take commands.
async fn controls(api: &Api, name: &str) -> Result<Vec<Control>, Problem> {
    let export = api.disk(name)?;
    export.disk().await.map_err(|failed| {
        Problem::conflict(format!("the disk {name:?} cannot be opened: {failed}"))
    })?;
    Ok(export.controls())
}

/// Lists the clients that use a disk.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/connections",
    params(OfTenant),
    responses(
        (status = 200, body = Vec<Connection>),
        NotFound,
    )
)]
async fn list_connections(State(api): Shared, _: At<OfTenant>) -> Json<Vec<Connection>> {
    let now = Instant::now();
    let connections = api.server.clients().into_iter().map(|client| Connection {
        id: client.id,
        peer: client.peer.to_string(),
        disk: client.export.to_string(),
        seconds: now.saturating_duration_since(client.since).as_secs(),
    });
    Json(connections.collect())
}

/// Disconnects a client. Its requests under way are not answered.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}/connections/{id}",
    params(OfConnection),
    responses(
        (status = 204, description = "It is being closed"),
        BadRequest,
        NotFound,
    )
)]
async fn disconnect(
    State(api): Shared,
    At(OfConnection { id, .. }): At<OfConnection>,
) -> Result<StatusCode, Problem> {
    match api.server.disconnect(id) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("there is no connection {id}"))),
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
