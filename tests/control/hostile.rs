//! Requests that are wrong, huge, slow or many: each gets its answer, and nobody else notices.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use super::{DISKS, controlled, exchange, http, put};
use crate::support::{nbdsh, require};

#[test]
fn wrong_requests_get_problems() {
    let server = controlled(&["1M"]);
    let disk = format!("{DISKS}/a");
    let long = "x".repeat(300);
    for (method, path, body, status, words) in [
        ("GET", "/v2", None, 404, "/v1/openapi.json"),
        ("GET", "/v1/tenants/other/disks", None, 404, "no tenant \"other\""),
        ("GET", &format!("{DISKS}/dsik"), None, 404, "did you mean \"disk\"?"),
        ("POST", DISKS, None, 405, "POST is not possible"),
        ("PUT", &disk, Some("{"), 400, ""),
        ("PUT", &disk, Some("[]"), 422, ""),
        ("PUT", &disk, Some(r#"{"colour": 1}"#), 422, "unknown field `colour`"),
        ("PUT", &disk, Some(r#"{"parameters": "1M"}"#), 422, "parameters"),
        ("PUT", &disk, None, 415, ""),
        ("PUT", &format!("{DISKS}/{long}"), Some("{}"), 400, "255 bytes"),
        ("PUT", &format!("{DISKS}/a%00b"), Some("{}"), 400, "255 bytes"),
        ("PUT", &format!("{DISKS}/%ff"), Some("{}"), 400, "UTF-8"),
        ("DELETE", "/v1/tenants/default/connections/x", None, 400, ""),
        ("POST", &format!("{DISKS}/disk/commands"), Some("{}"), 422, "command"),
    ] {
        let answer = http(&server, method, path, body);
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{method} {path}: {problem}");
        assert!(problem.contains(words), "{method} {path}: {problem}");
    }
    let many = json!({"filters": vec!["error"; 17], "parameters": ["1M"]});
    assert!(put(&server, "a", &many).problem().contains("at most 16"));
    let many = json!({"parameters": vec!["x=1"; 1025]});
    assert!(put(&server, "a", &many).problem().contains("at most 1024"));
    let labels = json!({"parameters": ["1M"], "labels": {"x".repeat(65): ""}});
    assert!(put(&server, "a", &labels).problem().contains("at most 64 bytes"));
}

#[test]
fn long_bodies_are_refused() {
    let server = controlled(&["1M"]);
    let body = json!({"parameters": ["x".repeat(2 << 20)]}).to_string();
    assert_eq!(http(&server, "PUT", &format!("{DISKS}/a"), Some(&body)).status, 413);
}

#[test]
fn garbage_ends_its_own_connection() {
    let server = controlled(&["1M"]);
    let mut random = fastrand::Rng::with_seed(1);
    for length in [1, 100, 10_000, 1_000_000] {
        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        exchange(&server.path("control"), &[&bytes[..], b"\r\n\r\n"].concat());
    }
    let header = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100_000));
    exchange(&server.path("control"), header.as_bytes());
    assert_eq!(http(&server, "GET", DISKS, None).status, 200);
}

#[test]
fn slow_clients_keep_nobody_waiting() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let half = b"PUT /v1/tenants/default/disks/a HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                 content-length: 1000\r\n\r\n{";
    let slow: Vec<UnixStream> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(server.path("control")).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(&half[..half.len() / 2]).unwrap();
            stream
        })
        .collect();
    assert_eq!(http(&server, "GET", DISKS, None).status, 200);
    nbdsh(&server, "h.pread(512, 0)");
    drop(slow);
}
