//! Creating, showing, commanding and removing disks.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::{DISKS, EXPORTS, OPEN, control, controlled, controlled_in, http, put};
use crate::support::{nbdsh, require};

#[test]
fn disks_are_created_used_and_removed() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    control(&server, &["create", "a", "64k", "--label", "test=1"]).success();
    control(&server, &["create", "b", "data", "1 2 3", "size=4k"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
a = open_disk('a')
assert a.get_size() == 65536
a.pwrite(b'x' * 512, 0)
assert open_disk('b').pread(3, 0) == bytes([1, 2, 3])
assert open_disk('').get_size() == 1048576
"
        ),
    );
    let listed = control(&server, &["ls"]).success();
    for line in ["NAME  SIZE  STATE", "disk  1M    live", "a     64K   live", "memory 64k"] {
        assert!(listed.contains(line), "{listed}");
    }
    let shown = control(&server, &["show", "a"]).success();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let write = &shown["operations"]["write"];
    for (key, value) in [("requests", 1), ("errors", 0), ("bytes", 512)] {
        assert_eq!(write[key], value, "{shown}");
    }
    let latencies = ["sum", "median", "p99"].map(|of| write[format!("latency_{of}_ns")].as_u64());
    assert!(latencies.iter().all(|latency| latency.is_some_and(|ns| ns > 0)), "{shown}");
    assert_eq!(shown["spec"]["labels"], json!({"test": "1"}));
    control(&server, &["rm", "a", "b"]).success();
    let error = control(&server, &["show", "a"]).failure(1);
    assert!(error.contains("there is no disk \"a\""), "{error}");
    nbdsh(
        &server,
        &format!(
            "{OPEN}
try:
    open_disk('a')
    assert False
except nbd.Error as error:
    assert error.errno == 'ENOENT'
"
        ),
    );
}

#[test]
fn creating_again_changes_nothing() {
    let server = controlled(&["-e", "main", "1M"]);
    let spec = json!({"parameters": ["size=1M"]});
    let created = put(&server, "a", &spec);
    assert_eq!(created.status, 201);
    let again = put(&server, "a", &spec);
    assert_eq!(again.status, 200);
    let tag = |head: &str| head.lines().find(|line| line.starts_with("etag:")).map(str::to_owned);
    assert!(tag(&created.head).is_some());
    assert_eq!(tag(&created.head), tag(&again.head));
    let other = put(&server, "a", &json!({"parameters": ["size=2M"]}));
    assert_eq!(other.status, 409);
    assert!(other.problem().contains("remove it first"), "{}", other.problem());
    // Those of the command line are the same kind of thing.
    assert_eq!(put(&server, "main", &json!({"parameters": ["1M"]})).status, 200);
    assert_eq!(http(&server, "DELETE", &format!("{DISKS}/main"), None).status, 204);
    assert_eq!(http(&server, "DELETE", &format!("{DISKS}/main"), None).status, 404);
    // A new disk of the same name is another one.
    assert_eq!(http(&server, "DELETE", &format!("{DISKS}/a"), None).status, 204);
    let new = put(&server, "a", &spec);
    assert_ne!(tag(&created.head), tag(&new.head));
}

#[test]
fn names_may_have_any_characters() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    for name in ["a/b", "\u{e4} b", "100%", "..", "a?b#c"] {
        control(&server, &["create", "--", name, "1M"]).success();
        nbdsh(&server, &format!("{OPEN}\nassert open_disk({name:?}).get_size() == 1048576"));
        control(&server, &["rm", "--", name]).success();
    }
}

#[test]
fn faults_are_switched_on_and_off() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let create = ["create", "a", "1M", "--filter=delay", "--filter=error", "error=ENOSPC"];
    control(&server, &create).success();
    let commands = control(&server, &["fault", "a"]).success();
    assert!(commands.contains("delay: set:") && commands.contains("error: set:"), "{commands}");
    control(&server, &["fault", "a", "set", "error-pwrite-rate=1", "--layer=error"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
try:
    open_disk('a').pwrite(b'x' * 512, 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'ENOSPC'
"
        ),
    );
    control(&server, &["fault", "a", "set", "error-pwrite-rate=0", "--layer=error"]).success();
    nbdsh(&server, &format!("{OPEN}\nopen_disk('a').pwrite(b'x' * 512, 0)"));
    for (arguments, words) in [
        (&["fault", "a", "sett"][..], "did you mean \"set\"?"),
        (&["fault", "a", "set", "error-rate=2", "--layer=error"], "error-rate"),
        (&["fault", "a", "set", "--layer=cow"], "there are delay, error"),
        (&["fault", "disk", "set"], "takes no commands"),
        (&["fault", "b"], "there is no disk \"b\""),
    ] {
        let error = control(&server, arguments).failure(1);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn clients_are_listed_and_disconnected() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    nbdsh(
        &server,
        &format!(
            "{OPEN}
import os, subprocess, json
env = dict(os.environ, MEMNBD_HOST='unix:control')
def ask(*arguments):
    return subprocess.run([{program:?}, *arguments], env=env, check=True, stdout=subprocess.PIPE).stdout
first, second = open_disk(''), open_disk('')
listed = json.loads(ask('connections', '--json'))
assert [one['disk'] for one in listed] == ['disk'] * len(listed), listed
assert b'user' in ask('connections')
ask('connections', '--drop', str(listed[-1]['id']))
for attempt in range(1000):
    left = json.loads(ask('connections', '--json'))
    if len(left) == len(listed) - 1:
        break
assert len(left) == len(listed) - 1
first.pread(512, 0)
try:
    second.pread(512, 0)
    assert False
except nbd.Error:
    pass
",
            program = env!("CARGO_BIN_EXE_memnbd"),
        ),
    );
    let error = control(&server, &["connections", "--drop", "1000000"]).failure(1);
    assert!(error.contains("there is no connection 1000000"), "{error}");
}

#[test]
fn disk_that_another_stands_on_is_not_removed() {
    let server = controlled(&["1M"]);
    control(&server, &["create", "top", "offset", "base=disk", "offset=64k"]).success();
    control(&server, &["fault", "top"]).success();
    let error = control(&server, &["rm", "disk"]).failure(1);
    assert!(error.contains("another disk stands on \"disk\""), "{error}");
    control(&server, &["rm", "top", "disk"]).success();
}

#[test]
fn disks_that_cannot_be_opened_say_why() {
    let mut server = controlled(&["1M"]);
    control(&server, &["create", "top", "offset", "base=missing"]).success();
    let error = control(&server, &["fault", "top"]).failure(1);
    assert!(error.contains("there is no export \"missing\""), "{error}");
    let shown = control(&server, &["ls"]).success();
    assert!(shown.contains("failed"), "{shown}");
    for (words, said) in [
        (&["create", "a", "colour=red"][..], "has no parameter \"colour\""),
        (&["create", "a", "memroy"], "\"memroy\" is not"),
        (&["create", "a", "--filter=memory", "1M"], "memory is not a filter"),
        (&["create", "a"], "size"),
    ] {
        let error = control(&server, words).failure(1);
        assert!(error.contains(said), "{error}");
    }
    server.expect_log("there is no export \"missing\"");
}

#[test]
fn nobody_else_can_connect() {
    let server = controlled(&["1M"]);
    let socket = std::fs::symlink_metadata(server.path("control")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

#[test]
fn socket_is_gone_in_the_end() {
    let mut server = controlled(&["1M"]);
    let socket = server.path("control");
    assert!(socket.exists());
    server.signal(Signal::TERM);
    server.wait();
    assert!(!socket.exists());
    let error = control(&server, &["ls"]).failure(1);
    assert!(error.contains("connect to"), "{error}");
}

#[test]
fn a_thousand_disks_come_and_go() {
    let server = controlled(&["1M"]);
    for index in 0..1000 {
        let spec = json!({"parameters": ["size=1G"]});
        assert_eq!(put(&server, &format!("disk-{index}"), &spec).status, 201);
    }
    let listed = http(&server, "GET", DISKS, None).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1001));
    for index in 0..1000 {
        let path = format!("{DISKS}/disk-{index}");
        assert_eq!(http(&server, "DELETE", &path, None).status, 204);
    }
    let listed = http(&server, "GET", DISKS, None).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
}

#[test]
fn api_describes_itself() {
    let server = controlled(&["1M"]);
    let description = http(&server, "GET", "/v1/openapi.json", None).json();
    assert_eq!(description["openapi"], "3.1.0");
    let paths = description["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 23, "{:?}", paths.keys());
    // What it refers to is there.
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(description.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn idle_disks_are_closed_where_there_are_many() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("image"), [5; 4096]).unwrap();
    let server = controlled_in(directory, &["--preload", "image", "memory", "1M"]);
    control(&server, &["create", "golden", "64k"]).success();
    nbdsh(&server, &format!("{OPEN}\nopen_disk('golden').pwrite(b'g' * 512, 0)"));
    control(&server, &["snapshot", "golden", "s"]).success();
    // An export of a snapshot holds nothing either.
    control(&server, &["export", "--snapshot", "s", "view"]).success();
    for index in 0..600 {
        let spec = match index % 3 {
            2 => json!({"snapshot": "s"}),
            _ => json!({"parameters": ["64k"]}),
        };
        assert_eq!(put(&server, &format!("c{index}"), &spec).status, 201);
    }
    nbdsh(
        &server,
        &format!(
            "{OPEN}
# Nobody is connected to the disk that was filled at the start.
h.shutdown()
def begins(i):
    return b'g' * 512 if i % 3 == 2 else bytes(512)
open_disk('c0').pwrite(b'x' * 512, 0)
kept = open_disk('c1')
assert open_disk('view').pread(512, 0) == b'g' * 512
for i in range(2, 600):
    assert open_disk(f'c{{i}}').pread(512, 0) == begins(i)
import http.client, json, socket, time
def live():
    c = http.client.HTTPConnection('memnbd')
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.connect('control')
    c.request('GET', '{DISKS}')
    return {{disk['name'] for disk in json.load(c.getresponse()) if disk['state'] == 'live'}}
end = time.monotonic() + 60
while len(live()) > 500 and time.monotonic() < end:
    time.sleep(0.1)
assert len(live()) <= 500 and {{'disk', 'c0', 'c1'}} <= live()
assert kept.pread(512, 0) == bytes(512)
c = http.client.HTTPConnection('memnbd')
c.sock = socket.socket(socket.AF_UNIX)
c.sock.connect('control')
c.request('GET', '{EXPORTS}/view')
assert json.load(c.getresponse())['state'] == 'closed'
assert open_disk('view').pread(512, 0) == b'g' * 512
for i in range(1, 600):
    assert open_disk(f'c{{i}}').pread(512, 0) == begins(i)
assert open_disk('c0').pread(512, 0) == b'x' * 512
assert open_disk('disk').pread(512, 0) == b'\\5' * 512
"
        ),
    );
}
