//! Events, as they come over the API.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;
use serde_json::{Value, json};

use super::{DISKS, control, controlled, http, put};
use crate::support::{LIMIT, nbdsh, require, wait_until};

const EVENTS: &str = "/v1/tenants/default/events";

/// A stream of events.
struct Stream {
    status: u16,
    reader: BufReader<UnixStream>,
    /// What came of an event that has not ended.
    text: String,
}

impl Stream {
    fn open(socket: &Path, query: &str, last: Option<&str>) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let last = last.map_or_else(String::new, |last| format!("last-event-id: {last}\r\n"));
        write!(stream, "GET {EVENTS}{query} HTTP/1.1\r\nhost: x\r\n{last}\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(status == 200, head.contains("content-type: text/event-stream"), "{head}");
        Self { status, reader, text: String::new() }
    }

    /// Returns the id and the data of the next event, or `None` at an orderly end.
    fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let value = event.lines().find_map(|line| line.strip_prefix(name));
                    value.map(|value| value.trim().to_owned())
                };
                let found = field("data:").map(|data| {
                    let data: Value = serde_json::from_str(&data).unwrap();
                    assert_eq!(field("event:").as_deref(), data["event"].as_str());
                    assert!(data["time"].is_string());
                    (field("id:").expect("events have ids"), data)
                });
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
                continue;
            }
            let mut size = String::new();
            assert!(self.reader.read_line(&mut size).unwrap() > 0, "the stream was cut off");
            let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap()];
            self.reader.read_exact(&mut chunk).unwrap();
            self.reader.read_exact(&mut [0; 2]).unwrap();
            if chunk.is_empty() {
                return None;
            }
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// Reads until there is an event of a type.
    fn until(&mut self, kind: &str) -> Vec<(String, Value)> {
        let mut events = Vec::new();
        loop {
            let event = self.next().expect("the stream goes on");
            let is_last = event.1["event"] == kind;
            events.push(event);
            if is_last {
                return events;
            }
        }
    }

    fn rest(&mut self) -> Vec<(String, Value)> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

fn kinds(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(_, event)| event["event"].as_str().unwrap()).collect()
}

/// The number of an event in its run of the server.
fn number(id: &str) -> u64 {
    id.split_once('-').unwrap().1.parse().unwrap()
}

/// Makes the disks these, with labels.
fn apply(socket: &super::Server, disks: &[String], label: &str) {
    let spec = json!({"parameters": ["64k"], "labels": {"label": label}});
    let disks: serde_json::Map<String, Value> =
        disks.iter().map(|name| (name.clone(), spec.clone())).collect();
    let body = json!({ "disks": disks }).to_string();
    let answer = http(socket, "POST", "/v1/tenants/default/populate", Some(&body));
    assert_eq!(answer.status, 200, "{}", answer.json());
}

#[test]
fn what_happens_to_a_disk_is_told_in_order() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let socket = server.path("control");
    let (mut all, mut of_a) =
        (Stream::open(&socket, "", None), Stream::open(&socket, "?disk=a", None));
    let spec = json!({"parameters": ["64k", "error-rate=0"], "filters": ["error"]});
    assert_eq!(put(&server, "a", &spec).status, 201);
    put(&server, "b", &spec);
    nbdsh(
        &server,
        "c = nbd.NBD(); c.set_export_name('a'); c.connect_unix('socket'); c.pread(1, 0)",
    );
    let mut events = of_a.until("client-disconnected");
    control(&server, &["fault", "a", "set", "error-rate=1%"]).success();
    control(&server, &["rm", "b", "a"]).success();
    events.extend(of_a.until("disk-removed"));
    let expected = [
        "disk-created",
        "disk-opened",
        "client-connected",
        "client-disconnected",
        "command",
        "disk-removed",
    ];
    assert_eq!(kinds(&events), expected);
    assert!(events.iter().all(|(_, event)| event["disk"] == "a"), "{events:?}");
    assert_eq!(events[2].1["connection"], events[3].1["connection"]);
    assert!(events[2].1["peer"].as_str().unwrap().contains("user"), "{events:?}");
    let command = &events[4].1;
    assert_eq!((&command["component"], &command["command"]), (&json!("error"), &json!("set")));
    assert_eq!(command["parameters"], json!(["error-rate=1%"]));
    // The others are told between them, and numbers are not left out.
    let mut told = all.until("disk-removed");
    told.extend(all.until("disk-removed"));
    for (index, (id, _)) in told.iter().enumerate() {
        assert_eq!(number(id), index as u64 + 1, "{told:?}");
    }
    assert!(events.iter().all(|event| told.contains(event)), "{told:?}");
    assert!(told.iter().any(|(_, event)| event["disk"] == "b"));
}

#[test]
fn configurations_and_failures_are_told_as_well() {
    let mut server = controlled(&["1M"]);
    let mut stream = Stream::open(&server.path("control"), "?disk=a", None);
    let disks = ["a".to_owned()];
    apply(&server, &disks, "1");
    apply(&server, &disks, "2");
    apply(&server, &disks, "2");
    apply(&server, &[], "");
    assert_eq!(
        kinds(&stream.until("disk-removed")),
        ["disk-created", "disk-relabelled", "disk-removed"]
    );
    control(&server, &["create", "a", "offset", "base=missing"]).success();
    control(&server, &["fault", "a"]).failure(1);
    let events = stream.until("log");
    assert_eq!(kinds(&events), ["disk-created", "disk-failed", "log"]);
    assert!(events[1].1["reason"].as_str().unwrap().contains("no export \"missing\""));
    let log = &events[2].1;
    assert_eq!((&log["level"], &log["disk"]), (&json!("error"), &json!("a")));
    assert!(log["message"].as_str().unwrap().starts_with("export \"a\": "), "{log}");
    server.expect_log("there is no export \"missing\"");
}

#[test]
fn clients_go_on_after_the_last_event_that_they_read() {
    let server = controlled(&["1M"]);
    let socket = server.path("control");
    let disks: Vec<String> = (0..5).map(|index| format!("disk-{index}")).collect();
    apply(&server, &disks, "");
    let all = Stream::open(&socket, "?follow=false", None).rest();
    assert_eq!(kinds(&all), ["disk-created"; 5]);
    for (index, (id, _)) in all.iter().enumerate() {
        let rest = Stream::open(&socket, "?follow=false", Some(id)).rest();
        assert_eq!(rest, all[index + 1..]);
    }
    let none = Stream::open(&socket, "?follow=false&replay=false", None).rest();
    assert_eq!(none, []);
    let mut following = Stream::open(&socket, "", Some(&all[3].0));
    assert_eq!(following.next().as_ref(), all.last());
    apply(&server, &[], "");
    assert_eq!(following.next().unwrap().1["event"], "disk-removed");
    // An id of another run of the server.
    let rest = Stream::open(&socket, "?follow=false&disk=disk-0", Some("1-3")).rest();
    assert_eq!(kinds(&rest), ["lost", "disk-created", "disk-removed"]);
    assert_eq!(rest[0].1["restarted"], true);
    assert_eq!(Stream::open(&socket, "", Some("x")).status, 400);
    for (query, words) in [("?dsik=a", "unknown field `dsik`"), ("?follow=maybe", "follow")] {
        let answer = http(&server, "GET", &format!("{EVENTS}{query}"), None);
        let problem = answer.problem();
        assert!(answer.status == 400 && problem.contains(words), "{query}: {problem}");
    }
    let other = http(&server, "GET", "/v1/tenants/other/events", None);
    assert_eq!(other.status, 404);
    assert!(http(&server, "DELETE", EVENTS, None).problem().contains("DELETE is not possible"));
}

#[test]
fn slow_readers_are_told_what_they_missed_and_dead_ones_are_disconnected() {
    let server = controlled(&["1M"]);
    let socket = server.path("control");
    let [mut slow, dead] = [(); 2].map(|()| Stream::open(&socket, "", None));
    let disks: Vec<String> =
        (0..4000).map(|index| format!("{index:04}{}", "x".repeat(240))).collect();
    apply(&server, &disks, "");
    apply(&server, &disks, "other");
    apply(&server, &[], "");
    let mut last = 0;
    let mut lost = 0;
    while last < 12_000 {
        let (id, event) = slow.next().unwrap();
        let missing = if event["event"] == "lost" { event["events"].as_u64().unwrap() } else { 1 };
        lost += if event["event"] == "lost" { missing } else { 0 };
        assert_eq!(number(&id), last + missing, "{event}");
        last = number(&id);
    }
    assert!(lost > 0, "nobody keeps all of it");
    put(&server, "a", &json!({"parameters": ["1M"]}));
    assert_eq!(slow.next().unwrap().1["event"], "disk-created");
    // More than the interval of the comments passes until the other one is disconnected.
    let mut quiet = Stream::open(&socket, "?disk=nothing&replay=false", None);
    let is_closed = || {
        let mut polled = [PollFd::new(dead.reader.get_ref(), PollFlags::HUP)];
        poll(&mut polled, Some(&Timespec::default())).unwrap();
        polled[0].revents().contains(PollFlags::HUP)
    };
    assert!(wait_until(LIMIT, is_closed), "a client that reads nothing is disconnected");
    put(&server, "b", &json!({"parameters": ["1M"]}));
    assert_eq!(slow.next().unwrap().1["disk"], "b", "others go on");
    let mut comment = String::new();
    quiet.reader.read_line(&mut comment).unwrap();
    comment.clear();
    quiet.reader.read_line(&mut comment).unwrap();
    assert!(comment.starts_with(':'), "{comment:?}");
}

#[test]
fn streams_are_bounded_and_take_no_places_of_requests() {
    let server = controlled(&["1M"]);
    let socket = server.path("control");
    let mut streams: Vec<Stream> = (0..32).map(|_| Stream::open(&socket, "", None)).collect();
    assert!(streams.iter().all(|stream| stream.status == 200));
    let answer = http(&server, "GET", EVENTS, None);
    assert_eq!(answer.status, 429);
    assert!(answer.problem().contains("there are 32 streams of events"));
    assert_eq!(http(&server, "GET", DISKS, None).status, 200);
    put(&server, "a", &json!({"parameters": ["1M"]}));
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().1["disk"], "a");
    }
    drop(streams);
    assert!(wait_until(LIMIT, || Stream::open(&socket, "", None).status == 200));
}

#[test]
fn streams_are_opened_while_requests_wait_for_places() {
    let server = controlled(&["1M"]);
    let socket = server.path("control");
    let mut before = Stream::open(&socket, "", None);
    // The bodies of these are waited for.
    let half = b"PUT /v1/tenants/default/disks/x HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                 content-length: 1000\r\n\r\n{";
    let held: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(half).unwrap();
            stream
        })
        .collect();
    let mut during = Stream::open(&socket, "", None);
    let answered = held.iter().filter(|stream| {
        let mut polled = [PollFd::new(stream, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).unwrap() > 0
    });
    assert_eq!(answered.count(), 0, "the stream waited for none of them");
    drop(held);
    put(&server, "a", &json!({"parameters": ["1M"]}));
    for stream in [&mut before, &mut during] {
        assert_eq!(stream.next().unwrap().1["disk"], "a");
    }
}

#[test]
fn streams_end_when_the_server_stops() {
    let mut server = controlled(&["1M"]);
    let socket = server.path("control");
    let mut streams: Vec<Stream> = (0..3).map(|_| Stream::open(&socket, "", None)).collect();
    let idle = UnixStream::connect(&socket).unwrap();
    put(&server, "a", &json!({"parameters": ["1M"]}));
    server.signal(Signal::TERM);
    server.wait();
    for stream in &mut streams {
        let rest = stream.rest();
        assert_eq!(rest[0].1["event"], "disk-created", "it ends in order, after everything");
    }
    drop(idle);
}

#[test]
fn grants_and_secrets_are_in_no_event() {
    let directory = tempfile::TempDir::new().unwrap();
    fs::write(directory.path().join("granted.img"), vec![0; 65536]).unwrap();
    let grant = "file:image=granted.img";
    let server = super::controlled_in(directory, &["--grant", grant, "1M"]);
    control(&server, &["create", "a", "file", "image"]).success();
    control(&server, &["fault", "a"]).success();
    control(&server, &["rm", "a"]).success();
    let events = Stream::open(&server.path("control"), "?follow=false", None).rest();
    assert_eq!(kinds(&events), ["disk-created", "disk-opened", "disk-removed"]);
    assert!(events.iter().all(|(_, event)| !event.to_string().contains("granted")), "{events:?}");
}
