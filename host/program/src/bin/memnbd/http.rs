//! Requests to the control API.

use std::fmt;
use std::io::Cursor;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Parts;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use memnbd::tls::Connector;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Chain, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};

use crate::args::Remote;

/// Time limit for a request: longer than that of the server.
const LIMIT: Duration = Duration::from_secs(150);

/// The longest answer that is accepted, in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// A connection to a server.
pub(crate) trait Connected: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connected for S {}

pub(crate) type Io = TokioIo<Box<dyn Connected>>;
type Sender = SendRequest<Full<Bytes>>;

/// The directions of a connection of another protocol: what was received already comes first.
pub(crate) type Upgraded =
    (Chain<Cursor<Bytes>, ReadHalf<Box<dyn Connected>>>, WriteHalf<Box<dyn Connected>>);

/// A request that the server refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The status of the response.
    pub(crate) status: u16,
    /// What was wrong.
    detail: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => f.write_str(detail),
            None => write!(f, "the server answered {}", self.status),
        }
    }
}

impl std::error::Error for Refused {}

/// A server, and who uses it.
pub(crate) struct Server {
    address: Address,
    /// The tenant whose disks and snapshots paths are about.
    tenant: String,
    token: Option<String>,
}

/// Where a server is.
enum Address {
    Unix(PathBuf),
    Https { host: String, port: u16, connector: Connector },
}

impl Server {
    /// Returns the server that the command line and the environment name.
    pub(crate) fn new(remote: &Remote) -> anyhow::Result<Self> {
        let Some(address) = &remote.host else {
            bail!(
                "which server? Give --host unix:PATH, or set MEMNBD_HOST; it is the address that \
                 memnbd-host got with --control"
            );
        };
        let address = match (address.strip_prefix("unix:"), address.strip_prefix("https://")) {
            (Some(path), _) if !path.is_empty() => Address::Unix(path.into()),
            (_, Some(authority)) => remote_address(authority.trim_end_matches('/'), remote)?,
            _ => bail!(
                "{address:?} is not the address of a server; it is written unix:PATH or \
                 https://HOST:PORT"
            ),
        };
        let token = match &remote.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                Some(text.with_context(|| format!("read the token {}", path.display()))?)
            }
            None => remote.token.clone(),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if matches!(address, Address::Https { .. }) && token.is_none() {
            bail!(
                "a server at https:// wants a token: set MEMNBD_TOKEN, or give --token-file FILE"
            );
        }
        Ok(Self { address, tenant: remote.tenant.clone(), token })
    }

    /// Returns the whole of a path, which begins at the tenant unless it begins with a slash.
    fn whole(&self, path: &str) -> String {
        match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/v1/tenants/{}/{path}", encoded(&self.tenant)),
        }
    }

    /// Begins a request with what all have.
    pub(crate) fn begin(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let host = match &self.address {
            Address::Unix(_) => "memnbd".to_owned(),
            Address::Https { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Https { host, port, .. } => format!("{host}:{port}"),
        };
        let request = Request::builder().method(method).uri(self.whole(path)).header(HOST, host);
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.request(Method::GET, path, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.request(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.request(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.request(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.request(Method::DELETE, path, None).await
    }

    /// Sends a request, and returns the answer, or its error.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let exchanged = tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await;
        let (status, body) = exchanged.context("the server did not answer in time")??;
        self.parse(status, &body)
    }

    /// Parses an answer, which may be an error.
    fn parse(&self, status: StatusCode, body: &[u8]) -> anyhow::Result<Value> {
        if body.is_empty() && status.is_success() {
            return Ok(Value::Null);
        }
        let value: Value = serde_json::from_slice(body)
            .with_context(|| format!("the answer is not JSON; is {} memnbd's?", self.shown()))?;
        if status.is_success() {
            return Ok(value);
        }
        let status = status.as_u16();
        let detail = value["detail"].as_str().map(Into::into);
        Err(Refused { status, detail }.into())
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (mut sender, connection): (Sender, _) = self.connect().await?;
        // It ends with the answer.
        tokio::spawn(connection);
        let mut request = self.begin(method, path);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        received(response).await
    }

    /// Connects to the server.
    pub(crate) async fn connect<B>(&self) -> anyhow::Result<(SendRequest<B>, Connection<Io, B>)>
    where
        B: hyper::body::Body + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connecting = || format!("connect to {}", self.shown());
        let stream: Box<dyn Connected> = match &self.address {
            Address::Unix(path) => {
                Box::new(UnixStream::connect(path).await.with_context(connecting)?)
            }
            Address::Https { host, port, connector } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.with_context(connecting)?;
                stream.set_nodelay(true).with_context(connecting)?;
                Box::new(connector.connect(host, stream).await.with_context(connecting)?)
            }
        };
        Ok(hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?)
    }

    /// Sends a request to change the protocol of the connection. Returns both directions of that.
    pub(crate) async fn upgrade(&self, path: &str, protocol: &str) -> anyhow::Result<Upgraded> {
        let upgraded = tokio::time::timeout(LIMIT, self.try_upgrade(path, protocol)).await;
        upgraded.context("the server did not answer in time")?
    }

    async fn try_upgrade(&self, path: &str, protocol: &str) -> anyhow::Result<Upgraded> {
        let (mut sender, connection): (Sender, _) = self.connect().await?;
        tokio::spawn(connection.with_upgrades());
        let request = self.begin(Method::GET, path);
        let request = request.header(CONNECTION, "Upgrade").header(UPGRADE, protocol);
        let response = sender.send_request(request.body(Full::default())?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (status, body) = received(response).await?;
            self.parse(status, &body)?;
            bail!("the server answered {status} instead of changing to the protocol {protocol}");
        }
        let upgraded = hyper::upgrade::on(response).await?;
        // It is the stream from above.
        let parts = upgraded.downcast::<Io>().map_err(|_| anyhow::anyhow!("the stream is gone"))?;
        let Parts { io, read_buf, .. } = parts;
        let (reader, writer) = tokio::io::split(io.into_inner());
        Ok((Cursor::new(read_buf).chain(reader), writer))
    }

    /// Returns the address, for people.
    pub(crate) fn shown(&self) -> String {
        match &self.address {
            Address::Unix(path) => path.display().to_string(),
            Address::Https { host, port, .. } if host.contains(':') => {
                format!("https://[{host}]:{port}")
            }
            Address::Https { host, port, .. } => format!("https://{host}:{port}"),
        }
    }
}

/// Parses HOST:PORT.
fn remote_address(authority: &str, remote: &Remote) -> anyhow::Result<Address> {
    let parsed = authority.rsplit_once(':').and_then(|(host, port)| {
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']')?,
            None => host,
        };
        Some((host, port.parse().ok()?)).filter(|(host, _): &(&str, u16)| !host.is_empty())
    });
    let Some((host, port)) = parsed else {
        bail!("https://{authority}: it is written https://HOST:PORT");
    };
    let connector = Connector::new(remote.cacert.as_deref())?;
    Ok(Address::Https { host: host.to_owned(), port, connector })
}

/// Returns a text as a part of a path.
pub(crate) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

async fn received(
    response: Response<hyper::body::Incoming>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?;
    Ok((status, body.to_bytes()))
}
