//! Connections to the API that become NBD connections (RFC 9110, "Upgrade").
//!
//! Only the answer to the upgrade is a request of the API: afterwards the connection is one of the
//! server's, and counts as such.

use std::fmt;
use std::io::Cursor;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use memnbd::access::{Origin, Process};
use memnbd::server::{NotReserved, Reserved};
use memnbd::tls::TlsStream;
use memnbd::transport::StreamSocket;
use tokio::io::AsyncReadExt;
use tokio::net::unix::UCred;
use tokio::net::{TcpStream, UnixStream};
use tokio_io_timeout::TimeoutStream;

use super::api::Shared;
use super::path::{At, OfDisk};
use super::problem::{NotFound, Problem};

/// The protocol that connections become.
const NBD: &str = "nbd";

/// Time limit for sending the response, after which the connection is closed.
const LIMIT: Duration = Duration::from_secs(30);

/// What clients of the API are accepted as, over Unix domain sockets and TCP.
type Local = TokioIo<Pin<Box<TimeoutStream<UnixStream>>>>;
type Remote = TokioIo<Pin<Box<TimeoutStream<TlsStream<TcpStream>>>>>;

/// What is known of the client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// It connected to the Unix domain socket, which only those can who may do everything.
    Unix(Option<UCred>),
    /// It connected over TCP, with TLS.
    Tcp(SocketAddr),
    /// Nothing.
    Unknown,
}

impl Client {
    /// Returns true if nobody but the administrator can have made the connection.
    pub(super) fn is_local(self) -> bool {
        matches!(self, Self::Unix(_))
    }

    fn origin(self) -> Origin {
        match self {
            Self::Unix(process) => Origin::Unix(process.map(|process| Process {
                pid: process.pid(),
                uid: process.uid(),
                gid: process.gid(),
            })),
            Self::Tcp(address) => Origin::Ip(address.ip()),
            Self::Unknown => Origin::Unknown,
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(Some(process)) => {
                write!(f, "(control API, user {}", process.uid())?;
                match process.pid() {
                    Some(pid) => write!(f, ", process {pid})"),
                    None => f.write_str(")"),
                }
            }
            Self::Tcp(address) => write!(f, "(control API, {address})"),
            Self::Unix(None) | Self::Unknown => f.write_str("(control API)"),
        }
    }
}

/// Makes the connection an NBD connection, on which this disk alone is served. It begins with the greeting
/// of the server, right behind the response. There is no TLS on it.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/disks/{disk}/nbd",
    params(
        OfDisk,
        ("connection" = String, Header, description = "`Upgrade`", example = "Upgrade"),
        ("upgrade" = String, Header, description = "`nbd`", example = "nbd"),
    ),
    responses(
        (status = 101, description = "The connection is an NBD connection from now on",
            headers(("upgrade" = String, description = "`nbd`"))),
        (status = 403, description = "The disk is not for this client", body = Problem,
            content_type = "application/problem+json"),
        NotFound,
        (status = 426, description = "The request does not ask for an upgrade to `nbd`", body = Problem,
            content_type = "application/problem+json",
            headers(("upgrade" = String, description = "`nbd`"))),
        (status = 503, description = "The server accepts no more clients now", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn connect_nbd(
    State(api): Shared,
    At(OfDisk { disk, .. }): At<OfDisk>,
    mut request: Request,
) -> Result<axum::response::Response, Problem> {
    let export = api.disk(&disk)?;
    let upgrade = match asks_for_nbd(request.headers()) {
        true => request.extensions_mut().remove::<OnUpgrade>(),
        false => None,
    };
    let Some(upgrade) = upgrade else {
        let detail = "this is for NBD clients, which send the headers Connection: Upgrade and \
                      Upgrade: nbd over HTTP/1.1";
        let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, detail);
        return Ok((headers(), problem).into_response());
    };
    let client = request.extensions().get().copied().unwrap_or(Client::Unknown);
    let reserved = api.server.reserve(&export, client.origin()).map_err(|refused| {
        let status = match refused {
            NotReserved::Denied => StatusCode::FORBIDDEN,
            NotReserved::Full | NotReserved::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, refused.to_string())
    })?;
    tokio::spawn(serve(upgrade, reserved, client));
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(headers().map(|(name, value)| (Some(name), value)));
    Ok(response)
}

/// The headers of a response that tells which protocol there is.
fn headers() -> [(HeaderName, HeaderValue); 2] {
    [(CONNECTION, HeaderValue::from_static("upgrade")), (UPGRADE, HeaderValue::from_static(NBD))]
}

fn asks_for_nbd(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        let mut words = values.flat_map(|value| value.split(','));
        words.any(|found| found.trim().eq_ignore_ascii_case(word))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, NBD)
}

/// Serves the connection once the response was sent.
async fn serve(upgrade: OnUpgrade, reserved: Reserved, client: Client) {
    let Ok(Ok(upgraded)) = tokio::time::timeout(LIMIT, upgrade).await else { return };
    let peer = client.to_string();
    let upgraded = match upgraded.downcast::<Remote>() {
        Ok(Parts { io, read_buf, .. }) => {
            let mut io = io.into_inner();
            // The server has limits of its own.
            io.as_mut().set_write_timeout_pinned(None);
            let (reader, writer) = tokio::io::split(io);
            reserved.serve(tokio::io::join(Cursor::new(read_buf).chain(reader), writer), &peer);
            return;
        }
        Err(other) => other,
    };
    // It was accepted as one.
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<Local>() else { return };
    // The socket cannot be moved out of what limits the time of a write, which does not last.
    let socket = io.inner().get_ref().as_fd().try_clone_to_owned();
    let stream = socket.and_then(|socket| UnixStream::from_std(socket.into()));
    drop(io);
    let Ok(stream) = stream else { return };
    if read_buf.is_empty() {
        // Served as a socket that was accepted, which is faster.
        reserved.serve(StreamSocket::from(stream), &peer);
    } else {
        // The client has not waited for the greeting.
        let (reader, writer) = stream.into_split();
        let stream = tokio::io::join(Cursor::new(read_buf).chain(reader), writer);
        reserved.serve(stream, &peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_asked_for_by_two_headers() {
        let asks = |list: &[(&'static str, &'static str)]| {
            let headers = list.iter().map(|&(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            asks_for_nbd(&headers.collect())
        };
        assert!(asks(&[("connection", "Upgrade"), ("upgrade", "nbd")]));
        assert!(asks(&[("connection", "keep-alive, upgrade"), ("upgrade", "h2c, NBD")]));
        assert!(!asks(&[("upgrade", "nbd")]));
        assert!(!asks(&[("connection", "upgrade"), ("upgrade", "websocket")]));
        assert!(!asks(&[("connection", "upgrade")]));
    }
}
