//! The control API, and the program `memnbd` that uses it.

mod apply;
mod authority;
mod backup;
mod bitmaps;
mod config;
mod diff;
mod disks;
mod events;
mod exports;
mod filters;
mod heat;
mod hostile;
mod impostor;
mod limits;
mod lives;
mod map;
mod metrics;
mod origin;
mod page;
mod snapshots;
mod transfer;
mod watching;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Finished, LIMIT, Server, memnbd, run};

/// Where the disks are.
const DISKS: &str = "/v1/tenants/default/disks";

/// Where the exports are that are no disks.
const EXPORTS: &str = "/v1/tenants/default/exports";

/// Connects to an export, in a script of nbdsh.
const OPEN: &str = "
def open_disk(name):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    return c
";

/// Returns functions for scripts of nbdsh, besides [`OPEN`], that change disks under connected clients.
fn under_clients() -> String {
    let program = env!("CARGO_BIN_EXE_memnbd");
    format!(
        "
import os, subprocess, threading
def memnbd(*words):
    subprocess.run(['{program}', '--host', 'unix:control', *words], check=True)
def under_clients(connect, use, change):
    'Four clients use places of their own, each for 10 rounds at least, while something changes 5 times at least.'
    stop, errors, rounds = threading.Event(), [], [0] * 4
    def client(index):
        try:
            disks, at = connect(index), (index << 24) + 512
            while not stop.is_set():
                for length in (512, 4096, 100_000):
                    use(index, at, length, *disks)
                rounds[index] += 1
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=client, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    turns = 0
    while not errors and (min(rounds) < 10 or turns < 5):
        turns += 1
        change(turns)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
"
    )
}

/// A server with a control socket, `control`, in its directory.
pub(crate) fn controlled(arguments: &[&str]) -> Server {
    let directory = TempDir::new().unwrap();
    controlled_in(directory, arguments)
}

pub(crate) fn controlled_in(directory: TempDir, arguments: &[&str]) -> Server {
    let options = ["-U", "socket", "--control", "unix:control"];
    let mut command = memnbd(directory.path(), options);
    command.args(arguments);
    Server::spawn(directory, &mut command)
}

/// Returns the names of the disks.
fn names(server: &Server) -> Vec<String> {
    let listed = http(server, "GET", DISKS, None).json();
    let name = |disk: &Value| disk["name"].as_str().unwrap().to_owned();
    listed.as_array().unwrap().iter().map(name).collect()
}

/// Runs `memnbd` against a server.
pub(crate) fn control(server: &Server, arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memnbd"));
    command.env("MEMNBD_HOST", format!("unix:{}", server.path("control").display()));
    command.args(arguments);
    run(&mut command)
}

/// The answer to an HTTP request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&self.body));
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The detail of a problem, which has to be one by RFC 9457.
    pub(crate) fn problem(&self) -> String {
        let kind = "content-type: application/problem+json";
        assert!(self.head.to_lowercase().contains(kind), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["detail"].as_str().expect("there is a detail").to_owned()
    }
}

/// Sends bytes to a control socket, and reads all that comes.
fn exchange(socket: &Path, request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    // It may answer before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

pub(crate) fn http(server: &Server, method: &str, path: &str, body: Option<&str>) -> Answer {
    http_with(server, "", method, path, body)
}

/// Sends a request with the token that has this secret.
pub(crate) fn http_as(
    server: &Server,
    secret: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Answer {
    http_with(server, &format!("authorization: Bearer {secret}\r\n"), method, path, body)
}

fn http_with(
    server: &Server,
    headers: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Answer {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}");
    if let Some(body) = body {
        request += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    request += &format!("\r\n{}", body.unwrap_or_default());
    let answer = exchange(&server.path("control"), request.as_bytes());
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("{method} {path}: {:?}", String::from_utf8_lossy(&answer));
    });
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    let mut body = answer[end + 4..].to_vec();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = unchunked(&body);
    }
    Answer { status, head, body }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    }
    body
}

/// Creates a disk, or tries to.
fn put(server: &Server, disk: &str, spec: &Value) -> Answer {
    http(server, "PUT", &format!("{DISKS}/{disk}"), Some(&spec.to_string()))
}
