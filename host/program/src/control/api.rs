//! The routes of the control API, and what they do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{ETAG, HeaderName};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{delete, get};
use axum::{Json, Router};
use memnbd::device::{Control, ControlError};
use memnbd::exports::{Export, NotRemoved};
use memnbd::parameters::nearest;
use memnbd::server::Handle;
use utoipa::OpenApi;

use super::model::Tenant;
use super::model::{
    CommandAnswer, CommandRequest, Connection, Controlled, Disk, DiskSpec, check_parameters,
};
use super::object::Object;
use super::problem::Problem;
use crate::Failure;
use crate::making::{Layers, Maker};

/// The only tenant there is.
const TENANT: &str = "default";

/// The most disks, however they were made.
const MAX_DISKS: usize = 10_000;

/// The memory that the texts of all disks may take together, in bytes.
const MAX_WEIGHT: usize = 64 << 20;

/// How long requests under way may take when their disk is removed.
const REMOVAL: Duration = Duration::from_secs(10);

/// The longest name of a disk, in bytes.
const MAX_NAME: usize = 255;

/// The description of the API.
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
        remove_disk,
        list_commands,
        execute_command,
        list_connections,
        disconnect
    )
)]
struct Description;

/// What the handlers share.
pub(super) struct Api {
    server: Handle,
    maker: Maker,
    specs: Mutex<Specs>,
    /// Held while the set of disks changes.
    changing: tokio::sync::Mutex<()>,
}

/// What the disks are made of.
#[derive(Default)]
struct Specs {
    by_name: HashMap<String, DiskSpec>,
    /// The memory that their texts take, in bytes.
    weight: usize,
}

impl Specs {
    fn insert(&mut self, name: String, spec: DiskSpec) {
        self.weight += spec.weight();
        let before = self.by_name.insert(name, spec);
        self.weight -= before.as_ref().map_or(0, DiskSpec::weight);
    }

    fn remove(&mut self, name: &str) {
        let removed = self.by_name.remove(name);
        self.weight -= removed.as_ref().map_or(0, DiskSpec::weight);
    }
}

type Shared = State<Arc<Api>>;

/// The parts of a path: the tenant, and what else it names.
type Name = Result<Path<(String, String)>, PathRejection>;

impl Api {
    pub(super) fn new(server: Handle, maker: Maker, layers: HashMap<String, Layers>) -> Self {
        let mut specs = Specs::default();
        for (name, layers) in layers {
            specs.insert(name, layers.into());
        }
        Self { server, maker, specs: Mutex::new(specs), changing: tokio::sync::Mutex::default() }
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/v1/openapi.json", get(async || Json(Description::openapi())))
            .route("/v1/tenants/{tenant}/disks", get(list_disks))
            .route(
                "/v1/tenants/{tenant}/disks/{disk}",
                get(show_disk).put(put_disk).delete(remove_disk),
            )
            .route(
                "/v1/tenants/{tenant}/disks/{disk}/commands",
                get(list_commands).post(execute_command),
            )
            .route("/v1/tenants/{tenant}/connections", get(list_connections))
            .route("/v1/tenants/{tenant}/connections/{id}", delete(disconnect))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .with_state(Arc::new(self))
    }

    fn specs(&self) -> MutexGuard<'_, Specs> {
        self.specs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn export(&self, name: &str) -> Option<Arc<Export>> {
        // The empty name stands for another one.
        self.server.export(name).filter(|export| export.name() == name)
    }

    fn disk(&self, name: &str) -> Result<Arc<Export>, Problem> {
        self.export(name).ok_or_else(|| {
            let exports = self.server.exports();
            let known = exports.iter().map(|export| export.name());
            let guess = nearest(name, known)
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            Problem::not_found(format!("there is no disk {name:?}{guess}"))
        })
    }

    fn shown(&self, export: &Arc<Export>) -> Disk {
        Disk::of(export, self.specs().by_name.get(export.name()).cloned())
    }
}

/// Checks the tenant of a path.
fn check_tenant(tenant: &str) -> Result<(), Problem> {
    match tenant {
        TENANT => Ok(()),
        _ => Err(Problem::not_found(format!(
            "there is no tenant {tenant:?}; the only one is {TENANT:?}"
        ))),
    }
}

/// Returns what a path names beside the tenant.
fn named(path: Name) -> Result<String, Problem> {
    let Path((tenant, name)) = path?;
    check_tenant(&tenant)?;
    Ok(name)
}

/// Lists the disks.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks",
    params(("tenant" = inline(Tenant), Path, description = "The tenant, `default`")),
    responses(
        (status = 200, body = Vec<Disk>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn list_disks(
    State(api): Shared,
    tenant: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<Disk>>, Problem> {
    check_tenant(&tenant?)?;
    Ok(Json(api.server.exports().iter().map(|export| api.shown(export)).collect()))
}

/// Shows a disk.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}",
    params(
        ("tenant" = inline(Tenant), Path, description = "The tenant, `default`"),
        ("disk" = String, Path, description = "The name of the disk"),
    ),
    responses(
        (status = 200, body = Disk, headers(("etag" = String, description = "The generation"))),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn show_disk(State(api): Shared, path: Name) -> Result<Tagged<Disk>, Problem> {
    let export = api.disk(&named(path)?)?;
    Ok(tagged(StatusCode::OK, &api, &export))
}

/// Creates a disk. If there is one that is made of the same, nothing happens.
#[utoipa::path(
    put,
    path = "/v1/tenants/{tenant}/disks/{disk}",
    params(
        ("tenant" = inline(Tenant), Path, description = "The tenant, `default`"),
        ("disk" = String, Path, description = "The name of the disk, at most 255 bytes"),
    ),
    request_body = DiskSpec,
    responses(
        (status = 200, description = "It exists and is made of the same", body = Disk,
            headers(("etag" = String, description = "The generation"))),
        (status = 201, description = "It was created", body = Disk,
            headers(("etag" = String, description = "The generation"))),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It exists and is made of something else", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "There are too many disks", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn put_disk(
    State(api): Shared,
    path: Name,
    Object(spec): Object<DiskSpec>,
) -> Result<Tagged<Disk>, Problem> {
    let name = named(path)?;
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err(Problem::bad_request(format!(
            "the name of a disk has 1 to {MAX_NAME} bytes, none of which is zero"
        )));
    }
    spec.check().map_err(Problem::bad_request)?;
    let _alone = api.changing.lock().await;
    if let Some(export) = api.export(&name) {
        if api.specs().by_name.get(&name) == Some(&spec) {
            return Ok(tagged(StatusCode::OK, &api, &export));
        }
        return Err(Problem::conflict(format!(
            "the disk {name:?} exists and is made of something else; remove it first"
        )));
    }
    let weight = api.specs().weight + spec.weight();
    if api.server.export_count() >= MAX_DISKS || weight > MAX_WEIGHT {
        return Err(Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!(
                "there are too many disks: at most {MAX_DISKS}, with texts of at most {MAX_WEIGHT} \
                 bytes together; remove some"
            ),
        ));
    }
    let export =
        api.maker.export(&name, &spec.layers()).await.map_err(|failure| match failure {
            Failure::Usage(text) => Problem::bad_request(text),
            Failure::Failed(error) => Problem::bad_request(format!("{error:#}")),
        })?;
    api.server.add(export.clone()).map_err(|error| Problem::conflict(error.to_string()))?;
    api.specs().insert(name.clone(), spec);
    tracing::info!("disk {name:?}: created");
    Ok(tagged(StatusCode::CREATED, &api, &export))
}

/// Removes a disk. Its clients are disconnected, and it is flushed.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}/disks/{disk}",
    params(
        ("tenant" = inline(Tenant), Path, description = "The tenant, `default`"),
        ("disk" = String, Path, description = "The name of the disk"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another disk stands on it", body = Problem,
            content_type = "application/problem+json"),
        (status = 500, description = "It is gone, but could not be flushed", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn remove_disk(State(api): Shared, path: Name) -> Result<StatusCode, Problem> {
    let name = named(path)?;
    let _alone = api.changing.lock().await;
    api.disk(&name)?;
    let removed = api.server.remove(&name, REMOVAL).await;
    let problem = match removed {
        Ok(()) => None,
        Err(NotRemoved::Unknown) => {
            return Err(Problem::not_found(format!("there is no disk {name:?}")));
        }
        Err(NotRemoved::StoodOn) => {
            return Err(Problem::conflict(format!(
                "another disk stands on {name:?}; remove that one first"
            )));
        }
        Err(error @ NotRemoved::Unflushed(_)) => {
            Some(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
        }
    };
    api.specs().remove(&name);
    tracing::info!("disk {name:?}: removed");
    problem.map_or(Ok(StatusCode::NO_CONTENT), Err)
}

/// Lists the layers of a disk that take commands, the one nearest to the clients first. The disk is opened
/// for that if it is not open.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}/commands",
    params(
        ("tenant" = inline(Tenant), Path, description = "The tenant, `default`"),
        ("disk" = String, Path, description = "The name of the disk"),
    ),
    responses(
        (status = 200, body = Vec<Controlled>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The disk cannot be opened", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn list_commands(State(api): Shared, path: Name) -> Result<Json<Vec<Controlled>>, Problem> {
    let controls = controls(&api, &named(path)?).await?;
    Ok(Json(controls.iter().map(Controlled::of).collect()))
}

/// Gives a command to a disk that is in use: the command `set` of `error` changes its faults, for
/// example.
#[utoipa::path(
    post,
    path = "/v1/tenants/{tenant}/disks/{disk}/commands",
    params(
        ("tenant" = inline(Tenant), Path, description = "The tenant, `default`"),
        ("disk" = String, Path, description = "The name of the disk"),
    ),
    request_body = CommandRequest,
    responses(
        (status = 200, description = "It was carried out", body = CommandAnswer),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The disk cannot be opened, or refuses the command",
            body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn execute_command(
    State(api): Shared,
    path: Name,
    Object(request): Object<CommandRequest>,
) -> Result<Json<CommandAnswer>, Problem> {
    let name = named(path)?;
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
    tracing::info!("disk {name:?}: {} carried out {command:?}", control.component());
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
    params(("tenant" = inline(Tenant), Path, description = "The tenant, `default`")),
    responses(
        (status = 200, body = Vec<Connection>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn list_connections(
    State(api): Shared,
    tenant: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<Connection>>, Problem> {
    check_tenant(&tenant?)?;
    let now = Instant::now();
    let connections = api.server.clients().into_iter().map(|client| Connection {
        id: client.id,
        peer: client.peer.to_string(),
        disk: client.export.to_string(),
        seconds: now.saturating_duration_since(client.since).as_secs(),
    });
    Ok(Json(connections.collect()))
}

/// Disconnects a client. Its requests under way are not answered.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}/connections/{id}",
    params(
        ("tenant" = inline(Tenant), Path, description = "The tenant, `default`"),
        ("id" = u64, Path, description = "The number of the connection"),
    ),
    responses(
        (status = 204, description = "It is being closed"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn disconnect(
    State(api): Shared,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path((tenant, id)) = path?;
    check_tenant(&tenant)?;
    match api.server.disconnect(id) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("there is no connection {id}"))),
    }
}

/// A resource with its status and its entity tag.
type Tagged<T> = (StatusCode, [(HeaderName, String); 1], Json<T>);

fn tagged(status: StatusCode, api: &Api, export: &Arc<Export>) -> Tagged<Disk> {
    // With the number, for a disk that is created anew is another one.
    let tag = format!("\"{}-{}\"", export.id(), export.generation());
    (status, [(ETAG, tag)], Json(api.shown(export)))
}

async fn no_route(uri: Uri) -> Problem {
    Problem::not_found(format!(
        "there is nothing at {:?}; /v1/openapi.json describes what there is",
        uri.path()
    ))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible on {:?}; /v1/openapi.json describes what is", uri.path()),
    )
}
