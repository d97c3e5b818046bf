//! The command `logs`: prints what happens in the server.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, HeaderName};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use crate::http::Server;
use crate::sse::Parser;
use crate::table::plain;
use crate::{items, text};

/// Where the events are.
const EVENTS: &str = "events";

/// Time limit until the server answers.
const LIMIT: Duration = Duration::from_secs(30);

/// The longest that a server which is alive sends nothing, four times over.
const SILENCE: Duration = Duration::from_secs(60);

/// The pauses between two attempts to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest answer that says why there are no events, in bytes.
const MAX_PROBLEM: usize = 1 << 20;

/// Prints the events of a disk, or of all. Returns when those are printed that the server still
/// has, or, with `follow`, when nobody reads what is printed any more.
pub(crate) async fn logs(
    server: &Server,
    disk: Option<&str>,
    follow: bool,
    json: bool,
) -> anyhow::Result<()> {
    let mut printer = Printer { disk: disk.map(str::to_owned), follow, json, last: None };
    let mut stream = printer.open(server).await.map_err(NotOpened::into_error)?;
    loop {
        let end = printer.print(stream).await?;
        match end {
            End::OutputClosed => return Ok(()),
            End::Finished if !follow => return Ok(()),
            End::Broken(error) if !follow => return Err(error),
            End::Finished | End::Broken(_) => {}
        }
        // If stderr is closed, nobody can be told.
        let _ = writeln!(io::stderr(), "memnbd: the server is gone; waiting for it");
        let mut pause = FIRST_PAUSE;
        stream = loop {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            match printer.open(server).await {
                Ok(stream) => break stream,
                Err(NotOpened::Refused(error)) => return Err(error),
                Err(NotOpened::ForNow(_)) => {}
            }
        };
    }
}

/// Why there is no stream.
enum NotOpened {
    /// The server would answer the same again.
    Refused(anyhow::Error),
    /// Another attempt may succeed.
    ForNow(anyhow::Error),
}

impl NotOpened {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Refused(error) | Self::ForNow(error) => error,
        }
    }
}

/// How a stream ended.
enum End {
    Finished,
    /// It ended too early, for this reason.
    Broken(anyhow::Error),
    /// Nobody reads the output any more.
    OutputClosed,
}

struct Printer {
    disk: Option<String>,
    follow: bool,
    json: bool,
    /// The id of the last event that was printed.
    last: Option<String>,
}

impl Printer {
    /// Opens a stream of the events after the last one.
    async fn open(&self, server: &Server) -> Result<Incoming, NotOpened> {
        let opened = timeout(LIMIT, self.exchange(server)).await;
        let opened = opened.unwrap_or_else(|_| Err(anyhow!("the server did not answer in time")));
        let (status, body) = opened.map_err(NotOpened::ForNow)?;
        if status.is_success() {
            return Ok(body);
        }
        let body = timeout(LIMIT, Limited::new(body, MAX_PROBLEM).collect()).await;
        let problem = body.ok().and_then(Result::ok).map(|body| body.to_bytes());
        let problem: Option<Value> =
            problem.and_then(|problem| serde_json::from_slice(&problem).ok());
        let error = match problem.as_ref().and_then(|problem| problem["detail"].as_str()) {
            Some(detail) => anyhow!("{}", plain(detail)),
            None => anyhow!("the server answered {status}"),
        };
        let for_now = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        Err(if for_now { NotOpened::ForNow(error) } else { NotOpened::Refused(error) })
    }

    async fn exchange(&self, server: &Server) -> anyhow::Result<(StatusCode, Incoming)> {
        let (mut sender, connection) = server.connect().await?;
        // It ends with the stream.
        tokio::spawn(connection);
        let mut path = format!("{EVENTS}?follow={}", self.follow);
        if let Some(disk) = &self.disk {
            let set = percent_encoding::NON_ALPHANUMERIC;
            path += &format!("&disk={}", percent_encoding::utf8_percent_encode(disk, set));
        }
        let mut request = server.begin(Method::GET, &path).header(ACCEPT, "text/event-stream");
        if let Some(last) = &self.last {
            request = request.header(HeaderName::from_static("last-event-id"), last);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await;
        let response = response.context("ask the server for events")?;
        Ok((response.status(), response.into_body()))
    }

    /// Prints the events of a stream until its end.
    async fn print(&mut self, mut body: Incoming) -> anyhow::Result<End> {
        let mut parser = Parser::default();
        loop {
            let frame = match timeout(SILENCE, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Ok(End::Broken(error.into())),
                Ok(None) => return Ok(End::Finished),
                Err(_) => return Ok(End::Broken(anyhow!("the server sends nothing any more"))),
            };
            let Some(piece) = frame.data_ref() else { continue };
            let Ok(events) = parser.parse(piece) else { bail!("the server sends too long events") };
            let mut lines = String::new();
            for event in events {
                let value = serde_json::from_str(&event.data).context("an event is not JSON")?;
                lines += &match self.json {
                    true => with_id(value, &event.id).to_string(),
                    false => line(&value),
                };
                lines.push('\n');
                self.last = Some(event.id).filter(|id| !id.is_empty()).or(self.last.take());
            }
            let mut stdout = io::stdout();
            match stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(End::OutputClosed);
                }
                Err(error) => return Err(error).context("write to stdout"),
            }
        }
    }
}

fn with_id(mut event: Value, id: &str) -> Value {
    if let Value::Object(fields) = &mut event {
        fields.insert("id".into(), id.into());
    }
    event
}

/// Returns an event as a line for people.
fn line(event: &Value) -> String {
    let of = |key: &str| plain(&text(&event[key]));
    let what = match event["event"].as_str().unwrap_or_default() {
        "disk-created" => "created".into(),
        "disk-removed" => format!("removed{}", why(event)),
        "disk-relabelled" => "labels, ttl or ephemeral changed".into(),
        "disk-updated" => "given other filters".into(),
        "disk-reset" => format!("reset to the snapshot {}", of("snapshot")),
        "snapshot-taken" => {
            format!("snapshot {} taken, held for {} us", of("snapshot"), of("held_us"))
        }
        "snapshot-deleted" => format!("snapshot {} deleted{}", of("snapshot"), why(event)),
        "disk-replaced" => format!("replaced (generation {})", of("generation")),
        "export-created" => format!("export {} created", of("export")),
        "export-removed" => format!("export {} removed", of("export")),
        "disk-opened" => "opened".into(),
        "disk-closed" => "closed".into(),
        "disk-failed" => format!("failed: {}", of("reason")),
        "command" => {
            let parameters = items(&event["parameters"]).map(|one| plain(&text(one)));
            let words: Vec<String> = [of("command")].into_iter().chain(parameters).collect();
            format!("{} carried out: {}", of("component"), words.join(" "))
        }
        "client-connected" => format!("client {} connected: {}", of("connection"), of("peer")),
        "client-disconnected" => {
            format!("client {} gone after {} s: {}", of("connection"), of("seconds"), of("peer"))
        }
        "quota-near" => {
            let quota = match of("quota") {
                quota if quota == "cpus" => "thousandths of cpus".into(),
                quota => quota,
            };
            format!("near a quota: {} of {}, {quota}", of("used"), of("most"))
        }
        "log" => format!("{}: {}", of("level").to_uppercase(), of("message")),
        "lost" if event["restarted"] == true => {
            "(the server was started anew, and its events begin anew; some may be missing)".into()
        }
        "lost" => format!("({} events of all disks are missing here)", of("events")),
        _ => plain(&event.to_string()),
    };
    format!("{} {} {what}", of("time"), of("disk"))
}

/// Returns why something was removed that nobody asked to remove.
fn why(event: &Value) -> &'static str {
    match event["reason"].as_str() {
        Some("expired") => ": its ttl is over",
        Some("unused") => ": its last client has gone",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_tell_what_happened_and_do_not_move_the_cursor() {
        for (event, expected) in [
            (json!({"time": "t", "disk": "a\u{1b}", "event": "disk-created"}), "t a? created"),
            (
                json!({"time": "t", "disk": "a", "event": "disk-removed", "reason": "expired"}),
                "t a removed: its ttl is over",
            ),
            (
                json!({"time": "t", "disk": "a", "event": "command", "component": "error",
                    "command": "set", "parameters": ["x=1", "y=\n"]}),
                "t a error carried out: set x=1 y=?",
            ),
            (
                json!({"time": "t", "event": "log", "level": "warn", "message": "m\u{9b}"}),
                "t - WARN: m?",
            ),
            (
                json!({"time": "t", "event": "lost", "events": 7, "restarted": false}),
                "t - (7 events of all disks are missing here)",
            ),
            (
                json!({"time": "t", "event": "new", "x": "\u{1b}"}),
                "t - {\"event\":\"new\",\"time\":\"t\",\"x\":\"\\u001b\"}",
            ),
        ] {
            assert_eq!(line(&event), expected);
        }
    }
}
