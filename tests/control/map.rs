//! Maps of disks.

use serde_json::json;

use super::{DISKS, OPEN, control, controlled, http, put};
use crate::support::{nbdsh, require};

#[test]
fn map_says_what_is_stored_where() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    put(&server, "a", &json!({"parameters": ["16M"]}));
    let map = |query: &str| http(&server, "GET", &format!("{DISKS}/a/map{query}"), None);
    let closed = map("");
    assert_eq!(closed.status, 409);
    assert_eq!(closed.problem(), "the disk \"a\": the disk is not open");
    let write = "
import nbd
c = open_disk('a')
c.pwrite(b'x' * (2 << 20), 1 << 20)
c.pwrite(b'x' * (1 << 20), 15 << 20)
c.shutdown()
";
    nbdsh(&server, &format!("import nbd\n{OPEN}{write}"));
    const MIB: u64 = 1 << 20;
    let expected = json!({
        "size": 16 * MIB,
        "cell": 4 * MIB,
        "stored": [2 * MIB, 0, 0, MIB],
        "estimated": false,
    });
    assert_eq!(map("?cells=4").json(), expected);
    assert_eq!(map("").json()["stored"].as_array().unwrap().len(), 256);
    // A clone has what is beneath it.
    control(&server, &["snapshot", "a", "s"]).success();
    control(&server, &["clone", "s", "b"]).success();
    let script = "c = open_disk('b')\nc.pwrite(b'x', 5 << 20)\nc.shutdown()\n";
    nbdsh(&server, &format!("import nbd\n{OPEN}{script}"));
    let of_b = http(&server, "GET", &format!("{DISKS}/b/map?cells=4"), None).json();
    assert_eq!(of_b["stored"], json!([2 * MIB, 32 << 10, 0, MIB]), "{of_b}");
    for cells in ["0", "4097"] {
        let refused = map(&format!("?cells={cells}"));
        assert_eq!(refused.problem(), format!("cells={cells}: it is 1 to 4096"));
    }
    assert_eq!(map("?cells=x").status, 400);
    assert_eq!(map("?cell=1").status, 400);
    assert_eq!(http(&server, "GET", &format!("{DISKS}/no/map"), None).status, 404);
}

#[test]
fn map_of_a_fragmented_disk_is_an_estimate() {
    require!("nbdsh");
    let server = controlled(&["1G"]);
    let write = "
for i in range(0, 8192, 2):
    h.pwrite(b'x' * 32768, i * 32768)
";
    nbdsh(&server, write);
    let map = http(&server, "GET", &format!("{DISKS}/disk/map?cells=2"), None).json();
    assert_eq!(map["estimated"], true);
    assert_eq!(map["stored"][0], 1 << 28, "every other block of the beginning");
    assert_eq!(map["stored"][1], 0);
}
