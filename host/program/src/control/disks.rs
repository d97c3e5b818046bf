//! Disks, their commands and their clients.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use memnbd::device::{Control, ControlError};

use super::api::{Api, Shared, Tagged, check_name, tagged};
use super::catalog::Entry;
use super::model::{
    CommandAnswer, CommandRequest, Connection, Controlled, Disk, DiskSpec, check_parameters,
};
use super::object::Object;
use super::path::{At, OfConnection, OfDisk, OfTenant};
use super::problem::{BadBody, BadRequest, NotFound, Problem};
use crate::events::{Happening, TOLD};
use crate::making::{Made, Rights};

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
pub(super) async fn list_disks(State(api): Shared, _: At<OfTenant>) -> Json<Vec<Disk>> {
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
pub(super) async fn show_disk(
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
pub(super) async fn put_disk(
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
pub(super) async fn remove_disk(
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
pub(super) async fn list_commands(
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
pub(super) async fn execute_command(
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
pub(super) async fn list_connections(State(api): Shared, _: At<OfTenant>) -> Json<Vec<Connection>> {
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
pub(super) async fn disconnect(
    State(api): Shared,
    At(OfConnection { id, .. }): At<OfConnection>,
) -> Result<StatusCode, Problem> {
    match api.server.disconnect(id) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("there is no connection {id}"))),
    }
}
