//! The filter `silent`: requests that succeed and did something else.

use crate::mistakes::complains;
use crate::support::{Server, nbdsh, require};

/// Runs code with a disk whose sectors have their numbers, through a second connection that sees what is
/// beneath the filter.
fn with_fault(parameters: &str, code: &str) {
    let prepare = "
beneath = nbd.NBD()
beneath.set_export_name('disk')
beneath.connect_unix('socket')
sectors = lambda c, first, count: list(c.pread(count * 512, first * 512)[::512])
for sector in range(2048):
    beneath.pwrite(bytes([sector % 251]) * 512, sector * 512)
x = lambda sectors: b'\\xff' * (512 * sectors)
";
    let upper = format!("upper=silent,base=disk,{parameters}");
    let server = Server::start(&["--export", &upper, "--export", "disk=memory,1M"]);
    let connect = "
h = nbd.NBD()
h.set_export_name('upper')
h.connect_unix('socket')
";
    nbdsh(&server, &[connect, prepare, code].concat());
}

#[test]
fn phantom_writes_are_acknowledged_and_change_nothing() {
    require!("nbdsh");
    with_fault(
        "silent-nth=2",
        "
h.pwrite(x(1), 0)
h.pwrite(x(1), 512)
h.zero(512, 1024)
h.zero(512, 1536)
assert sectors(beneath, 0, 4) == [255, 1, 0, 3]
h.pwrite(x(1000), 512 * 1000)
h.pwrite(x(1000), 0, nbd.CMD_FLAG_FUA)
assert sectors(h, 0, 4) == [255, 1, 0, 3] and sectors(h, 1000, 1000) == [255] * 1000
",
    );
}

#[test]
fn torn_writes_change_the_first_sectors() {
    require!("nbdsh");
    with_fault(
        "silent-fault=torn-write,silent-once=true,silent-nth=2",
        "
h.pwrite(x(4), 0)
h.pwrite(x(8), 512 * 10)
h.pwrite(x(4), 512 * 20)
assert sectors(h, 0, 5) == [255] * 4 + [4]
assert sectors(h, 10, 10) == [255] * 4 + list(range(14, 20))
assert sectors(h, 20, 5) == [255] * 4 + [24]
",
    );
    with_fault(
        "silent-fault=torn-write,silent-rate=1,silent-sectors=1,silent-sector=4k",
        "
h.pwrite(x(16), 0)
assert sectors(h, 0, 10) == [255] * 8 + [8, 9]
h.pwrite(x(8), 1 << 16)
assert sectors(h, 128, 9) == [255] * 8 + [136]
",
    );
}

#[test]
fn misdirected_requests_reach_another_place() {
    require!("nbdsh");
    with_fault(
        "silent-fault=misdirected-write,silent-range=64k:1k,silent-distance=8k",
        "
h.pwrite(x(1), 0)
h.pwrite(x(1), 65536)
assert sectors(beneath, 0, 2) == [255, 1]
assert sectors(beneath, 128, 1) == [128] and sectors(beneath, 144, 2) == [255, 145]
",
    );
    with_fault(
        "silent-fault=misdirected-read,silent-rate=100%,silent-seed=1",
        "
read = [sectors(h, 7, 1)[0] for n in range(100)]
assert 7 not in read and len(set(read)) > 60
h.pwrite(x(1), 7 * 512)
assert sectors(beneath, 7, 1) == [255]
",
    );
}

#[test]
fn stale_reads_return_what_was_there_before() {
    require!("nbdsh");
    with_fault(
        "silent-fault=stale-read,silent-nth=2",
        "
h.pwrite(x(2), 0)
assert sectors(h, 0, 3) == [255, 255, 2]
assert sectors(h, 0, 3) == [0, 1, 2]
assert sectors(h, 100, 2) == [100, 101]
assert sectors(beneath, 0, 2) == [255, 255]
h.zero(512, 0)
assert sectors(h, 0, 2) == [0, 255]
assert sectors(h, 0, 2) == [255, 1]
",
    );
}

#[test]
fn same_seed_has_the_same_faults() {
    require!("nbdsh");
    let lost = |seed: &str| {
        let arguments = ["--filter=silent", "memory", "1M", "silent-rate=20%", seed];
        nbdsh(
            &Server::start(&arguments),
            "
for sector in range(200):
    h.pwrite(b'x' * 512, sector * 512)
print(h.pread(512 * 200, 0)[::512].count(0), h.pread(512 * 200, 0)[::512])
",
        )
    };
    let first = lost("silent-seed=1");
    assert_eq!(first, lost("silent-seed=1"));
    assert_ne!(first, lost("silent-seed=2"));
    let count: u32 = first.split_whitespace().next().unwrap().parse().unwrap();
    assert!((20..70).contains(&count), "{count} of 200");
}

#[test]
fn mistakes_are_told() {
    for (parameter, code, words) in [
        ("silent-fault=lost", 2, "phantom-write, torn-write"),
        ("silent-sector=500", 1, "silent-sector=500 must be a power of two"),
        ("silent-distance=0", 1, "it must be at least 1"),
        ("silent-rate=101%", 2, "silent-rate"),
    ] {
        complains(code, &["--filter=silent", "memory", "1M", parameter], &[words]);
    }
}
