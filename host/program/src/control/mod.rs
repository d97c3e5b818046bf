//! The control API: HTTP with JSON on a Unix domain socket that only the user who serves can connect to.
//!
//! Who can connect may create, change and remove disks, but names grants ([`super::grants`]) and no
//! paths. Everything that they can make the server keep is bounded here, and a request that waits holds
//! nothing that NBD clients need.
//!
//! - `api`: the routes and what they do.
//! - `catalog`: what disks are made of, and snapshots.
//! - `changes`: what a configuration asks for.
//! - `events`: events, sent as they happen.
//! - `filters`: other filters for disks in use.
//! - `idle`: closing disks that nobody uses.
//! - `model`: the resources, as JSON.
//! - `object`: the bodies of requests.
//! - `path`: what paths name.
//! - `populate`: making the disks those of a configuration.
//! - `problem`: errors, by RFC 9457.
//! - `reload`: the configuration file, read again.
//! - `snapshots`: snapshots, and resets of disks to them.
//! - `usage`: what is asked of the disks.
//! - `upgrade`: connections that become NBD connections.

mod api;
mod catalog;
mod changes;
mod events;
mod filters;
mod idle;
mod model;
mod object;
mod path;
mod populate;
mod problem;
mod reload;
mod snapshots;
mod upgrade;
mod usage;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use memnbd::server::Handle;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::Layer as _;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;

use super::Failure;
use super::chain::Chain;
use super::events::Hub;
use super::leftovers::Leftovers;
use super::making::{Layers, Maker};
use super::privileges::Identity;
use super::unix;
use api::Api;
pub(super) use api::{MAX_DISKS, MAX_WEIGHT, check_name};
pub(super) use model::DiskSpec;
use problem::Problem;
pub(super) use reload::FromFile;

/// The longest body of a request, in bytes.
const MAX_BODY: usize = 1 << 20;

/// How many requests are handled at a time.
const MAX_REQUESTS: usize = 64;

/// Time limit for a request.
const LIMIT: Duration = Duration::from_secs(120);

/// The most clients at a time; others wait to be accepted.
const MAX_CONNECTIONS: usize = 512;

/// Time limit for the head of a request, from the end of the one before it.
const HEADER_LIMIT: Duration = Duration::from_secs(30);

/// How long a client may take nothing of what is sent to it.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// How long what is under way may take to end when the server stops.
const END_LIMIT: Duration = Duration::from_millis(200);

/// The pause after accepting fails for lack of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket on which the API will be served.
pub(super) struct ControlSocket {
    listener: UnixListener,
    _file: Arc<memnbd::server::OwnedFile>,
}

/// Binds the socket that `--control` names.
pub(super) fn bind(
    address: &OsStr,
    identity: &Identity,
    leftovers: &Leftovers,
) -> Result<ControlSocket, Failure> {
    let path = address.as_bytes().strip_prefix(b"unix:").filter(|path| !path.is_empty());
    let path = path.map(|path| Path::new(OsStr::from_bytes(path))).ok_or_else(|| {
        let text = address.to_string_lossy();
        Failure::Usage(format!("--control {text}: it is written unix:PATH"))
    })?;
    let bound = unix::bind_with(path, identity, leftovers, || listen(path));
    let (listener, file) =
        bound.with_context(|| format!("listen for the control API on {}", path.display()))?;
    Ok(ControlSocket { listener, _file: file })
}

/// Listens on a socket that nobody else can connect to, not even before this returns.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets this mode when it is created.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 128)?;
    UnixListener::from_std(socket.into())
}

/// The API, which is served until this is dropped.
pub(super) struct Serving {
    tasks: JoinSet<()>,
    events: Hub,
}

impl Serving {
    /// Ends the streams of events, and gives requests under way a moment.
    pub(super) async fn end(mut self) {
        self.events.end();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_LIMIT, ended).await;
    }
}

/// Serves the API, if there is a socket, and reads the configuration file again when it is notified.
pub(super) fn serve(
    socket: Option<ControlSocket>,
    server: Handle,
    maker: Maker,
    disks: HashMap<String, (Layers, Arc<Chain>)>,
    reload: Option<(FromFile, Arc<Notify>)>,
    events: Hub,
) -> Serving {
    let mut tasks = JoinSet::new();
    if socket.is_none() && reload.is_none() {
        return Serving { tasks, events };
    }
    let api = Arc::new(Api::new(server, maker, disks, events.clone()));
    if let Some((mut from_file, hangup)) = reload {
        from_file.adopt(&api);
        let (follow, events) = (from_file.follow(api.clone(), hangup), events.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = follow => {}
                () = events.ended() => {}
            }
        });
    }
    if let Some(socket) = socket {
        let (closing, ended) = (idle::close_idle(api.clone()), events.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = closing => {}
                () = ended.ended() => {}
            }
        });
        events::observe(&api.server, &events);
        let router = limited(api.clone().router()).merge(events::router(api));
        tasks.spawn(accept(socket, router, events.clone()));
    }
    Serving { tasks, events }
}

/// Accepts clients until there are no more events, and then waits until those it has are gone. They end
/// with this future at the latest.
async fn accept(socket: ControlSocket, router: Router, events: Hub) {
    let ControlSocket { listener, _file } = socket;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut clients = JoinSet::new();
    loop {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = events.ended() => break,
        };
        let mut stream = match accepted {
            Ok((stream, _)) => TimeoutStream::new(stream),
            Err(error) => {
                tracing::debug!("accept a client of the control API: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while clients.try_join_next().is_some() {}
        let client = Extension(upgrade::Client(stream.get_ref().peer_cred().ok()));
        let service = TowerToHyperService::new(client.layer(router.clone()));
        stream.set_write_timeout(Some(SEND_LIMIT));
        let events = events.clone();
        clients.spawn(async move {
            let _place = place;
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
            let serving =
                http.serve_connection(TokioIo::new(Box::pin(stream)), service).with_upgrades();
            let mut serving = std::pin::pin!(serving);
            let served = tokio::select! {
                served = &mut serving => served,
                () = events.ended() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(error) = served {
                tracing::debug!("a client of the control API: {error}");
            }
        });
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

/// Bounds what requests take.
fn limited(router: Router) -> Router {
    router
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(in_time))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(GlobalConcurrencyLimitLayer::new(MAX_REQUESTS))
}

/// Ends a request that takes too long.
async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(LIMIT, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("the request was not handled within {LIMIT:?}; it may be later");
        Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).into_response()
    })
}
