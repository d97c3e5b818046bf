//! What all requests of a tenant share: memory while they are under way, and processors.

use std::fs;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{configured, control_as, put, script, shared, token};
use crate::control::{control, http, http_as};
use crate::support::{LIMIT, Server, require, wait_until};

/// What a tenant has and may have, as the API shows it.
fn shown(server: &Server, tenant: &str) -> Value {
    http(server, "GET", &format!("/v1/tenants/{tenant}"), None).json()
}

/// A metric of a quota of `acme`.
fn metric(server: &Server, name: &str, quota: &str) -> Option<f64> {
    let scraped = http(server, "GET", "/metrics", None).text();
    let series = format!("{name}{{tenant=\"acme\",quota=\"{quota}\"}} ");
    scraped.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

/// Waits until a connection of `acme` was held back by a quota.
fn wait_until_held_back(server: &Server, quota: &str) {
    let throttled = || metric(server, "memnbd_tenant_throttled_seconds_total", quota);
    assert!(wait_until(LIMIT, || throttled().is_some_and(|time| time > 0.0)), "{quota}");
}

fn wait_until_told(server: &Server, secret: &str, quota: &str) {
    let told = format!("\"quota\":\"{quota}\"");
    let logs = || control_as(server, "acme", secret, &["logs", "--json"]).success();
    assert!(wait_until(LIMIT, || logs().contains(&told)), "{quota}: {}", logs());
}

#[test]
fn memory_of_requests_under_way_is_bounded_and_nobody_else_waits() {
    require!("nbdsh");
    let (server, acme, other) = shared();
    let uid = rustix::process::getuid().as_raw();
    let quotas = |inflight: u64| json!({"quotas": {"inflight": inflight}, "uids": [uid]});
    put(&server, "acme", &quotas(1 << 20));
    let run = |arguments: &[&str]| control_as(&server, "acme", &acme, arguments);
    run(&["create", "hung", "16M", "--filter=pause", "paused=true"]).success();
    run(&["create", "read", "pattern", "16M"]).success();
    control_as(&server, "other", &other, &["create", "read", "pattern", "16M"]).success();
    let neighbour = token(&server, "other", "connect");
    let used = || shown(&server, "acme")["usage"]["inflight"].as_u64().unwrap();
    assert_eq!(used(), 0);
    thread::scope(|scope| {
        let read = |disk, length| {
            let code = format!("assert len(open_disk('{disk}').pread({length}, 0)) == {length}");
            scope.spawn(|| script(&server, &{ code }))
        };
        // Longer than the quota, and alone.
        let hung = read("hung", 2 << 20);
        assert!(wait_until(LIMIT, || used() == 1 << 20));
        assert_eq!(metric(&server, "memnbd_tenant_used", "inflight"), Some(1_048_576.0));
        let waits = read("read", 4096);
        wait_until_held_back(&server, "inflight");
        wait_until_told(&server, &acme, "inflight");
        let of_other = format!("open_disk('{neighbour}/read').pread(4 << 20, 0)");
        script(&server, &of_other);
        assert!(!hung.is_finished() && !waits.is_finished());
        put(&server, "acme", &quotas(4 << 20));
        waits.join().unwrap();
        assert!(!hung.is_finished());
        run(&["fault", "hung", "resume"]).success();
        hung.join().unwrap();
    });
    assert!(wait_until(LIMIT, || used() == 0));
}

#[test]
fn processors_are_shared_out_and_requests_without_a_component_go_on() {
    require!("nbdsh");
    let (server, acme, other) = shared();
    let uid = rustix::process::getuid().as_raw();
    let neighbour = token(&server, "other", "connect");
    for (tenant, secret) in [("acme", &acme), ("other", &other)] {
        let run = |arguments: &[&str]| control_as(&server, tenant, secret, arguments).success();
        // It compresses what is written.
        run(&["create", "busy", "64M", "allocator=zstd"]);
        run(&["create", "quick", "16M"]);
    }
    put(&server, "acme", &json!({"uids": [uid]}));
    script(&server, "open_disk('quick').pwrite(b'x' * 65536, 0)");
    assert_eq!(shown(&server, "acme")["usage"].get("cpus"), None);
    put(&server, "acme", &json!({"uids": [uid], "quotas": {"cpus": 0.001}}));
    let write = |prefix: &str| {
        format!(
            "
import random
disk = open_disk('{prefix}busy')
for n in range(400):
    disk.pwrite(random.randbytes(65536), n << 16)
disk.flush()"
        )
    };
    thread::scope(|scope| {
        let writing = scope.spawn(|| script(&server, &write("")));
        wait_until_held_back(&server, "cpus");
        script(&server, &write(&format!("{neighbour}/")));
        // Its memory is at hand.
        script(
            &server,
            "
disk = open_disk('quick')
for n in range(1000):
    assert disk.pread(4096, 0) == b'x' * 4096
    disk.pwrite(b'x' * 4096, 4096)",
        );
        let usage = &shown(&server, "acme")["usage"];
        assert!(usage["cpus"].is_number(), "{usage}");
        // What removes something does not wait, so that there is a way out.
        control_as(&server, "acme", &acme, &["rm", "quick"]).success();
        assert!(!writing.is_finished());
        put(&server, "acme", &json!({"uids": [uid], "quotas": {"cpus": 1000}}));
        writing.join().unwrap();
    });
    assert_eq!(metric(&server, "memnbd_tenant_quota", "cpus"), Some(1000.0));
    put(&server, "acme", &json!({}));
    assert_eq!(metric(&server, "memnbd_tenant_quota", "cpus"), None);
}

#[test]
fn more_processors_than_the_share_are_told() {
    require!("nbdsh");
    let (server, acme, _) = shared();
    let uid = rustix::process::getuid().as_raw();
    control_as(&server, "acme", &acme, &["create", "busy", "64M", "allocator=zstd"]).success();
    put(&server, "acme", &json!({"uids": [uid], "quotas": {"cpus": 0.001}}));
    // It computes for longer than there is time, and is not told at once.
    script(
        &server,
        "
import random
open_disk('busy').pwrite(random.randbytes(16 << 20), 0)",
    );
    wait_until_told(&server, &acme, "cpus");
    let told = control_as(&server, "acme", &acme, &["logs"]).success();
    assert!(told.contains("of 1, thousandths of cpus"), "{told}");
    // A request for components waits for a while, and then is told why it cannot be made.
    let error = control_as(&server, "acme", &acme, &["create", "more", "1M"]).failure(1);
    assert!(error.contains("more than its share of the processors (the quota cpus)"), "{error}");
}

#[test]
fn shares_come_from_the_file_and_the_command_line() {
    let text = |quotas: &str| format!("[disks]\n[tenants.acme]\nquotas = {{ {quotas} }}\n");
    let mut server = configured(&text("inflight = '2M', cpus = 1.5"));
    let quotas = |server: &Server, tenant: &str| {
        let quotas = shown(server, tenant)["spec"]["quotas"].clone();
        (quotas["inflight"].as_u64(), quotas["cpus"].as_f64())
    };
    assert_eq!(quotas(&server, "acme"), (Some(2 << 20), Some(1.5)));
    let reload = |quotas: &str, told: &str| {
        let before = server.log().len();
        fs::write(server.path("server.toml"), text(quotas)).unwrap();
        server.signal(Signal::HUP);
        let is_told = |log: Vec<String>| log[before..].iter().any(|line| line.contains(told));
        assert!(wait_until(LIMIT, || is_told(server.log())), "{told}: {:#?}", server.log());
    };
    reload("cpus = 0.25", "read again: ");
    reload("cpus = 0.0001", "cpus: it is a number of processors from 0.001 to 1024");
    reload("inflight = 0", "inflight: it is at least 1");
    assert_eq!(quotas(&server, "acme"), (Some(64 << 20), Some(0.25)));

    control(&server, &["tenant", "b", "--cpus", "0.5", "--inflight", "8M"]).success();
    assert_eq!(quotas(&server, "b"), (Some(8 << 20), Some(0.5)));
    let listed = control(&server, &["tenants"]).success();
    assert!(listed.contains("0 of 8M") && listed.contains("0.0 of 0.5"), "{listed}");
    control(&server, &["tenant", "b"]).success();
    assert_eq!(quotas(&server, "b"), (Some(64 << 20), None));
    let error = control(&server, &["tenant", "b", "--cpus", "50%"]).failure(2);
    assert!(error.contains("a number of processors from 0.001 to 1024"), "{error}");
    for (quotas, told) in [
        ("{\"cpus\": 0}", "0: it is a number of processors from 0.001 to 1024"),
        ("{\"cpus\": \"1\"}", "invalid type: string"),
        ("{\"inflight\": 0}", "0 is no whole number that is possible here"),
        ("{\"inflight\": null}", "invalid type: null"),
    ] {
        let body = format!("{{\"quotas\": {quotas}}}");
        let answer = http(&server, "PUT", "/v1/tenants/b", Some(&body));
        assert_eq!(answer.status, 422);
        assert!(answer.problem().contains(told), "{}", answer.problem());
    }
    server.allow_log("");
}

#[test]
fn tokens_of_tenants_that_are_gone_are_unknown() {
    let (mut server, acme, _) = shared();
    let ask = |secret: &str| {
        let answer = http_as(&server, secret, "GET", "/v1/tenants/acme/disks", None);
        (answer.status, if answer.status == 200 { String::new() } else { answer.problem() })
    };
    assert_eq!(ask(&acme).0, 200);
    control(&server, &["tenant", "acme", "--rm"]).success();
    assert_eq!(ask(&acme), ask("never-a-token"));
    assert_eq!(ask(&acme).0, 401);
    server.expect_log("this is not Bearer and a token that the server knows");
}
