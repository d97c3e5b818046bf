//! What tenants may have.

use serde_json::{Value, json};

use super::{control_as, put, script, shared};
use crate::control::http_as;
use crate::support::{LIMIT, require, wait_until};

#[test]
fn quotas_are_refused_and_can_change() {
    let (server, acme, other) = shared();
    put(&server, "acme", &json!({"quotas": {"disks": 2, "snapshots": 1}}));
    let run = |arguments: &[&str]| control_as(&server, "acme", &acme, arguments);
    run(&["create", "a", "1M"]).success();
    run(&["create", "b", "1M"]).success();
    let error = run(&["create", "c", "1M"]).failure(1);
    assert!(error.contains("at most 2"), "{error}");
    run(&["snapshot", "a", "s"]).success();
    let error = run(&["snapshot", "a", "t"]).failure(1);
    assert!(error.contains("there are 1 snapshots"), "{error}");
    control_as(&server, "other", &other, &["create", "c", "1M"]).success();
    for quota in ["disks", "snapshots"] {
        let told = format!("\"quota\":\"{quota}\"");
        let is_told = || run(&["logs", "--json"]).success().contains(&told);
        assert!(wait_until(LIMIT, is_told), "{quota}");
    }
    let of_other = control_as(&server, "other", &other, &["logs", "--json"]).success();
    assert!(!of_other.contains("quota-near"), "{of_other}");
    put(&server, "acme", &json!({"quotas": {"disks": 3, "snapshots": 0}}));
    run(&["create", "c", "1M"]).success();
    run(&["show", "a"]).success();
    put(&server, "acme", &json!({"quotas": {"disks": 1}}));
    let shown = http_as(&server, &acme, "GET", "/v1/tenants/acme/disks", None).json();
    assert_eq!(shown.as_array().map(Vec::len), Some(3), "what there is stays");
    run(&["rm", "c"]).success();
    run(&["create", "c", "1M"]).failure(1);
}

#[test]
fn memory_of_one_is_not_used_up_by_others() {
    require!("nbdsh");
    let (server, acme, other) = shared();
    let uid = rustix::process::getuid().as_raw();
    put(&server, "acme", &json!({"quotas": {"memory": 64 << 20}, "uids": [uid]}));
    control_as(&server, "acme", &acme, &["create", "d", "1G"]).success();
    control_as(&server, "other", &other, &["create", "d", "1G"]).success();
    let written = script(
        &server,
        "
disk = open_disk('d')
written = 0
try:
    for megabyte in range(256):
        disk.pwrite(b'x' * (1 << 20), megabyte << 20)
        written += 1
except nbd.Error as error:
    assert error.errno == 'ENOSPC', error
print(written)",
    );
    let written: u64 = written.trim().parse().unwrap();
    assert!((16..64).contains(&written), "{written} MiB of 64");
    let usage = |secret: &str, tenant: &str| -> Value {
        let path = format!("/v1/tenants/{tenant}");
        http_as(&server, secret, "GET", &path, None).json()["usage"]["memory"].clone()
    };
    let used = usage(&acme, "acme").as_u64().unwrap();
    assert!(used >= written << 20 && used <= 64 << 20, "{used}");
    assert!(usage(&other, "other").as_u64().unwrap() < 16 << 20);
    put(&server, "acme", &json!({"quotas": {"memory": 128 << 20}, "uids": [uid]}));
    script(&server, "open_disk('d').pwrite(b'y' * (8 << 20), 200 << 20)");
    put(&server, "acme", &json!({}));
    put(&server, "other", &json!({"uids": [uid]}));
    script(&server, "open_disk('d').pwrite(b'y' * (8 << 20), 0)");
}

#[test]
fn connections_and_requests_are_limited_for_all_disks_together() {
    require!("nbdsh");
    let (server, acme, _) = shared();
    let uid = rustix::process::getuid().as_raw();
    put(&server, "acme", &json!({"quotas": {"connections": 2, "requests": 100}, "uids": [uid]}));
    for disk in ["a", "b"] {
        control_as(&server, "acme", &acme, &["create", disk, "1M"]).success();
    }
    script(
        &server,
        "
import time
one, two = open_disk('a'), open_disk('b')
error_of('a')
start = time.monotonic()
# The burst is two seconds' worth.
for _ in range(200):
    one.pread(512, 0)
    two.pread(512, 0)
took = time.monotonic() - start
assert took > 1.9, took
one.shutdown()
deadline = time.monotonic() + 10
while True:
    try:
        open_disk('a')
        break
    except nbd.Error:
        assert time.monotonic() < deadline",
    );
}

#[test]
fn sizes_of_all_disks_are_bounded_together() {
    let (mut server, acme, _) = shared();
    put(&server, "acme", &json!({"quotas": {"size": 3_u64 << 30}}));
    let run = |arguments: &[&str]| control_as(&server, "acme", &acme, arguments);
    for (disk, size) in [("a", "2G"), ("b", "2G"), ("c", "1G")] {
        run(&["create", disk, size]).success();
    }
    // They are charged when they are opened.
    run(&["fault", "a"]).success();
    let error = run(&["fault", "b"]).failure(1);
    assert!(error.contains("1073741824 of 3221225472 bytes"), "{error}");
    run(&["fault", "c"]).success();
    run(&["snapshot", "a", "s"]).success();
    let error = run(&["clone", "s", "d"]).success();
    assert_eq!(error, "");
    run(&["fault", "d"]).failure(1);
    run(&["rm", "a"]).success();
    // A disk that failed is tried again after a moment.
    let opens = || run(&["fault", "d"]).exit_status().contains("exit status: 0");
    assert!(wait_until(LIMIT, opens));
    run(&["reset", "d"]).success();
    let usage = http_as(&server, &acme, "GET", "/v1/tenants/acme", None).json()["usage"].clone();
    assert_eq!(usage["size"], 3_u64 << 30);
    server.expect_log("exceeds what is left of the quota for the sizes of all disks");
}
