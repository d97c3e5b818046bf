//! Requests to the control API.

use std::fmt;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Parts;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, Chain};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Time limit for a request: longer than that of the server.
const LIMIT: Duration = Duration::from_secs(150);

/// The longest answer that is accepted, in bytes.
const MAX_ANSWER: usize = 256 << 20;

type Io = TokioIo<UnixStream>;
type Sender = SendRequest<Full<Bytes>>;

/// The directions of a connection of another protocol: what was received already comes first.
pub(crate) type Upgraded = (Chain<Cursor<Bytes>, OwnedReadHalf>, OwnedWriteHalf);

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

/// A server.
pub(crate) struct Server {
    socket: PathBuf,
}

impl Server {
    /// Returns the server at an address.
    pub(crate) fn new(address: Option<&str>) -> anyhow::Result<Self> {
        let Some(address) = address else {
            bail!(
                "which server? Give --host unix:PATH, or set MEMNBD_HOST; it is the address that \
                 memnbd-host got with --control"
            );
        };
        match address.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self { socket: path.into() }),
            _ => bail!("{address:?} is not the address of a server; it is written unix:PATH"),
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
        let (mut sender, connection) = self.connect().await?;
        // It ends with the answer.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "memnbd");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        received(response).await
    }

    async fn connect(&self) -> anyhow::Result<(Sender, Connection<Io, Full<Bytes>>)> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.with_context(|| format!("connect to {}", self.shown()))?;
        Ok(hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?)
    }

    /// Sends a request to change the protocol of the connection. Returns both directions of that.
    pub(crate) async fn upgrade(&self, path: &str, protocol: &str) -> anyhow::Result<Upgraded> {
        let upgraded = tokio::time::timeout(LIMIT, self.try_upgrade(path, protocol)).await;
        upgraded.context("the server did not answer in time")?
    }

    async fn try_upgrade(&self, path: &str, protocol: &str) -> anyhow::Result<Upgraded> {
        let (mut sender, connection) = self.connect().await?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(path).header(HOST, "memnbd");
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
        let (reader, writer) = io.into_inner().into_split();
        Ok((Cursor::new(read_buf).chain(reader), writer))
    }

    /// Returns the path of the socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.socket.display()
    }
}

async fn received(
    response: Response<hyper::body::Incoming>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?;
    Ok((status, body.to_bytes()))
}
