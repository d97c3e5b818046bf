//! Further names of disks, and snapshots that are served.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Answer, DISKS, EXPORTS, OPEN, control, controlled, controlled_in, http, names, put,
    under_clients,
};
use crate::support::{LIMIT, Server, nbdsh, require, run, wait_until};
use crate::tls::client::write_keys;

fn offer(server: &Server, export: &str, spec: &Value) -> Answer {
    http(server, "PUT", &format!("{EXPORTS}/{export}"), Some(&spec.to_string()))
}

#[test]
fn disk_is_found_by_several_names() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    control(&server, &["create", "a", "1M", "--filter=error"]).success();
    control(&server, &["export", "a", "b", "--read-only"]).success();
    control(&server, &["export", "a", "c", "--filter=limit", "limit=1"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
a, b, c = open_disk('a'), open_disk('b'), open_disk('c')
assert b.is_read_only() and not a.is_read_only() and not c.is_read_only()
assert a.can_multi_conn() and b.can_multi_conn()
for n, writer in enumerate([a, c, a]):
    writer.pwrite(bytes([n + 1]) * 4096, n * 4096, nbd.CMD_FLAG_FUA)
    for reader in (a, b, c):
        assert reader.pread(4096, n * 4096) == bytes([n + 1]) * 4096
c.zero(4096, 0)
assert b.pread(4096, 0) == bytes(4096)
b.set_strict_mode(0)
try:
    b.pwrite(b'x' * 512, 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'EPERM'
try:
    open_disk('c')
    assert False
except nbd.Error:
    pass
open_disk('a')
import subprocess
listed = subprocess.run([{program:?}, '--host', 'unix:control', 'exports'], check=True,
    stdout=subprocess.PIPE, text=True).stdout.splitlines()
assert listed[1].split() == ['b', 'a', '1', 'read-only'], listed
assert listed[2].split() == ['c', 'a', '1', 'limit', 'limit=1'], listed
l = nbd.NBD()
l.set_opt_mode(True)
l.connect_unix('socket')
found = []
l.opt_list(lambda name, description: found.append(name))
assert {{'a', 'b', 'c', 'disk'}} <= set(found), found
",
            program = env!("CARGO_BIN_EXE_memnbd"),
        ),
    );
    assert_eq!(names(&server), ["disk", "a"], "exports are no disks");
    let shown = http(&server, "GET", &format!("{DISKS}/a"), None).json();
    assert_eq!(shown["operations"]["write"]["requests"], 3, "of all names: {shown}");
    let usage = http(&server, "GET", "/v1/tenants/default/usage", None).json();
    assert_eq!(usage["total"], 2);
    let error = control(&server, &["rm", "a"]).failure(1);
    assert!(error.contains("is exported as \"b\", \"c\""), "{error}");
    control(&server, &["rm", "--export", "b", "c"]).success();
    control(&server, &["rm", "a"]).success();
    let told = control(&server, &["logs", "a"]).success();
    assert!(told.contains("export b created") && told.contains("export c removed"), "{told}");
}

#[test]
fn nothing_is_lost_by_any_name_while_the_disk_beneath_changes() {
    require!("nbdsh");
    let server = controlled(&["64M"]);
    control(&server, &["export", "disk", "other"]).success();
    let tools = under_clients();
    nbdsh(
        &server,
        &format!(
            "{OPEN}{tools}
def connect(index):
    # It writes by one name, and reads by the other.
    return [open_disk(['disk', 'other'][index % 2]), open_disk(['other', 'disk'][index % 2])]
def use(index, at, length, one, other):
    data = os.urandom(length)
    one.pwrite(data, at, nbd.CMD_FLAG_FUA)
    assert other.pread(length, at) == data
    other.zero(length, at)
    other.flush()
    assert one.pread(length, at) == bytes(length)
def change(turn):
    memnbd('snapshot', 'disk', f's{{turn}}')
    memnbd('update', 'disk', '64M', '--filter=delay', 'delay-write=1ms')
    memnbd('export', 'disk', f'more{{turn}}')
    memnbd('update', 'disk', '64M')
    memnbd('rm', '--export', f'more{{turn}}')
h.pwrite(b'kept', 60 << 20)
under_clients(connect, use, change)
other = open_disk('other')
assert other.pread(4, 60 << 20) == b'kept'
other.pwrite(b'lost', 60 << 20)
memnbd('reset', 'disk', '--to', 's1')
assert other.pread(4, 60 << 20) == h.pread(4, 60 << 20) == b'kept'
other.pwrite(b'more', 60 << 20)
assert h.pread(4, 60 << 20) == b'more'
"
        ),
    );
}

#[test]
fn fio_verifies_by_two_names_under_snapshots() {
    require!("fio");
    let server = controlled(&["256M"]);
    control(&server, &["export", "disk", "other"]).success();
    let socket = server.path("socket");
    let uri = |name: &str| format!("nbd+unix:///{name}?socket={}", socket.display());
    std::thread::scope(|scope| {
        let jobs: Vec<_> = ["disk", "other"]
            .into_iter()
            .enumerate()
            .map(|(index, name)| {
                let uri = format!("--uri={}", uri(name));
                let offset = format!("--offset={}", index * (128 << 20));
                scope.spawn(move || {
                    let mut fio = std::process::Command::new("fio");
                    fio.args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--size=64m"]);
                    fio.args(["--bsrange=4k-256k", "--iodepth=16", "--verify=crc32c"]);
                    fio.arg("--verify_state_save=0");
                    fio.args(["--verify_backlog=64", "--verify_fatal=1", "--fsync=50"]);
                    fio.args([uri, offset]);
                    run(&mut fio).success();
                })
            })
            .collect();
        let mut turns = 0;
        while turns < 3 || !jobs.iter().all(|job| job.is_finished()) {
            turns += 1;
            let name = format!("s{turns}");
            control(&server, &["snapshot", "disk", &name]).success();
            control(&server, &["rm", "--snapshot", &name]).success();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn snapshots_are_served_as_they_are() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    nbdsh(&server, "h.pwrite(b'old' * 1000, 0)");
    control(&server, &["snapshot", "disk", "s"]).success();
    nbdsh(&server, "h.pwrite(b'new' * 1000, 0)");
    control(&server, &["export", "--snapshot", "s", "view", "--filter=rate", "rate=1G"]).success();
    control(&server, &["rm", "--snapshot", "s"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
view = open_disk('view')
assert view.is_read_only() and view.get_size() == 1048576
assert view.pread(3000, 0) == b'old' * 1000
"
        ),
    );
    assert_eq!(names(&server), ["disk"]);
    let shown = http(&server, "GET", &format!("{EXPORTS}/view"), None).json();
    assert_eq!((&shown["spec"]["snapshot"], &shown["size"]), (&json!("s"), &json!(1 << 20)));
    assert_eq!(shown["spec"]["read_only"], true);
    control(&server, &["create", "top", "offset", "base=view", "offset=4k"]).success();
    control(&server, &["fault", "top"]).success();
    let error = control(&server, &["rm", "--export", "view"]).failure(1);
    assert!(error.contains("a disk stands on \"view\""), "{error}");
    control(&server, &["rm", "top"]).success();
    control(&server, &["rm", "--export", "view"]).success();
}

#[test]
fn exports_are_made_once_and_mistakes_are_told() {
    let mut server = controlled(&["1M"]);
    let spec = json!({"disk": "disk", "parameters": ["rate=1G"]});
    assert_eq!(offer(&server, "e", &spec).status, 201);
    assert_eq!(offer(&server, "e", &spec).status, 200);
    for (name, spec, status, words) in [
        ("e", json!({"disk": "disk"}), 409, "remove it first"),
        ("disk", json!({"disk": "disk"}), 409, "there is a disk \"disk\""),
        ("f", json!({"disk": "dsik"}), 404, "did you mean \"disk\"?"),
        ("f", json!({"disk": "e"}), 404, "is an export"),
        ("f", json!({"snapshot": "s"}), 404, "no snapshot"),
        ("f", json!({"disk": "disk", "snapshot": "s"}), 400, "either"),
        ("f", json!({}), 400, "either"),
        ("f", json!({"disk": "disk", "tls": true}), 409, "without TLS"),
        ("f", json!({"disk": "disk", "filters": ["error"]}), 400, "belong to the disk"),
        ("f", json!({"disk": "disk", "parameters": ["1M"]}), 400, "belong to the disk"),
        ("f", json!({"disk": "disk", "parameters": ["rate-file=x"]}), 400, "command line"),
        ("f", json!({"disk": "disk", "filters": vec!["limit"; 17]}), 400, "at most 16"),
        ("f", json!({"disk": "disk", "limit": 1}), 422, "limit"),
    ] {
        let answer = offer(&server, name, &spec);
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{spec}: {problem}");
        assert!(problem.contains(words), "{spec}: {problem}");
    }
    let created = put(&server, "e", &json!({"parameters": ["1M"]}));
    assert_eq!(created.status, 409);
    let body = json!({"disks": {"e": {"parameters": ["1M"]}}}).to_string();
    assert_eq!(http(&server, "POST", "/v1/tenants/default/populate", Some(&body)).status, 409);
    for method in ["GET", "DELETE"] {
        assert_eq!(http(&server, method, &format!("{EXPORTS}/f"), None).status, 404);
        assert_eq!(http(&server, method, &format!("{DISKS}/e"), None).status, 404);
    }
    control(&server, &["create", "top", "offset", "base=e", "offset=4k"]).success();
    let error = control(&server, &["fault", "top"]).failure(1);
    assert!(error.contains("another name of the disk \"disk\""), "{error}");
    server.expect_log("another name of the disk \"disk\"");
    // The server stops with them, and flushes once.
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn export_may_require_tls_where_the_disk_does_not() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    write_keys(directory.path());
    let server = controlled_in(directory, &["--tls-psk=keys.psk", "1M"]);
    control(&server, &["export", "disk", "secret", "--tls"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
open_disk('disk').pwrite(b's' * 512, 0)
try:
    open_disk('secret')
    assert False
except nbd.Error as error:
    assert 'TLS' in error.string, error.string
c = nbd.NBD()
c.set_export_name('secret')
c.set_tls(nbd.TLS_REQUIRE)
c.set_tls_psk_file('keys.psk')
c.set_tls_username('alice')
c.connect_unix('socket')
assert c.pread(512, 0) == b's' * 512
"
        ),
    );
}

#[test]
fn exports_end_with_a_disk_that_ends_by_itself() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    control(&server, &["create", "a", "1M", "--ephemeral"]).success();
    control(&server, &["create", "b", "1M", "--ttl=2s"]).success();
    control(&server, &["export", "a", "a2"]).success();
    control(&server, &["export", "b", "b2"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
import time
a2, b2 = open_disk('a2'), open_disk('b2')
try:
    while True:
        b2.pread(1, 0)
except nbd.Error:
    pass
open_disk('a').shutdown()
# A client of another name is one of the disk.
time.sleep(6)
a2.pread(1, 0)
"
        ),
    );
    assert!(wait_until(LIMIT, || names(&server) == ["disk"]), "{:?}", names(&server));
    assert_eq!(http(&server, "GET", EXPORTS, None).json(), json!([]));
}
