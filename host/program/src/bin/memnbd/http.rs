//! Requests to the control API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Time limit for a request: longer than that of the server.
const LIMIT: Duration = Duration::from_secs(150);

/// The longest answer that is accepted, in bytes.
const MAX_ANSWER: usize = 256 << 20;

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
        if body.is_empty() && status.is_success() {
            return Ok(Value::Null);
        }
        let value: Value = serde_json::from_slice(&body)
            .with_context(|| format!("the answer is not JSON; is {} memnbd's?", self.shown()))?;
        match status.is_success() {
            true => Ok(value),
            false => match value["detail"].as_str() {
                Some(detail) => bail!("{detail}"),
                None => bail!("the server answered {status}"),
            },
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.with_context(|| format!("connect to {}", self.shown()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "memnbd");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?;
        Ok((status, body.to_bytes()))
    }

    /// Returns the path of the socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.socket.display()
    }
}
