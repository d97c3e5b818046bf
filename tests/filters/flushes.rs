//! The filter `flush`, whose flushes fail or lie.

use std::fs;

use tempfile::TempDir;

use crate::backends::served;
use crate::mistakes::complains;
use crate::support::{Server, client, memnbd, nbdsh, require, run};

/// Python code that returns what a call fails with.
const ERRNO: &str = "
def errno(call):
    try:
        call()
    except nbd.Error as error:
        return error.errno
";

fn flushing(parameters: &[&str], code: &str) -> String {
    let arguments = [&["--filter=flush", "memory", "4M"], parameters].concat();
    nbdsh(&Server::start(&arguments), &[ERRNO, code].concat())
}

#[test]
fn failed_flush_keeps_the_data() {
    require!("nbdsh");
    let code = "
h.pwrite(b'x' * 5000, 100)
print([errno(h.flush) for n in range(7)])
assert h.pread(5000, 100) == b'x' * 5000
";
    let every_third = flushing(&["flush-nth=3"], code);
    assert_eq!(every_third, "[None, None, 'EIO', None, None, 'EIO', None]\n");
    let once = flushing(&["flush-once=true", "flush-error=ENOSPC"], code);
    assert_eq!(once, "['ENOSPC', None, None, None, None, None, None]\n");
    let fua = "
print(errno(lambda: h.pwrite(b'x', 0, nbd.CMD_FLAG_FUA)), errno(lambda: h.pwrite(b'x', 0)))
";
    assert_eq!(flushing(&["flush-once=true"], fua), "EIO None\n");
    let states =
        ["flush-state=2", "flush-set-state=pwrite:1:2:1M:512", "flush-set-state=flush:2:1"];
    let code = "
outcomes = [errno(h.flush)]
h.pwrite(b'x', 0)
outcomes.append(errno(h.flush))
h.pwrite(b'x', 1 << 20)
outcomes += [errno(h.flush), errno(h.flush)]
print(outcomes)
";
    assert_eq!(flushing(&states, code), "[None, None, 'EIO', None]\n");
}

#[test]
fn all_flushes_fail() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "-", "--filter=flush", "memory", "1M"]);
    let code = "
for n in range(3):
    try:
        h.flush()
        print(\"flushed\")
    except nbd.Error as error:
        print(error.errno)
";
    command.args(["--run", &format!("nbdsh -u \"$uri\" -c '{code}'")]);
    // The last flush of the server fails as well, and with it the program.
    let finished = run(command.env("PATH", "/usr/bin:/bin"));
    assert_eq!(finished.stdout, "EIO\nEIO\nEIO\n", "{finished}");
}

/// The program that ignores the error has lost what it wrote, and the next flush says nothing of it.
#[test]
fn dropped_writes_are_lost_though_later_flushes_succeed() {
    require!("nbdsh");
    let code = "
h.pwrite(b'a' * 8192, 0)
h.flush()
h.pwrite(b'b' * 4096, 4096)
h.pwrite(b'c' * 300000, 1 << 20)
assert h.pread(4096, 4096) == b'b' * 4096
assert errno(h.flush) == 'EIO'
assert errno(h.flush) is None
assert h.pread(8192, 0) == b'a' * 8192
assert h.pread(300000, 1 << 20) == bytes(300000)
h.pwrite(b'd' * 4096, 0)
h.flush()
assert h.pread(4096, 0) == b'd' * 4096
";
    flushing(&["flush-mode=drop", "flush-nth=2", "flush-once=true"], code);
    flushing(
        &["flush-mode=drop"],
        "assert [errno(h.flush) for n in range(3)] == ['EIO', None, None]",
    );
}

#[test]
fn what_a_lying_disk_has_is_not_beneath() {
    require!("nbdsh");
    let beneath = |parameters: &[&str]| {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("disk");
        fs::write(&file, vec![0; 1 << 20]).unwrap();
        let arguments = [&["--filter=flush", "file", "disk"], parameters].concat();
        let script = r#"nbdsh -u "$uri" -c 'h.pwrite(b"x" * 200000, 0)' -c 'h.flush()' \
            -c 'assert h.pread(200000, 0) == b"x" * 200000'"#;
        served("memnbd", directory.path(), &arguments, script);
        fs::read(&file).unwrap().iter().filter(|byte| **byte == b'x').count()
    };
    assert_eq!(beneath(&["flush-mode=lie"]), 0);
    assert_eq!(beneath(&["flush-mode=lie", "flush-cache=64k"]), 200_000, "more than is cached");
    assert_eq!(beneath(&["flush-mode=lie", "flush-nth=2"]), 200_000, "the first is true");
    assert_eq!(beneath(&["flush-rate=0"]), 200_000);
}

#[test]
fn cached_data_are_no_holes() {
    require!("nbdinfo", "nbdcopy");
    let directory = TempDir::new().unwrap();
    let script = r#"nbdsh -u "$uri" -c 'h.pwrite(b"x" * 100000, 1 << 20)' && \
        nbdinfo --map "$uri" && nbdcopy "$uri" copy"#;
    let arguments = ["--filter=flush", "memory", "4M", "flush-mode=lie"];
    let printed = served("memnbd", directory.path(), &arguments, script);
    let map: Vec<Vec<&str>> =
        printed.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        map,
        [["0", "1048576", "3"], ["1048576", "102400", "0"], ["1150976", "3043328", "3"]]
    );
    let copy = fs::read(directory.path().join("copy")).unwrap();
    assert_eq!(copy.iter().filter(|byte| **byte == b'x').count(), 100_000);
}

#[test]
fn lying_disk_passes_verification_with_four_connections() {
    require!("fio");
    for cache in ["flush-cache=1M", "flush-cache=64M"] {
        let server = Server::start(&["--filter=flush", "memory", "64M", "flush-mode=lie", cache]);
        let mut command = client(&server, "fio");
        command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
        command.arg(format!("--uri={}", server.uri()));
        command.args(["--rw=randwrite", "--bsrange=512-64k", "--verify=crc32c", "--numjobs=4"]);
        command.args(["--iodepth=16", "--size=4M", "--offset_increment=12M", "--thread"]);
        run(&mut command).success();
    }
}

#[test]
fn mistakes_are_told() {
    for (parameter, words) in [
        ("flush-mode=lies", "fail, drop, lie"),
        ("flush-error=EBADF", "EPERM"),
        ("flush-nth=0", "flush-nth"),
    ] {
        complains(2, &["--filter=flush", "memory", "1M", parameter], &[words]);
    }
    complains(2, &["--filter=flush", "memory", "1M", "flush-range=0:1"], &["\"flush-range\""]);
}
