//! Disks and snapshots that are removed by themselves.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Answer, DISKS, OPEN, control, controlled, controlled_in, http, names, put};
use crate::support::{LIMIT, Server, nbdsh, require, wait_until};

fn patch(server: &Server, disk: &str, body: &Value) -> Answer {
    http(server, "PATCH", &format!("{DISKS}/{disk}"), Some(&body.to_string()))
}

fn show(server: &Server, disk: &str) -> Value {
    http(server, "GET", &format!("{DISKS}/{disk}"), None).json()
}

/// Waits until these are the disks.
fn until(server: &Server, expected: &[&str]) {
    assert!(wait_until(LIMIT, || names(server) == expected), "{:?}", names(server));
}

/// The events of a disk that were removals, as JSON.
fn removals(server: &Server, disk: &str) -> Vec<Value> {
    let told = control(server, &["--json", "logs", disk]).success();
    let events = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == "disk-removed").collect()
}

#[test]
fn disk_is_removed_when_its_time_is_over() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    control(&server, &["create", "a", "64k", "--ttl", "2s"]).success();
    control(&server, &["create", "b", "64k", "--ttl=90m"]).success();
    let shown = show(&server, "b");
    assert_eq!(shown["spec"]["ttl"], "90m");
    let left = shown["expires_in"].as_u64().unwrap();
    assert!((1..=5400).contains(&left), "{shown}");
    let listed = control(&server, &["ls"]).success();
    assert!(
        listed.contains("EXPIRES") && (listed.contains("1h30m") || listed.contains("1h29m")),
        "{listed}"
    );
    nbdsh(
        &server,
        &format!(
            "{OPEN}
a = open_disk('a')
a.pwrite(b'x' * 512, 0)
try:
    while True:
        a.pread(512, 0)
except nbd.Error:
    pass
"
        ),
    );
    until(&server, &["disk", "b"]);
    let removed = removals(&server, "a");
    assert_eq!((removed.len(), &removed[0]["reason"]), (1, &json!("expired")));
    assert!(server.log().iter().any(|line| line.contains("\"a\": removed, because its ttl")));
    control(&server, &["rm", "b"]).success();
    assert!(removals(&server, "b")[0].get("reason").is_none());
    // What is created anew by the same name has a life of its own.
    control(&server, &["create", "a", "64k"]).success();
    assert!(show(&server, "a").get("expires_in").is_none());
}

#[test]
fn time_begins_anew_with_a_renewal() {
    let server = controlled(&["1M"]);
    let spec = json!({"parameters": ["64k"], "ttl": "3s"});
    assert_eq!(put(&server, "kept", &spec).status, 201);
    assert_eq!(put(&server, "gone", &spec).status, 201);
    let renewed = || put(&server, "kept", &spec).status == 200 && names(&server).len() == 2;
    assert!(wait_until(LIMIT, renewed), "{:?}", names(&server));
    assert_eq!(names(&server), ["disk", "kept"]);
    let other = put(&server, "kept", &json!({"parameters": ["64k"], "ttl": "4s"}));
    assert_eq!(other.status, 409);
    // Labels do not renew it; null takes the end away.
    assert_eq!(patch(&server, "kept", &json!({"labels": {"a": "b"}, "ttl": "1h"})).status, 200);
    let labels = patch(&server, "kept", &json!({"labels": {}})).json();
    assert_eq!((&labels["spec"]["ttl"], &labels["spec"]["labels"]), (&json!("1h"), &json!({})));
    control(&server, &["update", "kept", "--ttl", "none"]).success();
    let shown = show(&server, "kept");
    assert!(shown["spec"].get("ttl").is_none() && shown.get("expires_in").is_none(), "{shown}");
    assert_eq!(shown["spec"]["parameters"], json!(["64k"]));
    control(&server, &["update", "kept", "--ttl", "1s"]).success();
    until(&server, &["disk"]);
}

#[test]
fn ephemeral_disk_goes_with_its_last_client() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    control(&server, &["create", "used", "64k", "--ephemeral"]).success();
    control(&server, &["create", "unused", "64k", "--ephemeral"]).success();
    control(&server, &["create", "later", "64k"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
import subprocess, time
later = open_disk('later')
subprocess.run([{program:?}, '--host', 'unix:control', 'update', 'later', '--ephemeral'], check=True)
for i in range(3):
    disk = open_disk('used')
    disk.pwrite(bytes([i + 1]) * 512, 512 * i)
    disk.shutdown()
    time.sleep(0.5)
first, second = open_disk('used'), open_disk('used')
first.shutdown()
time.sleep(6)
assert second.pread(512, 512) == b'\\2' * 512
assert later.pread(1, 0) == b'\\0'
",
            program = env!("CARGO_BIN_EXE_memnbd"),
        ),
    );
    until(&server, &["disk", "unused"]);
    assert_eq!(removals(&server, "used")[0]["reason"], "unused");
    assert_eq!(removals(&server, "later")[0]["reason"], "unused");
    control(&server, &["update", "unused", "--ephemeral=false"]).success();
    assert_eq!(show(&server, "unused")["spec"]["ephemeral"], false);
}

#[test]
fn disk_that_another_stands_on_is_removed_after_that() {
    let server = controlled(&["1M"]);
    control(&server, &["create", "base", "1M", "--ttl", "1s"]).success();
    control(&server, &["create", "top", "offset", "base=base", "offset=64k"]).success();
    control(&server, &["fault", "top"]).success();
    let tried = || server.log().iter().any(|line| line.contains("\"base\": to be removed"));
    assert!(wait_until(LIMIT, tried), "{:?}", server.log());
    assert_eq!(names(&server), ["disk", "base", "top"]);
    control(&server, &["rm", "top"]).success();
    until(&server, &["disk"]);
    let attempts = server.log();
    let attempts = attempts.iter().filter(|line| line.contains("but not yet")).count();
    assert_eq!(attempts, 1, "it is told once");
}

#[test]
fn snapshots_end_as_well() {
    let server = controlled(&["1M"]);
    control(&server, &["snapshot", "disk", "short", "--ttl", "1s"]).success();
    control(&server, &["snapshot", "disk", "long", "--ttl", "8h"]).success();
    let listed = || control(&server, &["snapshots"]).success();
    let ends = |listed: &str| listed.contains("  8h\n") || listed.contains("  7h59m\n");
    assert!(ends(&listed()), "{}", listed());
    assert!(wait_until(LIMIT, || !listed().contains("short")), "{}", listed());
    control(&server, &["snapshot", "disk", "long"]).success();
    assert!(listed().contains("long") && !ends(&listed()), "{}", listed());
    let told = control(&server, &["logs", "disk"]).success();
    assert!(told.contains("snapshot short deleted: its ttl is over"), "{told}");
}

#[test]
fn a_reload_makes_disks_again_that_have_expired() {
    let directory = TempDir::new().unwrap();
    let config = "[disks.a]\nparameters = ['64k']\nttl = '2s'\n[disks.b]\nparameters = ['64k']\n\
                  ephemeral = true\nttl = '8h'\n";
    fs::write(directory.path().join("disks.toml"), config).unwrap();
    let server = controlled_in(directory, &["--config", "disks.toml"]);
    assert_eq!(names(&server), ["a", "b"]);
    until(&server, &["b"]);
    server.signal(Signal::HUP);
    until(&server, &["b", "a"]);
    until(&server, &["b"]);
    // Another ttl is no reason to create a disk anew.
    let tag = || http(&server, "GET", &format!("{DISKS}/b"), None).head.to_lowercase();
    let tag = || tag().lines().find(|line| line.starts_with("etag")).unwrap().to_owned();
    let before = tag();
    fs::write(server.path("disks.toml"), "[disks.b]\nparameters = ['64k']\nttl = '7h'\n").unwrap();
    server.signal(Signal::HUP);
    assert!(wait_until(LIMIT, || show(&server, "b")["spec"]["ttl"] == "7h"));
    assert_eq!(show(&server, "b")["spec"]["ephemeral"], false);
    assert_eq!(tag(), before);
}

#[test]
fn wrong_times_are_told() {
    let server = controlled(&["1M"]);
    for (ttl, status, words) in [
        (json!("0s"), 422, "from 1s to 365d"),
        (json!("366d"), 400, "from 1s to 365d"),
        (json!("1.5h"), 422, "a whole number and s, m, h or d"),
        (json!(90), 422, "ttl"),
    ] {
        let spec = json!({"parameters": ["1M"], "ttl": ttl});
        let snapshot = json!({"disk": "disk", "ttl": ttl});
        let path = "/v1/tenants/default/snapshots/s";
        for answer in [
            put(&server, "a", &spec),
            patch(&server, "disk", &json!({"ttl": ttl})),
            http(&server, "PUT", path, Some(&snapshot.to_string())),
        ] {
            let problem = answer.problem();
            assert_eq!(answer.status, status, "{ttl}: {problem}");
            assert!(problem.contains(words), "{ttl}: {problem}");
        }
    }
    assert_eq!(names(&server), ["disk"]);
    let error = control(&server, &["create", "a", "1M", "--ttl", "soon"]).failure(1);
    assert!(error.contains("\"soon\": it is a whole number"), "{error}");
}

#[test]
fn many_disks_end_together() {
    let server = controlled(&["1M"]);
    let disks: serde_json::Map<String, Value> = (0..5000)
        .map(|index| (format!("d{index}"), json!({"parameters": ["64k"], "ttl": "4s"})))
        .collect();
    let body = json!({ "disks": disks }).to_string();
    let answer = http(&server, "POST", "/v1/tenants/default/populate", Some(&body));
    assert_eq!(answer.status, 200);
    until(&server, &["disk"]);
}
