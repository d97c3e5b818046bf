//! What web pages of others make a browser send.

use std::str;

use serde_json::json;

use super::{DISKS, controlled, exchange, names, put};
use crate::support::Server;

/// Sends a request with these headers; the status of the answer.
fn status(server: &Server, request: &str, headers: &str) -> u16 {
    let request = format!("{request} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    let answer = exchange(&server.path("control"), request.as_bytes());
    let line = str::from_utf8(&answer).unwrap().lines().next().unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn pages_of_others_cause_nothing() {
    let server = controlled(&["1M"]);
    put(&server, "a", &json!({"parameters": ["1M"]}));
    let delete = format!("DELETE {DISKS}/a");
    for headers in [
        "host: evil.example\r\n",
        "host: 127.0.0.1:1\r\norigin: http://evil.example\r\n",
        "host: 127.0.0.1:1\r\norigin: http://127.0.0.1:2\r\n",
        "host: x\r\norigin: null\r\n",
        "host: x\r\nsec-fetch-site: cross-site\r\n",
        "host: x\r\nsec-fetch-site: same-site\r\nsec-fetch-mode: navigate\r\n",
    ] {
        assert_eq!(status(&server, &delete, headers), 403, "{headers}");
        for path in [DISKS, "/metrics", "/v1/tenants/default/events", "/v1/openapi.json"] {
            assert_eq!(status(&server, &format!("GET {path}"), headers), 403, "{path} {headers}");
        }
    }
    let form = "host: x\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n";
    let reset = format!("POST {DISKS}/a/reset");
    assert_eq!(status(&server, &reset, &format!("{form}\r\n{{}}")), 415);
    assert_eq!(names(&server), ["disk", "a"]);
    let own = "host: 127.0.0.1:1\r\norigin: http://127.0.0.1:1\r\nsec-fetch-site: same-origin\r\n";
    assert_eq!(status(&server, &delete, own), 204);
    assert_eq!(names(&server), ["disk"]);
}
