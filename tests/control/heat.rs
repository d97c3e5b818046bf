//! Where disks are read and written.

use serde_json::{Value, json};

use super::{DISKS, OPEN, control, controlled, http, put};
use crate::support::{Server, nbdsh, require};

const MIB: u64 = 1 << 20;

fn heat(server: &Server, disk: &str) -> Value {
    http(server, "GET", &format!("{DISKS}/{disk}/heat"), None).json()
}

/// The parts that are not zero, and what they are.
fn warm(of: &Value) -> Vec<(usize, u64)> {
    let all = of.as_array().unwrap().iter().map(|bytes| bytes.as_u64().unwrap());
    all.enumerate().filter(|&(_, bytes)| bytes > 0).collect()
}

#[test]
fn requests_show_where_they_are_and_nowhere_else() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    put(&server, "a", &json!({"parameters": ["1G"]}));
    put(&server, "b", &json!({"parameters": ["1G"]}));
    let closed = http(&server, "GET", &format!("{DISKS}/a/heat"), None);
    assert_eq!(closed.status, 409);
    assert_eq!(closed.problem(), "the disk \"a\": the disk is not open");
    let connected =
        "import nbd\nfor name in ['a', 'b']:\n    c = open_disk(name)\n    c.pread(512, 0)\n";
    nbdsh(&server, &format!("{OPEN}{connected}"));
    let first = heat(&server, "a");
    let lengths = ["read", "written"].map(|of| first[of].as_array().unwrap().len());
    assert_eq!(
        (lengths, &first["size"], &first["cell"]),
        ([1024; 2], &json!(1 << 30), &json!(MIB))
    );
    assert_eq!((&first["half_life"], &first["kept"]), (&json!(10), &json!(60)));
    assert_eq!([warm(&first["read"]), warm(&first["written"])], [[]; 2], "nobody looked before");
    heat(&server, "b");
    let used = "
import nbd
c = open_disk('a')
c.pread(4096, 100 << 20)
c.pread(8192, (200 << 20) - 4096)
c.pwrite(b'x' * 65536, 300 << 20)
c.zero(3 << 20, 400 << 20)
c.trim(1 << 20, 500 << 20)
c.cache(4096, 600 << 20)
c.block_status(1 << 20, 700 << 20, lambda *_: 0) if c.can_meta_context('base:allocation') else None
c.flush()
try:
    c.set_strict_mode(0)
    c.pread(4096, 1 << 30)
except nbd.Error:
    pass
c.shutdown()
";
    nbdsh(&server, &format!("{OPEN}{used}"));
    let found = heat(&server, "a");
    assert_eq!(warm(&found["read"]), [(100, 4096), (199, 4096), (200, 4096)]);
    let written = [(300, 65536), (400, MIB), (401, MIB), (402, MIB), (500, MIB)];
    assert_eq!(warm(&found["written"]), written);
    let other = heat(&server, "b");
    assert_eq!([warm(&other["read"]), warm(&other["written"])], [[]; 2], "it is another disk");
    // What is asked by another name is asked of the disk.
    control(&server, &["export", "a", "alias"]).success();
    let by_name = "import nbd\nc = open_disk('alias')\nc.pread(4096, 900 << 20)\nc.shutdown()\n";
    nbdsh(&server, &format!("{OPEN}{by_name}"));
    assert!(warm(&heat(&server, "a")["read"]).contains(&(900, 4096)));
    assert_eq!(http(&server, "GET", &format!("{DISKS}/no/heat"), None).status, 404);
}

#[test]
fn connected_clients_are_counted_from_when_somebody_looks() {
    require!("nbdsh", "curl");
    let server = controlled(&["64M"]);
    let code = "
import json, subprocess
def heat():
    path = 'http://memnbd/v1/tenants/default/disks/disk/heat'
    found = subprocess.run(['curl', '-s', '--unix-socket', 'control', path], capture_output=True)
    found = json.loads(found.stdout)
    return {kind: {at: n for at, n in enumerate(found[kind]) if n} for kind in ['read', 'written']}
h.pwrite(b'x' * 4096, 0)
assert heat() == {'read': {}, 'written': {}}
h.pwrite(b'x' * 4096, 1 << 20)
assert h.pread(4096, 2 << 20)
assert heat() == {'read': {32: 4096}, 'written': {16: 4096}}, heat()
h.pread(32 << 20, 0)
found = heat()
assert [at for at in found['read']] == list(range(512)), found
assert found['read'][0] == 65536, found
";
    nbdsh(&server, code);
}

#[test]
fn numbers_are_charged_to_the_disk() {
    require!("nbdsh");
    let server = controlled(&["1G"]);
    nbdsh(&server, "h.pread(512, 0)");
    let memory = || {
        let usage = http(&server, "GET", "/v1/tenants/default/usage", None).json();
        usage["disks"][0]["memory_bytes"].as_u64().unwrap()
    };
    let before = memory();
    heat(&server, "disk");
    assert_eq!(memory() - before, 32 << 10);
}
