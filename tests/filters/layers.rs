//! The filters by themselves, and which parameters are whose.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::saying;
use crate::backends::same;
use crate::mistakes::complains;
use crate::support::{Server, guest, memnbd, nbdsh, require, run};

/// Prints what a few requests end with.
pub(super) const OUTCOMES: &str = r#"
say("read", lambda: h.pread(512, 0))
say("write", lambda: h.pwrite(bytes(512), 0))
say("zero", lambda: h.zero(4096, 0))
say("trim", lambda: h.trim(4096, 0))
say("cache", lambda: h.cache(4096, 0))
say("flush", h.flush)
say("extents", lambda: h.block_status(4096, 0, lambda *a: 0))
"#;

#[test]
fn error_fails_what_nbdkits_does() {
    require!("nbdkit", "nbdsh");
    for parameters in [
        &["error-rate=0"][..],
        &["error-rate=100%"],
        &["error-rate=1", "error=ENOSPC"],
        &["error-pread-rate=1"],
        &["error-pwrite-rate=100%", "error-pwrite=ENOSPC"],
        &["error-rate=1", "error-pread-rate=0", "error-trim=EPERM"],
        &["error-zero-rate=1", "error=ENOMEM"],
        &["error-extents-rate=1"],
        &["error-cache-rate=1", "error-trim-rate=1", "error-trim=EINVAL"],
    ] {
        same(&[&["--filter=error", "memory", "1M"], parameters].concat(), &saying(OUTCOMES));
    }
}

#[test]
fn error_has_what_nbdkits_has_not() {
    require!("nbdsh");
    let parameters = ["error-nth=3", "error-once=true"];
    let server = Server::start(&[&["--filter=error", "memory", "1M"], &parameters[..]].concat());
    let failures = nbdsh(
        &server,
        "
failed = []
for n in range(1, 10):
    try:
        h.pread(512, n * 512)
    except nbd.Error as error:
        failed.append(n)
print(failed)
",
    );
    assert_eq!(failures, "[3]\n");
    let ranges = ["error-range=64k:4k", "error-range=512k:1", "error=ENOSPC"];
    let server = Server::start(&[&["--filter=error", "memory", "1M"], &ranges[..]].concat());
    nbdsh(
        &server,
        "
def fails(offset, length):
    try:
        h.pwrite(bytes(length), offset)
        return False
    except nbd.Error as error:
        assert error.errno == 'ENOSPC'
        return True
assert not fails(0, 65536)
assert fails(0, 65537)
assert fails(69631, 10)
assert not fails(69632, 10)
assert fails(524288, 1)
assert not fails(524289, 1)
",
    );
}

#[test]
fn same_seed_makes_the_same_requests_fail() {
    require!("nbdsh");
    let run = |seed: &str| {
        let parameters = ["error-rate=30%", seed];
        let server =
            Server::start(&[&["--filter=error", "memory", "1M"], &parameters[..]].concat());
        nbdsh(
            &server,
            "
def outcome(n):
    try:
        h.pread(512, n * 512)
        return '.'
    except nbd.Error:
        return 'x'
print(''.join(outcome(n) for n in range(200)))
",
        )
    };
    let first = run("error-seed=1");
    assert_eq!(first, run("error-seed=1"));
    assert_ne!(first, run("error-seed=2"));
    let failures = first.matches('x').count();
    assert!((30..90).contains(&failures), "{failures} of 200");
}

#[test]
fn delay_delays_what_nbdkits_does() {
    require!("nbdsh");
    let server = Server::start(&["--filter=delay", "memory", "1M", "rdelay=300ms", "delay-trim=1"]);
    let timed = |code: &str| {
        let begin = Instant::now();
        nbdsh(&server, code);
        begin.elapsed()
    };
    assert!(timed("h.pread(512, 0)") >= Duration::from_millis(300));
    assert!(timed("h.trim(512, 0)") >= Duration::from_secs(1));
    // 64 at once take as long as one: else it would be 19 s.
    let many = "
buffers = [nbd.Buffer(512) for n in range(64)]
cookies = [h.aio_pread(buffer, 0) for buffer in buffers]
while cookies:
    h.poll(-1)
    cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
";
    let took = timed(many);
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn offset_serves_what_nbdkits_does() {
    require!("nbdkit", "nbdcopy");
    let content = r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum"#;
    for parameters in [
        &["offset=0"][..],
        &["offset=4096"],
        &["offset=513", "range=1025"],
        &["offset=1000000", "range=48576"],
        &["range=10"],
    ] {
        same(&[&["--filter=offset", "pattern", "1M"], parameters].concat(), content);
    }
}

#[test]
fn parameters_are_for_the_nearest_layer_or_the_one_that_is_named() {
    require!("nbdsh");
    let size = |arguments: &[&str]| {
        let server = Server::start(arguments);
        nbdsh(&server, "print(h.get_size())").trim().parse::<u64>().unwrap()
    };
    let filters = ["--filter=error", "--filter=offset"];
    let with = |rest: &[&str]| size(&[&filters[..], rest].concat());
    assert_eq!(with(&["memory", "1M", "offset=4k", "error-rate=0"]), (1 << 20) - 4096);
    assert_eq!(with(&["memory", "memory.size=1M", "offset.range=5"]), 5);
    assert_eq!(with(&["offset=1k", "1M"]), (1 << 20) - 1024, "memory is the default");
}

#[test]
fn items_of_an_export_have_filters_too() {
    require!("nbdsh");
    let export = "a=memory,filter=offset,filter=error,1M,offset=1k,error-pread-rate=1,read-only";
    let server = Server::start(&["--export", export, "--export", "b=memory,2M"]);
    nbdsh(
        &server,
        "
c = nbd.NBD()
c.set_export_name('a')
c.connect_unix('socket')
assert c.get_size() == (1 << 20) - 1024
assert c.is_read_only()
try:
    c.pread(512, 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'EIO'
",
    );
}

#[test]
fn mistakes_name_the_layer_and_the_nearest_right_thing() {
    let two = ["--filter=error", "--filter=delay", "memory", "1M"];
    for (words, told) in [
        (&["eror-rate=1"][..], &["no layer has a parameter \"eror-rate\"", "\"error-rate\""][..]),
        (&["rdelay=soon"], &["delay: rdelay: ", "\"soon\""]),
        (&["error.base=x"], &["base of a filter is the layer beneath it"]),
        (&["error-rate=2"], &["error: error-rate: "]),
        (&["rdelay=11m"], &["rdelay"]),
    ] {
        complains(2, &[&two, words].concat(), told);
    }
    complains(2, &["--filter=eror", "memory", "1M"], &["unknown component \"eror\"", "\"error\""]);
    complains(2, &["--filter=memory", "memory", "1M"], &["memory is not a filter", "\"base\""]);
    complains(2, &["--filter=file", "memory", "1M"], &["file is not a filter"]);
    complains(1, &["--filter=offset", "memory", "1M", "offset=2M"], &["offset=2097152 is beyond"]);
    complains(2, &["error", "error-rate=1"], &["error needs the parameter \"base\""]);
    complains(
        2,
        &["--filter=offset", "memory", "1M", "offset=x"],
        &["offset: offset: \"x\" is not"],
    );
}

#[test]
fn too_many_layers_are_refused() {
    let filters: Vec<&str> = std::iter::repeat_n("--filter=offset", 16).collect();
    let words = ["uppermost of 17 devices", "at most 16"];
    complains(1, &[&filters[..], &["memory", "1M"]].concat(), &words);
    let server = Server::start(&[&filters[1..], &["memory", "1M"]].concat());
    drop(server);
}

/// A component that traps beneath a filter takes its own disk along, and no other.
#[test]
fn disk_beneath_may_fail() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    guest(&directory.path().join("bad.wasm"), &[("write", "(unreachable)")]);
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=error", "bad.wasm"]);
    let mut server = Server::spawn(directory, &mut command);
    nbdsh(
        &server,
        "
h.pread(512, 0)
for n in range(2):
    try:
        h.pwrite(bytes(512), 0)
        assert False
    except nbd.Error as error:
        assert error.errno == 'EIO'
",
    );
    server.expect_log("write(0, 512) trapped");
}

#[test]
fn private_disks_have_their_own_layers() {
    require!("nbdsh");
    let server = Server::start(&["--private", "--filter=offset", "memory", "1M", "offset=512"]);
    nbdsh(
        &server,
        "
h.pwrite(b'mine', 0)
assert h.pread(4, 0) == b'mine'
c = nbd.NBD()
c.connect_unix('socket')
assert c.pread(4, 0) == bytes(4)
",
    );
}

#[test]
fn file_is_filtered_without_entering_the_sandbox() {
    require!("nbdcopy");
    let directory = TempDir::new().unwrap();
    let image: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(directory.path().join("disk"), &image).unwrap();
    let arguments =
        ["-U", "-", "--filter=error", "--filter=delay", "--filter=offset", "file", "disk"];
    let mut command = memnbd(directory.path(), arguments);
    command.args(["offset=1000", "--run", r#"nbdcopy "$uri" back"#]);
    run(&mut command).success();
    assert!(fs::read(directory.path().join("back")).unwrap() == image[1000..]);
}
