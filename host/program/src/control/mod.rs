//! The control API: HTTP with JSON on a Unix domain socket that only the user who serves can connect to.
//!
//! Who can connect may create, change and remove disks, but names grants ([`super::grants`]) and no
//! paths. Everything that they can make the server keep is bounded here, and a request that waits holds
//! nothing that NBD clients need.
//!
//! - `api`: the routes and what they do.
//! - `model`: the resources, as JSON.
//! - `object`: the bodies of requests.
//! - `problem`: errors, by RFC 9457.

mod api;
mod model;
mod object;
mod problem;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use memnbd::server::Handle;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio::task::{AbortHandle, JoinHandle};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use super::Failure;
use super::leftovers::Leftovers;
use super::making::{Layers, Maker};
use super::privileges::Identity;
use super::unix;
use api::Api;

/// The longest body of a request, in bytes.
const MAX_BODY: usize = 1 << 20;

/// How many requests are handled at a time.
const MAX_REQUESTS: usize = 64;

/// Time limit for a request.
const LIMIT: Duration = Duration::from_secs(120);

/// A socket on which the API will be served.
pub(super) struct ControlSocket {
    listener: UnixListener,
    _file: Arc<memnbd::server::OwnedFile>,
}

/// Ends the API when it is dropped.
pub(super) struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
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

/// Serves the API until the returned value is dropped.
pub(super) fn serve(
    socket: ControlSocket,
    server: Handle,
    maker: Maker,
    layers: HashMap<String, Layers>,
) -> Serving {
    let router = limited(Api::new(server, maker, layers).router());
    let task: JoinHandle<()> = tokio::spawn(async move {
        let ControlSocket { listener, _file } = socket;
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the control API has ended: {error}");
        }
    });
    Serving(task.abort_handle())
}

/// Bounds what requests take.
fn limited(router: Router) -> Router {
    router
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(axum::http::StatusCode::REQUEST_TIMEOUT, LIMIT))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(GlobalConcurrencyLimitLayer::new(MAX_REQUESTS))
}
