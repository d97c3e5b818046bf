//! Events, sent as they happen (server-sent events).
//!
//! Streams last, so they have places of their own and no time limit. Each has a position in the
//! events that are kept, and nothing else, so a client that does not read costs no more than the
//! buffers of its connection. It misses events, is told so when it reads on, and is disconnected
//! when it takes nothing for a while.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Sent, Sse};
use axum::routing::get;
use futures_util::stream::{self, Stream};
use memnbd::exports::{Change, Export, State as DiskState};
use memnbd::server::Handle;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::IntoParams;

use super::api::{Api, MAX_STREAMS, Shared, no_method};
use super::lives::{Key, Lives};
use super::path::{At, OfTenant};
use super::problem::{self, BadRequest, NotFound, Problem};
use crate::events::{After, Event, Happening, Hubs, Id, Read, Reader};

/// How long nothing is sent before a comment says that the stream is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a client wants to read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only events of this disk, and those that say that events are missing.
    #[serde(default)]
    disk: Option<String>,
    /// Whether the stream begins with the events that are still kept, unless `Last-Event-ID` says
    /// where.
    #[serde(default = "yes")]
    #[param(default = true)]
    replay: bool,
    /// Whether the stream goes on with what happens later.
    #[serde(default = "yes")]
    #[param(default = true)]
    follow: bool,
}

fn yes() -> bool {
    true
}

/// Returns the route of the events, which needs no limits but its own.
pub(super) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/tenants/{tenant}/events", get(follow_events).fallback(no_method))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .with_state(api)
}

/// Sends events as they happen: disks that are created, removed, relabelled, replaced, opened,
/// closed or fail, by whomever, exports, commands, clients that come and go, and what the server logs
/// (without the details of `--verbose`). The last ones are kept, 1024 of what is done by this API
/// and as many of the others. Each has an id, greater than those before it; the header
/// `Last-Event-ID` makes the stream go on after that one. Where events are missing, one of the type
/// `lost` says how many. Comments keep the stream alive.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/events",
    params(
        OfTenant,
        Wanted,
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]+-[0-9]+$",
            description = "The id of the last event that was read"),
    ),
    responses(
        (status = 200, description = "Server-sent events. The type of each is that of its data, which has \
            this schema", body = Event, content_type = "text/event-stream"),
        BadRequest,
        NotFound,
        (status = 429, description = "There are too many such streams", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn follow_events(
    State(api): Shared,
    _: At<OfTenant>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<
    ([(HeaderName, &'static str); 1], Sse<impl Stream<Item = Result<Sent, Infallible>>>),
    Problem,
> {
    let Query(wanted) = wanted?;
    let after = match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            After::Id(id.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| {
                Problem::bad_request(
                    "Last-Event-ID is not the id of an event: two numbers, as in 1-2",
                )
            })?)
        }
        None if wanted.replay => After::Nothing,
        None => After::Now,
    };
    let place = api.streams.clone().try_acquire_owned().map_err(|_| {
        let detail =
            format!("there are {MAX_STREAMS} streams of events, as many as may be; end one");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
    })?;
    let Wanted { disk, follow, .. } = wanted;
    let reading = Reading { reader: api.events.read(after), disk, follow, _place: place };
    let sent = stream::unfold(reading, |mut reading| async {
        reading.next().await.map(|sent| (Ok(sent), reading))
    });
    Ok(([(CACHE_CONTROL, "no-store")], Sse::new(sent)))
}

/// A stream.
struct Reading {
    reader: Reader,
    disk: Option<String>,
    follow: bool,
    _place: OwnedSemaphorePermit,
}

impl Reading {
    /// Returns what is sent next, or `None` at the end.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            match self.reader.try_next() {
                Some(Read::Event(id, kept)) => {
                    if self.disk.is_none() || self.disk.as_deref() == kept.disk() {
                        return Some(sent(id, kept.name, kept.json()));
                    }
                }
                Some(Read::Lost(id, kept)) => return Some(sent(id, kept.name, kept.json())),
                None if !self.follow => return None,
                None => match tokio::time::timeout(KEEP_ALIVE, self.reader.more()).await {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(_) => return Some(Sent::default().comment("")),
                },
            }
        }
    }
}

fn sent(id: Id, name: &str, json: &str) -> Sent {
    Sent::default().id(id.to_string()).event(name).data(json)
}

/// Tells what happens to the disks of a server or tenant.
pub(super) fn observe_disks(api: &Api) {
    let (events, lives, offers) = (api.events.clone(), api.lives.clone(), api.offers.clone());
    let namespace = api.server.namespace().to_owned();
    // The handle would keep the exports, whose observer this is.
    let prefix = if namespace.is_empty() { namespace } else { namespace + "/" };
    api.server.observe_exports(Box::new(move |export: &Export, change: Change| {
        let name = export.name().strip_prefix(&prefix).unwrap_or(export.name());
        let happening = match change {
            // Those who offer and withdraw it tell of that.
            Change::Added | Change::Removed if offers.has(name) => return,
            Change::Added => Happening::DiskCreated,
            Change::Removed => {
                let reason = lives.forget(&Key::Disk(export.id()));
                Happening::DiskRemoved { reason }
            }
            Change::Replaced { generation } => Happening::DiskReplaced { generation },
            Change::State(DiskState::Live) => Happening::DiskOpened,
            Change::State(DiskState::Closed) => Happening::DiskClosed,
            Change::State(DiskState::Failed(failed)) => {
                Happening::failed(&failed.problem.to_string())
            }
            Change::State(DiskState::Opening(_) | DiskState::Draining | DiskState::Gone) => return,
        };
        let disk = Some(name.to_owned());
        match export.is_on_demand() {
            true => events.tell_of_client(disk, happening),
            false => events.tell(disk, happening),
        }
    }));
}

/// The lives of the disks of each tenant, by namespace.
pub(super) type AllLives = Arc<RwLock<HashMap<String, Lives>>>;

/// Tells who uses the disks of a server, each tenant of its own.
pub(super) fn observe_clients(server: &Handle, hubs: &Hubs, lives: &AllLives) {
    let (hubs, lives) = (hubs.clone(), lives.clone());
    server.observe_clients(Box::new(move |client, is_connected| {
        let lives = lives.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lives) = lives.get(&*client.namespace) {
            lives.client(client.id_of_export, is_connected);
        }
        drop(lives);
        let Some(hub) = hubs.of(&client.namespace) else { return };
        let (connection, peer) = (client.id, client.peer.to_string());
        let happening = match is_connected {
            true => Happening::ClientConnected { connection, peer },
            false => {
                let used = Instant::now().saturating_duration_since(client.since);
                Happening::ClientDisconnected { connection, peer, seconds: used.as_secs() }
            }
        };
        hub.tell(Some(client.export.to_string()), happening);
    }));
}
