//! The filters `badblocks` and `ddrescue`: parts of a disk that cannot be read.

use std::fs;

use tempfile::TempDir;

use super::saying;
use crate::backends::served;
use crate::mistakes::complains;
use crate::support::{Server, client, memnbd, nbdsh, require, run};

/// A map of a disk of 1 MiB.
const MAP: &str = "# Mapfile. Created by GNU ddrescue version 1.27
# current_pos  current_status  current_pass
0x00100000     +               1
#      pos        size  status
0x00000000  0x00040000  +
0x00040000  0x00000200  -
0x00040200  0x00001E00  /
0x00042000  0x0003E000  +
0x00080000  0x00040000  ?
0x000C0000  0x00040000  +
";

/// Prints what reads at many places end with.
const READS: &str = r#"
print(h.get_size(), h.is_read_only(), h.can_cache(), h.can_trim(), h.can_zero())
for offset in range(0, 1 << 20, 1 << 12):
    for length in 512, 4096, 8192:
        if offset + length <= 1 << 20:
            say((offset, length), lambda: h.pread(length, offset))
for offset, length in [(0x3fe00, 512), (0x3fe00, 513), (0x40000, 512), (0x41fff, 1), (0x41fff, 2)]:
    say((offset, length), lambda: h.pread(length, offset))
say("write", lambda: h.pwrite(bytes(512), 0))
"#;

#[test]
fn rescued_disks_are_those_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    for map in
        [MAP, "0 +\n0 1048576 +\n", "0 +\n0 0x1000 -\n", "# nothing\n", "0 ?\n04000 0x200 +\n"]
    {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("map"), map).unwrap();
        let arguments = ["--filter=ddrescue", "memory", "1M", "ddrescue-mapfile=map"];
        let [ours, theirs] = ["memnbd", "nbdkit"]
            .map(|program| served(program, directory.path(), &arguments, &saying(READS)));
        assert_eq!(ours, theirs, "{map}");
    }
}

#[test]
fn image_is_copied_as_far_as_it_was_rescued() {
    require!("qemu-io");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("map"), MAP).unwrap();
    fs::write(directory.path().join("disk"), vec![7; 1 << 20]).unwrap();
    let arguments = ["--filter=ddrescue", "file", "disk", "ddrescue-mapfile=map"];
    let script = r#"qemu-io -r -f raw "$uri" -c "read -P 7 0 256k" -c "read -P 7 0x42000 0x3e000" &&
        ! qemu-io -r -f raw "$uri" -c "read 256k 512" 2>&1"#;
    let printed = served("memnbd", directory.path(), &arguments, script);
    assert!(printed.contains("read failed: Input/output error"), "{printed}");
    assert!(!printed.contains("verification failed"), "{printed}");
}

#[test]
fn bad_sectors_are_mended_by_writes() {
    require!("nbdsh");
    let arguments =
        ["--filter=badblocks", "memory", "1M", "badblocks-range=64k:1k", "badblocks-range=512k:1"];
    let code = "
def errno(call):
    try:
        call()
    except nbd.Error as error:
        return error.errno
assert errno(lambda: h.pread(1 << 20, 0)) == 'EIO'
assert errno(lambda: h.pread(65536, 0)) is None
assert errno(lambda: h.cache(512, 65536)) == 'EIO'
assert errno(lambda: h.pread(1, 65536)) == 'EIO'
assert errno(lambda: h.pwrite(b'x' * 100, 65536)) == 'EIO', 'a part of a sector'
h.pwrite(b'x' * 512, 65536)
assert h.pread(512, 65536) == b'x' * 512
assert errno(lambda: h.pread(1024, 65536)) == 'EIO'
h.zero(4096, 65536)
assert h.pread(1024, 65536) == bytes(1024)
assert errno(lambda: h.pread(1, 524288 + 511)) == 'EIO'
h.pwrite(bytes(1 << 19), 1 << 19)
assert h.pread(1 << 20, 0) == bytes(1 << 20)
";
    nbdsh(&Server::start(&arguments), code);
    let never = [&arguments[..], &["badblocks-mend=false"]].concat();
    let code = "
for call in [lambda: h.pwrite(bytes(512), 65536), lambda: h.zero(1024, 65536)]:
    try:
        call()
        assert False
    except nbd.Error as error:
        assert error.errno == 'EIO'
h.trim(1 << 20, 0)
h.pwrite(b'x' * 65536, 0)
assert h.pread(65536, 0) == b'x' * 65536
";
    nbdsh(&Server::start(&never), code);
}

#[test]
fn bad_sectors_are_chosen_by_the_seed() {
    require!("nbdsh");
    let bad = |parameters: &[&str]| {
        let arguments = [&["--filter=badblocks", "memory", "1M"], parameters].concat();
        nbdsh(
            &Server::start(&arguments),
            "
bad = []
for offset in range(0, 1 << 20, 512):
    try:
        h.pread(512, offset)
    except nbd.Error as error:
        bad.append(offset // 512)
print(*bad)
",
        )
    };
    let chosen = bad(&["badblocks-count=20", "badblocks-seed=5"]);
    assert_eq!(chosen.split_whitespace().count(), 20);
    assert_eq!(bad(&["badblocks-count=20", "badblocks-seed=5"]), chosen);
    assert_ne!(bad(&["badblocks-count=20", "badblocks-seed=6"]), chosen);
    let large = bad(&["badblocks-count=3", "badblocks-sector=4k"]);
    assert_eq!(large.split_whitespace().count(), 24);
    let rate = bad(&["badblocks-rate=10%", "badblocks-seed=5"]).split_whitespace().count();
    assert!((150..260).contains(&rate), "{rate}");
    let map = Server::start(&["--filter=badblocks", "memory", "1M", "badblocks-count=2048"]);
    nbdsh(&map, "h.pwrite(bytes(1 << 20), 0); assert h.pread(1 << 20, 0) == bytes(1 << 20)");
}

#[test]
fn map_file_says_which_sectors_are_bad() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("map"), MAP).unwrap();
    let arguments = ["-U", "socket", "--filter=badblocks", "memory", "1M", "badblocks-mapfile=map"];
    let mut command = memnbd(directory.path(), arguments);
    let server = Server::spawn(directory, &mut command);
    nbdsh(
        &server,
        "
for offset in 0x40000, 0x40200, 0x80000, 0xbffff:
    try:
        h.pread(1, offset)
        assert False
    except nbd.Error as error:
        assert error.errno == 'EIO'
h.pwrite(b'x' * 0x2000, 0x40000)
h.pwrite(b'x' * 0x40000, 0x80000)
assert len(h.pread(1 << 20, 0)) == 1 << 20
",
    );
}

/// What fio writes and verifies, over sectors that are bad until it writes them.
#[test]
fn rewritten_disk_passes_verification() {
    require!("fio");
    let arguments = ["--filter=badblocks", "memory", "16M", "badblocks-count=1000"];
    let server = Server::start(&arguments);
    let mut command = client(&server, "fio");
    command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
    command.arg(format!("--uri={}", server.uri()));
    command.args(["--rw=randwrite", "--bs=4k", "--verify=crc32c", "--iodepth=16", "--size=16M"]);
    run(&mut command).success();
}

#[test]
fn mistakes_are_told() {
    for (parameter, code, words) in [
        ("badblocks-sector=500", 1, "badblocks-sector=500 must be a power of two"),
        ("badblocks-count=3000", 1, "more than the 2048 sectors"),
        ("badblocks-rate=2", 2, "badblocks-rate"),
        ("badblocks-range=5", 1, "badblocks-range must be OFFSET:LENGTH"),
        ("badblocks-mapfile=missing", 1, "missing"),
    ] {
        complains(code, &["--filter=badblocks", "memory", "1M", parameter], &[words]);
    }
    complains(2, &["--filter=ddrescue", "memory", "1M"], &["the parameter \"ddrescue-mapfile\""]);
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("map"), "0 +\n0 1M +\n").unwrap();
    let arguments = ["-U", "socket", "--filter=ddrescue", "memory", "1M", "ddrescue-mapfile=map"];
    let error = run(&mut memnbd(directory.path(), arguments)).failure(1);
    assert!(error.contains("line 2 of the map file must be a position"), "{error}");
}
