//! Changing the filters of disks in use.

use serde_json::json;

use super::{Answer, DISKS, OPEN, control, controlled, http, under_clients};
use crate::support::{Server, nbdsh, require};

fn patch(server: &Server, disk: &str, body: &serde_json::Value) -> Answer {
    http(server, "PATCH", &format!("{DISKS}/{disk}"), Some(&body.to_string()))
}

#[test]
fn filters_come_and_go_under_connected_clients() {
    require!("nbdsh");
    let server = controlled(&["64M"]);
    let tools = under_clients();
    nbdsh(
        &server,
        &format!(
            "{OPEN}{tools}
def use(index, at, length, disk):
    data = os.urandom(length)
    disk.pwrite(data, at)
    assert disk.pread(length, at) == data
    disk.zero(length, at)
    assert disk.pread(length, at) == bytes(length)
def change(turn):
    memnbd('update', 'disk', '64M', '--filter=delay', 'delay-write=1ms')
    memnbd('update', 'disk', '64M', '--filter=error', '--filter=delay', 'delay-write=1ms')
    memnbd('update', 'disk', '64M', '--filter=error')
    memnbd('update', 'disk', '64M')
h.pwrite(b'kept', 60 << 20)
under_clients(lambda index: [open_disk('disk')], use, change)
assert h.pread(4, 60 << 20) == b'kept'
"
        ),
    );
    let shown = http(&server, "GET", &format!("{DISKS}/disk"), None).json();
    assert_eq!(shown["spec"]["filters"], json!([]));
    assert!(shown["generation"].as_u64() >= Some(4), "{shown}");
}

#[test]
fn added_filter_acts_at_once_and_is_gone_when_it_is_removed() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    control(&server, &["create", "a", "1M", "--label", "k=v"]).success();
    let tools = under_clients();
    nbdsh(
        &server,
        &format!(
            "{OPEN}{tools}
a = open_disk('a')
a.pwrite(b'x' * 512, 0)
def fails():
    try:
        a.pwrite(b'y' * 512, 512)
        return False
    except nbd.Error as error:
        return error.errno == 'ENOSPC'
memnbd('update', 'a', '1M', '--filter=error', 'error=ENOSPC', 'error-pwrite-rate=1')
assert fails()
memnbd('snapshot', 'a', 's')
assert fails()
memnbd('update', 'a', '1M', '--filter=error', '--filter=error', 'error=ENOSPC')
assert not fails()
memnbd('update', 'a', '1M')
memnbd('clone', 's', 'c', '--filter=delay')
memnbd('update', 'c')
memnbd('reset', 'c')
assert a.pread(512, 0) == b'x' * 512 and a.pread(512, 512) == b'y' * 512
c = open_disk('c')
assert c.pread(512, 0) == b'x' * 512 and c.pread(512, 512) == bytes(512)
"
        ),
    );
    let spec = http(&server, "GET", &format!("{DISKS}/a"), None).json()["spec"].clone();
    assert_eq!((&spec["filters"], &spec["labels"]), (&json!([]), &json!({"k": "v"})));
}

#[test]
fn what_cannot_change_in_use_is_told() {
    let server = controlled(&["1M"]);
    control(&server, &["create", "w", "--filter=delay", "--filter=cow", "1M"]).success();
    for (disk, body, status, words) in [
        ("disk", json!({"parameters": ["2M"]}), 409, "parameters of the backend"),
        (
            "disk",
            json!({"filters": ["cow"], "parameters": ["1M"]}),
            409,
            "keeps content of its own",
        ),
        ("disk", json!({"filters": ["offset"], "parameters": ["1M", "offset=4k"]}), 409, "size"),
        ("disk", json!({"filters": ["readonly"], "parameters": ["1M"]}), 409, "told otherwise"),
        ("disk", json!({"filters": ["dealy"]}), 400, "delay"),
        ("disk", json!({"filters": ["./x.wasm"]}), 400, "granted"),
        ("disk", json!({"filters": ["memory"]}), 400, "not a filter"),
        ("disk", json!({"filters": vec!["error"; 17]}), 400, "at most 16"),
        ("disk", json!({"component": "data"}), 409, "holds something else"),
        ("disk", json!({"component": "nul", "replace": true}), 400, "null"),
        ("disk", json!({"component": "./x.wasm", "replace": true}), 400, "granted"),
        ("disk", json!({"parameters": ["2M"], "replace": true}), 409, "size"),
        ("disk", json!({"component": "pattern", "replace": true}), 409, "was not replaced"),
        ("w", json!({"filters": ["delay"]}), 409, "keep content of their own"),
        ("w", json!({"filters": ["cow", "delay"]}), 409, "keep content of their own"),
        ("x", json!({}), 404, "no disk"),
    ] {
        let answer = patch(&server, disk, &body);
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{body}: {problem}");
        assert!(problem.contains(words), "{body}: {problem}");
    }
    // The same parameters may be written in another way.
    let filtered = patch(&server, "w", &json!({"filters": ["cow"], "parameters": ["size=1024k"]}));
    assert_eq!((filtered.status, &filtered.json()["generation"]), (200, &json!(1)));
    let labels = patch(&server, "disk", &json!({"labels": {"a": "b"}}));
    assert_eq!((labels.status, &labels.json()["generation"]), (200, &json!(0)));
    let filtered = patch(&server, "w", &json!({"filters": ["error", "cow"]}));
    assert_eq!((filtered.status, &filtered.json()["generation"]), (200, &json!(2)));
}

#[test]
fn disks_begin_anew_of_something_else_under_connected_clients() {
    require!("nbdsh");
    let server = controlled(&["64M"]);
    let tools = under_clients();
    nbdsh(
        &server,
        &format!(
            "{OPEN}{tools}
def use(index, at, length, disk):
    disk.pwrite(bytes([index + 1]) * length, at)
    # What was written is there, or the disk has begun anew.
    assert not disk.pread(length, at).strip(bytes([0, index + 1]))
    disk.flush()
def change(turn):
    memnbd('update', 'disk', '--replace', '64M', 'allocator=zstd')
    memnbd('update', 'disk', '--replace', '64M', '--filter=delay', 'delay-write=1ms')
    memnbd('update', 'disk', '--replace')
    memnbd('update', 'disk', '--replace', '64M')
h.pwrite(b'gone', 60 << 20)
under_clients(lambda index: [open_disk('disk')], use, change)
assert h.pread(4, 60 << 20) == bytes(4)
h.pwrite(b'mine', 60 << 20)
assert open_disk('disk').pread(4, 60 << 20) == b'mine'
"
        ),
    );
    let shown = http(&server, "GET", &format!("{DISKS}/disk"), None).json();
    assert!(shown["generation"].as_u64() >= Some(20), "{shown}");
    // What a snapshot holds stays, and a clone can begin again with it, or with something else.
    control(&server, &["snapshot", "disk", "s"]).success();
    control(&server, &["clone", "s", "c"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}{tools}
c = open_disk('c')
c.pwrite(b'more', 60 << 20)
memnbd('update', 'c', '--replace')
assert c.pread(4, 60 << 20) == b'mine'
memnbd('update', 'c', '--replace', '64M')
assert c.pread(4, 60 << 20) == bytes(4)
assert h.pread(4, 60 << 20) == b'mine'
"
        ),
    );
    let spec = http(&server, "GET", &format!("{DISKS}/c"), None).json()["spec"].clone();
    assert_eq!((&spec["component"], spec.get("snapshot")), (&json!("memory"), None));
}
