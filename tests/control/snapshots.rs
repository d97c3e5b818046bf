//! Snapshots, clones and resets of disks in use.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{DISKS, OPEN, control, controlled, controlled_in, http, put};
use crate::support::{Server, nbdsh, require, run};

const SNAPSHOTS: &str = "/v1/tenants/default/snapshots";

/// Tells what a block is full of.
const DISK: &str = "
import subprocess, threading
def of(name, at):
    data = open_disk(name).pread(4096, at)
    assert data == data[:1] * 4096, (name, at)
    return data[0]
";

fn script(server: &Server, text: &str) {
    nbdsh(server, &format!("{OPEN}{DISK}{text}"));
}

fn snapshot(server: &Server, name: &str, body: &Value) -> super::Answer {
    http(server, "PUT", &format!("{SNAPSHOTS}/{name}"), Some(&body.to_string()))
}

fn reset(server: &Server, disk: &str, body: &Value) -> super::Answer {
    http(server, "POST", &format!("{DISKS}/{disk}/reset"), Some(&body.to_string()))
}

#[test]
fn clones_begin_with_the_snapshot_and_go_their_own_way() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    control(&server, &["create", "golden", "64M"]).success();
    script(&server, "open_disk('golden').pwrite(b'\\1' * 8192, 0)");
    control(&server, &["snapshot", "golden", "clean"]).success();
    script(&server, "open_disk('golden').pwrite(b'\\2' * 4096, 0)");
    control(&server, &["clone", "clean", "a"]).success();
    control(&server, &["clone", "clean", "b", "--label", "k=v"]).success();
    control(&server, &["clone", "clean", "r", "--read-only"]).success();
    script(
        &server,
        "
a, b = open_disk('a'), open_disk('b')
assert a.get_size() == 64 << 20
a.pwrite(b'\\3' * 4096, 4096)
b.zero(4096, 4096)
assert [of('golden', 0), of('golden', 4096)] == [2, 1]
assert [of('a', 0), of('a', 4096)] == [1, 3]
assert [of('b', 0), of('b', 4096)] == [1, 0]
r = open_disk('r')
assert r.is_read_only()
assert [of('r', 0), of('r', 4096)] == [1, 1]
",
    );
    // What is needed stays.
    control(&server, &["rm", "golden"]).success();
    control(&server, &["rm", "--snapshot", "clean"]).success();
    script(
        &server,
        "assert [of('a', 0), of('a', 4096), of('b', 0), of('r', 4096)] == [1, 3, 1, 1]",
    );
    assert_eq!(control(&server, &["snapshots"]).success().lines().count(), 1);
    let error = control(&server, &["clone", "clean", "c"]).failure(1);
    assert!(error.contains("there is no snapshot \"clean\""), "{error}");
    // A clone of a clone.
    control(&server, &["snapshot", "a", "second"]).success();
    control(&server, &["clone", "second", "c"]).success();
    script(&server, "assert [of('c', 0), of('c', 4096)] == [1, 3]");
    let listed = control(&server, &["ls"]).success();
    assert!(listed.contains("snapshot clean") && listed.contains("snapshot second"), "{listed}");
}

#[test]
fn snapshots_hold_a_moment_of_all_connections() {
    require!("nbdsh");
    let server = controlled(&["256M"]);
    // Each writes a number to one block, and then to another one, in another shard. No snapshot may have
    // the second without the first.
    let program = env!("CARGO_BIN_EXE_memnbd");
    script(
        &server,
        &format!(
            "
stop, errors = threading.Event(), []
def write(index):
    try:
        disk, n = open_disk('disk'), 0
        while not stop.is_set():
            n += 1
            block = n.to_bytes(8, 'big') * 512
            disk.pwrite(block, index << 20)
            disk.pwrite(block, (128 + 7 * index) << 20)
            assert disk.pread(4096, index << 20) == block
            if n % 5 == 0:
                disk.zero(4096, (128 + 7 * index) << 20)
                disk.pwrite(block, (128 + 7 * index) << 20)
    except BaseException as error:
        errors.append(error)
def memnbd(*words):
    subprocess.run(['{program}', '--host', 'unix:control', *words], check=True)
threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for i in range(30):
    memnbd('snapshot', 'disk', f's{{i}}')
stop.set()
for thread in threads:
    thread.join()
assert not errors, errors
before = [0] * 4
for i in range(30):
    memnbd('clone', f's{{i}}', f'c{{i}}')
    clone = open_disk(f'c{{i}}')
    for index in range(4):
        first, second = (clone.pread(4096, at << 20) for at in (index, 128 + 7 * index))
        first, second = (int.from_bytes(block[:8], 'big') for block in (first, second))
        assert before[index] <= first and second in (0, first - 1, first), (i, first, second)
        before[index] = first
assert all(before)
"
        ),
    );
}

#[test]
fn reset_gives_a_clone_back_its_beginning_under_its_clients() {
    require!("nbdsh");
    let server = controlled(&["8M"]);
    script(&server, "open_disk('disk').pwrite(b'\\1' * 4096, 0)");
    control(&server, &["snapshot", "disk", "clean"]).success();
    control(&server, &["clone", "clean", "a", "--filter=error", "error=ENOSPC"]).success();
    control(&server, &["fault", "a", "set", "error-pwrite-rate=1"]).success();
    let program = env!("CARGO_BIN_EXE_memnbd");
    script(
        &server,
        &format!(
            "
def memnbd(*words):
    subprocess.run(['{program}', '--host', 'unix:control', *words], check=True)
a = open_disk('a')
try:
    a.pwrite(b'\\2' * 4096, 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'ENOSPC'
memnbd('reset', 'a')
# The filter is as it was at the beginning, too.
for i in range(10):
    a.pwrite(b'\\2' * 4096, 0)
    a.pwrite(b'\\3' * 4096, 1 << 20)
    memnbd('reset', 'a')
    assert a.pread(4096, 0) == b'\\1' * 4096
    assert a.pread(4096, 1 << 20) == bytes(4096)
# The disk itself, to what it was.
disk = open_disk('disk')
disk.pwrite(b'\\4' * 4096, 0)
memnbd('reset', '--to', 'clean', 'disk')
assert disk.pread(4096, 0) == b'\\1' * 4096
disk.pwrite(b'\\5' * 4096, 0)
assert a.pread(4096, 0) == b'\\1' * 4096
"
        ),
    );
}

#[test]
fn snapshots_are_taken_beneath_filters() {
    require!("nbdsh");
    let server = controlled(&["16M"]);
    let create = ["create", "a", "16M", "--filter=error", "--filter=offset", "offset=1M"];
    control(&server, &create).success();
    let cow = ["create", "w", "16M", "--filter=noextents", "--filter=cow", "--filter=offset"];
    control(&server, &[&cow[..], &["offset=1M"]].concat()).success();
    script(
        &server,
        "
open_disk('a').pwrite(b'\\1' * 4096, 0)
open_disk('w').pwrite(b'\\2' * 4096, 0)
",
    );
    for disk in ["a", "w"] {
        control(&server, &["snapshot", disk, disk]).success();
        control(&server, &["clone", disk, &format!("of-{disk}")]).success();
    }
    script(
        &server,
        "
# Beneath offset, which adds 1 MiB.
assert open_disk('of-a').get_size() == 16 << 20
assert [of('of-a', 0), of('of-a', 1 << 20)] == [0, 1]
# cow keeps content of its own.
assert open_disk('of-w').get_size() == 15 << 20
assert of('of-w', 0) == 2
a, w = open_disk('a'), open_disk('w')
a.pwrite(b'\\3' * 4096, 0)
w.pwrite(b'\\4' * 4096, 0)
assert [of('of-a', 1 << 20), of('of-w', 0)] == [1, 2]
",
    );
    control(&server, &["reset", "a", "--to", "a"]).success();
    control(&server, &["reset", "w", "--to", "w"]).success();
    script(&server, "assert [of('a', 0), of('w', 0)] == [1, 2]");
}

#[test]
fn disks_in_files_go_on_in_memory_only_if_that_is_accepted() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), vec![7; 65536]).unwrap();
    let server = controlled_in(
        directory,
        &["--grant=file:image=file", "--grant=read-only-file:fixed=file", "1M"],
    );
    control(&server, &["create", "a", "file", "image"]).success();
    let error = control(&server, &["snapshot", "a", "s"]).failure(1);
    assert!(error.contains("writes to files") && error.contains("in_memory"), "{error}");
    control(&server, &["snapshot", "disk", "megabyte"]).success();
    let error = control(&server, &["reset", "a", "--to", "megabyte"]).failure(1);
    assert!(error.contains("writes to files"), "{error}");
    script(&server, "open_disk('a').pwrite(b'\\1' * 4096, 0)");
    control(&server, &["snapshot", "a", "s", "--in-memory"]).success();
    script(
        &server,
        "
a = open_disk('a')
a.pwrite(b'\\2' * 4096, 0)
a.flush()
assert [of('a', 0), of('a', 4096)] == [2, 7]
",
    );
    let content = std::fs::read(server.path("file")).unwrap();
    assert!(content[..4096].iter().all(|&byte| byte == 1), "as it was at the snapshot");
    // What is only read needs no more than itself.
    control(&server, &["create", "fixed", "file", "fixed"]).success();
    control(&server, &["snapshot", "fixed", "t"]).success();
    control(&server, &["clone", "t", "c"]).success();
    script(
        &server,
        "open_disk('c').pwrite(b'\\3' * 4096, 0)\nassert [of('c', 0), of('fixed', 0)] == [3, 1]",
    );
}

#[test]
fn mistakes_with_snapshots_are_told() {
    let server = controlled(&["1M"]);
    control(&server, &["create", "small", "64k"]).success();
    control(&server, &["create", "tiny", "4k"]).success();
    control(&server, &["create", "upper", "--filter=cow", "64k", "overlay=small"]).success();
    assert_eq!(snapshot(&server, "clean", &json!({"disk": "disk"})).status, 201);
    assert_eq!(
        snapshot(&server, "clean", &json!({"disk": "disk"})).status,
        200,
        "it is there already"
    );
    let wrong = [
        (
            snapshot(&server, "clean", &json!({"disk": "small"})),
            409,
            "was taken of the disk \"disk\"",
        ),
        (snapshot(&server, "t", &json!({"disk": "dsik"})), 404, "did you mean \"disk\"?"),
        (snapshot(&server, "t", &json!({})), 422, "disk"),
        (snapshot(&server, "t", &json!({"disk": "upper"})), 409, "stands on the disk \"small\""),
        (snapshot(&server, "a%00b", &json!({"disk": "disk"})), 400, "255 bytes"),
        (reset(&server, "disk", &json!({})), 409, "did not begin with a snapshot"),
        (reset(&server, "disk", &json!({"snapshot": "claen"})), 404, "no snapshot \"claen\""),
        (
            reset(&server, "small", &json!({"snapshot": "clean"})),
            409,
            "another export stands on it",
        ),
        (reset(&server, "tiny", &json!({"snapshot": "clean"})), 409, "size"),
        (put(&server, "c", &json!({"snapshot": "claen"})), 404, "did you mean \"clean\"?"),
        (put(&server, "c", &json!({"snapshot": "clean", "component": "memory"})), 400, "not both"),
        (put(&server, "c", &json!({"snapshot": "clean", "parameters": ["1M"]})), 400, "snapshot"),
        (put(&server, "c", &json!({"snapshot": "clean", "parameters": ["size=1M"]})), 400, "size"),
        (
            http(&server, "DELETE", &format!("{SNAPSHOTS}/claen"), None),
            404,
            "no snapshot \"claen\"",
        ),
        (http(&server, "GET", &format!("{SNAPSHOTS}/claen"), None), 404, "no snapshot \"claen\""),
    ];
    for (index, (answer, status, words)) in wrong.into_iter().enumerate() {
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{index}: {problem}");
        assert!(problem.contains(words), "{index}: {problem}");
    }
    let shown = http(&server, "GET", &format!("{SNAPSHOTS}/clean"), None).json();
    assert_eq!((&shown["disk"], &shown["size"]), (&json!("disk"), &json!(1 << 20)));
}

#[test]
fn each_client_with_its_own_disk_leaves_nothing_to_take() {
    let server = controlled(&["--private", "1M"]);
    let error = control(&server, &["snapshot", "disk", "s"]).failure(1);
    assert!(error.contains("a device of its own"), "{error}");
}

#[test]
fn many_clones_of_a_snapshot_are_isolated() {
    require!("nbdsh");
    let server = controlled(&["1G"]);
    script(&server, "open_disk('disk').pwrite(b'\\1' * (1 << 20), 0)");
    control(&server, &["snapshot", "disk", "s"]).success();
    for index in 0..200 {
        assert_eq!(put(&server, &format!("c{index}"), &json!({"snapshot": "s"})).status, 201);
    }
    script(
        &server,
        "
clones = [open_disk(f'c{i}') for i in range(200)]
for i, clone in enumerate(clones):
    clone.pwrite(bytes([i + 2]) * 512, 4096 * i)
for i, clone in enumerate(clones):
    wanted = bytearray(b'\\1' * (1 << 20))
    wanted[4096 * i:4096 * i + 512] = bytes([i + 2]) * 512
    assert clone.pread(1 << 20, 0) == wanted, i
assert open_disk('disk').pread(1 << 20, 0) == b'\\1' * (1 << 20)
",
    );
}

#[test]
fn read_only_clone_is_a_copy_for_other_tools() {
    require!("nbdsh", "qemu-img");
    let server = controlled(&["8M"]);
    script(&server, "open_disk('disk').pwrite(b'\\1' * 70000, 4096)");
    control(&server, &["snapshot", "disk", "s"]).success();
    script(&server, "open_disk('disk').pwrite(b'\\2' * 70000, 4096)");
    control(&server, &["clone", "s", "saved", "--read-only"]).success();
    let uri = format!("nbd+unix:///saved?socket={}", server.path("socket").display());
    let image = server.path("image.qcow2").display().to_string();
    run(Command::new("qemu-img").args(["convert", "-O", "qcow2", &uri, &image])).success();
    control(&server, &["clone", "s", "again"]).success();
    let uri = format!("nbd+unix:///again?socket={}", server.path("socket").display());
    run(Command::new("qemu-img").args(["compare", &uri, &image])).success();
}

#[test]
fn events_tell_of_snapshots() {
    let server = controlled(&["1M"]);
    control(&server, &["snapshot", "disk", "s"]).success();
    control(&server, &["clone", "s", "c"]).success();
    control(&server, &["reset", "c"]).success();
    control(&server, &["update", "c", "--filter=delay"]).success();
    control(&server, &["rm", "--snapshot", "s"]).success();
    let told = control(&server, &["logs"]).success();
    let mut rest = told.as_str();
    for words in
        ["disk snapshot s taken, held for", "c reset to the snapshot s", "c given other filters"]
    {
        let at = rest.find(words).unwrap_or_else(|| panic!("{words} is not in {told}"));
        rest = &rest[at..];
    }
    assert!(rest.contains("disk snapshot s deleted"), "{told}");
}

#[test]
fn test_farm_gives_each_test_a_clone() {
    require!("nbdfuse", "mke2fs", "debugfs", "e2fsck", "python3");
    if !Path::new("/dev/fuse").exists() {
        // Containers rarely have it, and it cannot be installed.
        return;
    }
    let farm = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/ci-farm");
    let programs = Path::new(env!("CARGO_BIN_EXE_memnbd")).parent().unwrap();
    let mut command = Command::new(farm);
    command.args(["--tests", "4", "--size", "64", "--files", "8", "--bin"]).arg(programs);
    let printed = run(&mut command).success();
    for words in ["clones: 4 tests in", "copies: 4 tests in", "reset"] {
        assert!(printed.contains(words), "{printed}");
    }
}
