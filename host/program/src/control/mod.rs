//! The control API: HTTP with JSON, on a Unix domain socket that only the user who serves can connect to, and
//! over TCP with TLS, for those who have tokens.
//!
//! Those who use it create, change and remove disks, but name grants ([`super::grants`]) and no paths.
//! Everything that they can make the server keep is bounded here, and a request that waits holds nothing
//! that NBD clients need.
//!
//! - `api`: the API of a tenant.
//! - `bitmaps`: dirty bitmaps for NBD clients.
//! - `catalog`: what disks are made of, and snapshots.
//! - `changes`: what a configuration asks for.
//! - `diff`: what differs between snapshots.
//! - `discard`: dropping devices, which takes long.
//! - `disks`: disks, their commands and their clients.
//! - `door`: who uses it, and what they may do.
//! - `events`: events, sent as they happen.
//! - `exports`: further names of disks, and snapshots that are served.
//! - `filters`: other filters for disks in use.
//! - `heap`: giving memory back to the system.
//! - `heat`: where a disk is read and written.
//! - `idle`: closing disks that nobody uses.
//! - `lives`: removing disks whose time is over, or whose last client has gone.
//! - `map`: how much of each part of a disk is stored.
//! - `metrics`: numbers for Prometheus.
//! - `model`: the resources, as JSON.
//! - `object`: the bodies of requests.
//! - `offering`: making the exports those of a configuration.
//! - `offers`: what exports serve.
//! - `origin`: what pages of other sites cause is refused.
//! - `page`: the page for browsers.
//! - `path`: what paths name.
//! - `populate`: making the disks those of a configuration.
//! - `problem`: errors, by RFC 9457.
//! - `reload`: the configuration file, read again.
//! - `remake`: beginning disks in use anew, also made of something else.
//! - `snapshots`: snapshots, and resets of disks to them.
//! - `tenants`: parties that do not know of each other, and tokens.
//! - `ttl`: how long a disk or a snapshot stays.
//! - `usage`: what is asked of the disks.
//! - `upgrade`: connections that become NBD connections.

mod api;
mod bitmaps;
mod catalog;
mod changes;
mod diff;
mod discard;
mod disks;
mod door;
mod events;
mod exports;
mod filters;
mod heap;
mod heat;
mod idle;
mod lives;
mod map;
mod metrics;
mod model;
mod object;
mod offering;
mod offers;
mod origin;
mod page;
mod path;
mod populate;
mod problem;
mod reload;
mod remake;
mod snapshots;
mod tenants;
mod ttl;
mod upgrade;
mod usage;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use memnbd::server::Handle;
use memnbd::tls::{Acceptor, TlsStream};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::Layer as _;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;

use super::Failure;
use super::chain::Chain;
use super::events::{Hub, Hubs};
use super::leftovers::Leftovers;
use super::making::{Layers, Maker};
use super::privileges::Identity;
use super::unix;
use api::{Api, Room};
pub(super) use api::{MAX_DISKS, MAX_WEIGHT, check_name};
use door::Seat;
pub(super) use model::DiskSpec;
pub(super) use offers::{ExportSpec, offer_at_start};
use problem::Problem;
pub(super) use reload::FromFile;
use tenants::Tenants;
pub(super) use tenants::{
    Cpus, Entries, FIRST, Founded, MAX_TENANTS, Role, TenantSpec, Token, check_tenant, check_token,
};
use upgrade::Client;

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

/// Sockets on which the API will be served.
#[derive(Default)]
pub(super) struct ControlSockets {
    unix: Vec<(UnixListener, Arc<memnbd::server::OwnedFile>)>,
    tcp: Vec<TcpListener>,
}

impl ControlSockets {
    /// Returns true if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.unix.is_empty() && self.tcp.is_empty()
    }

    /// Returns the addresses with TCP.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok())
    }
}

/// Returns true if an address of `--control` is that of a Unix domain socket.
pub(super) fn is_unix(address: &OsStr) -> bool {
    address.as_bytes().starts_with(b"unix:")
}

/// Binds the sockets that `--control` names.
pub(super) async fn bind(
    addresses: &[OsString],
    identity: &Identity,
    leftovers: &Leftovers,
) -> Result<ControlSockets, Failure> {
    let mut sockets = ControlSockets::default();
    for address in addresses {
        let text = address.to_string_lossy();
        if let Some(path) =
            address.as_bytes().strip_prefix(b"unix:").filter(|path| !path.is_empty())
        {
            let path = Path::new(OsStr::from_bytes(path));
            let bound = unix::bind_with(path, identity, leftovers, || listen(path));
            let bound =
                bound.with_context(|| format!("listen for the control API on {}", path.display()));
            sockets.unix.push(bound?);
            continue;
        }
        let is_address =
            |text: &str| text.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty());
        if is_unix(address) || !is_address(&text) {
            return Err(Failure::Usage(format!(
                "--control {text}: it is written unix:PATH or HOST:PORT"
            )));
        }
        let bound = TcpListener::bind(&*text).await;
        sockets.tcp.push(bound.with_context(|| format!("listen for the control API on {text}"))?);
    }
    Ok(sockets)
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
    hubs: Hubs,
    /// The tenants, with their disks.
    _tenants: Option<Arc<Tenants>>,
}

impl Serving {
    /// Ends the streams of events, and gives requests under way a moment.
    pub(super) async fn end(mut self) {
        self.hubs.end();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_LIMIT, ended).await;
    }
}

/// What is served.
pub(super) struct Served {
    pub(super) server: Handle,
    pub(super) maker: Maker,
    /// What the disks of the command line are made of.
    pub(super) disks: HashMap<String, (Layers, Arc<Chain>)>,
    /// The configuration file, and what says that it is to be read again.
    pub(super) reload: Option<(FromFile, Arc<Notify>)>,
    pub(super) tenants: Vec<Founded>,
    pub(super) entries: Arc<Entries>,
    pub(super) hubs: Hubs,
    /// For TCP.
    pub(super) tls: Option<Arc<Acceptor>>,
    pub(super) leftovers: Leftovers,
}

/// Serves the API, if there are sockets, and reads the configuration file again when it is notified.
///
/// # Errors
///
/// Returns an error if the tenants cannot be served.
pub(super) fn serve(sockets: ControlSockets, served: Served) -> Result<Serving, Failure> {
    let Served { server, maker, disks, reload, tenants: founded, .. } = served;
    let Served { entries, hubs, tls, leftovers, .. } = served;
    let mut tasks = JoinSet::new();
    if sockets.is_empty() && reload.is_none() {
        return Ok(Serving { tasks, hubs, _tenants: None });
    }
    let first = Api::new(server, maker, disks, hubs.first().clone(), Room::WHOLE);
    let first = first.among(hubs.clone());
    let tenants = Arc::new(Tenants::new(first, hubs.clone(), entries.clone()));
    for founded in founded {
        tenants.open(founded).map_err(|problem| anyhow::anyhow!("{}", problem.detail()))?;
    }
    if let Some((mut from_file, hangup)) = reload {
        from_file.adopt(tenants.first());
        let follow = from_file.follow(tenants.clone(), hangup, leftovers);
        spawn_until_end(&mut tasks, hubs.first(), follow);
    }
    spawn_until_end(&mut tasks, hubs.first(), heap::give_back());
    for (listener, file) in sockets.unix {
        let router = front_door(&tenants, origin::Names::Local);
        let accepted = Accepted { router, events: hubs.first().clone() };
        tasks.spawn(accept(Local { listener, _file: file }, accepted));
    }
    for listener in sockets.tcp {
        let tls = tls.clone().context("TLS is off, which the control API over TCP needs")?;
        // Whoever it is has a token.
        let router = front_door(&tenants, origin::Names::Any);
        let accepted = Accepted { router, events: hubs.first().clone() };
        tasks.spawn(accept(Remote { listener, tls }, accepted));
    }
    Ok(Serving { tasks, hubs, _tenants: Some(tenants) })
}

/// Spawns a task that ends with the streams of events.
fn spawn_until_end(
    tasks: &mut JoinSet<()>,
    events: &Hub,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let events = events.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = task => {}
            () = events.ended() => {}
        }
    });
}

/// Returns all that the API has, for those who may use it and call the server by one of these names.
fn front_door(tenants: &Arc<Tenants>, names: origin::Names) -> Router {
    tenants::router(tenants.clone())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(tenants.entries.clone(), door::admit))
        // It has no secrets, and asks for a token by itself.
        .merge(page::router())
        .layer(from_fn(move |request: Request, next: Next| origin::check(names, request, next)))
        .layer(CatchPanicLayer::custom(problem::panicked))
}

/// Returns the routes of a tenant.
fn router_of(api: Arc<Api>) -> Router {
    limited(api.clone().router()).merge(events::router(api))
}

/// How accepted clients are served.
#[derive(Clone)]
struct Accepted {
    router: Router,
    events: Hub,
}

/// A socket that clients connect to.
trait Accept: Send + Sync + 'static {
    /// What comes from a client, and goes to it.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// Waits for a client. What it has to do before its first request is left to the future.
    fn accept(
        &self,
    ) -> impl Future<Output = std::io::Result<(Arriving<Self::Stream>, Client)>> + Send;
}

/// A client that is not ready yet; `None` if it never will be.
type Arriving<S> = Pin<Box<dyn Future<Output = Option<S>> + Send>>;

/// A Unix domain socket.
struct Local {
    listener: UnixListener,
    _file: Arc<memnbd::server::OwnedFile>,
}

impl Accept for Local {
    type Stream = UnixStream;

    async fn accept(&self) -> std::io::Result<(Arriving<UnixStream>, Client)> {
        let (stream, _) = self.listener.accept().await?;
        let client = Client::Unix(stream.peer_cred().ok());
        Ok((Box::pin(std::future::ready(Some(stream))), client))
    }
}

/// A TCP socket, on which TLS is spoken.
struct Remote {
    listener: TcpListener,
    tls: Arc<Acceptor>,
}

impl Accept for Remote {
    type Stream = TlsStream<TcpStream>;

    async fn accept(&self) -> std::io::Result<(Arriving<Self::Stream>, Client)> {
        let (stream, address) = self.listener.accept().await?;
        let tls = self.tls.clone();
        let arriving = Box::pin(async move {
            let accepted = tokio::time::timeout(HEADER_LIMIT, tls.accept(stream)).await.ok()?;
            let failed =
                |error: &_| tracing::debug!("client {address} of the control API: {error}");
            accepted.inspect_err(failed).ok()
        });
        Ok((arriving, Client::Tcp(address)))
    }
}

/// Accepts clients until there are no more events, and then waits until those it has are gone. They end
/// with this future at the latest.
async fn accept(socket: impl Accept, accepted: Accepted) {
    let Accepted { router, events } = accepted;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut clients = JoinSet::new();
    loop {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = events.ended() => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("accept a client of the control API: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while clients.try_join_next().is_some() {}
        let known = (Extension(client), Extension(Seat::default()));
        let service = TowerToHyperService::new(known.layer(router.clone()));
        let events = events.clone();
        clients.spawn(async move {
            let _place = place;
            let Some(stream) = stream.await else { return };
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(SEND_LIMIT));
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
    drop(socket);
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
