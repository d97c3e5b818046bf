//! The filters `retry` and `retry-request`.

use std::fs;

use tempfile::TempDir;

use super::content::CONTENT;
use super::layers::OUTCOMES;
use super::saying;
use crate::backends::same;
use crate::mistakes::complains;
use crate::support::{LIMIT, Server, client, guest, memnbd, nbdsh, require, run, wait_until};

/// Spawns a server with this file.
fn serving(directory: TempDir, arguments: &[&str]) -> Server {
    let mut command = memnbd(directory.path(), ["-U", "socket"]);
    command.args(arguments);
    Server::spawn(directory, &mut command)
}

#[test]
fn requests_that_always_fail_end_like_those_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    for parameters in [
        &["--filter=retry", "retries=0"][..],
        &["--filter=retry", "retries=1", "retry-delay=1"],
        &["--filter=retry", "retries=2", "retry-delay=1", "retry-exponential=no", "error=ENOSPC"],
        &["--filter=retry-request", "retry-request-retries=0"],
        &["--filter=retry-request", "retry-request-retries=1", "retry-request-delay=1"],
    ] {
        let arguments = ["--filter=error", "memory", "1M", "error-rate=100%"];
        let (filter, parameters) = parameters.split_first().unwrap();
        same(&[&[*filter], &arguments[..], parameters].concat(), &saying(OUTCOMES));
    }
}

#[test]
fn content_is_that_of_nbdkit_although_half_of_the_requests_fail() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    for parameters in [
        &["--filter=retry", "retries=30", "retry-delay=1", "retry-exponential=no"][..],
        &["--filter=retry-request", "retry-request-retries=30", "retry-request-delay=1"],
    ] {
        let arguments = ["--filter=error", "pattern", "1000007", "error-rate=50%"];
        let (filter, parameters) = parameters.split_first().unwrap();
        same(&[&[*filter], &arguments[..], parameters].concat(), CONTENT);
    }
}

#[test]
fn disk_is_read_only_after_a_failure_like_that_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    let outcomes = format!("say(\"write\", lambda: h.pwrite(bytes(512), 0))\n{OUTCOMES}");
    let printed = same(
        &[
            "--filter=retry",
            "--filter=error",
            "memory",
            "1M",
            "error-pread-rate=100%",
            "retries=1",
            "retry-delay=1",
            "retry-readonly=yes",
        ],
        &saying(&outcomes),
    );
    assert!(printed.starts_with("write ok\nread EIO\nwrite EPERM\n"), "{printed}");
}

#[test]
fn single_failure_is_not_seen() {
    require!("nbdsh");
    for filter in [
        &["--filter=retry", "retry-delay=10ms"][..],
        &["--filter=retry-request", "retry-request-delay=10ms"],
    ] {
        for error in ["error-once=true", "error-nth=2", "error-nth=3"] {
            let arguments = ["--filter=error", "memory", "1M", error];
            let (filter, parameters) = filter.split_first().unwrap();
            let server = Server::start(&[&[*filter], &arguments[..], parameters].concat());
            nbdsh(
                &server,
                "
for n in range(20):
    h.pwrite(bytes([n + 1]) * 512, n * 512)
for n in range(20):
    assert h.pread(512, n * 512) == bytes([n + 1]) * 512
h.zero(512, 0)
h.trim(512, 512)
h.cache(512, 0)
assert h.pread(1024, 0) == bytes(1024)
",
            );
        }
    }
}

/// Random operations against a byte array, and then several at a time.
const MODEL: &str = "
import random
model = bytearray(1 << 20)
for step in range(400):
    offset = random.randrange(len(model))
    length = random.randint(1, min(len(model) - offset, random.choice([3, 100, 100000])))
    kind = random.randrange(4)
    if kind == 0:
        data = random.randbytes(length)
        h.pwrite(data, offset, random.choice([0, nbd.CMD_FLAG_FUA]))
        model[offset:offset + length] = data
    elif kind == 1:
        h.zero(length, offset, random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        model[offset:offset + length] = bytes(length)
    elif kind == 2:
        assert h.pread(length, offset) == model[offset:offset + length], step
    else:
        found = []
        h.block_status(length, offset, lambda name, at, entries, err: found.extend(entries))
        assert found
    if step % 50 == 0:
        h.flush()
buffers = [random.randbytes(512) for n in range(256)]
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), n * 512)
           for n, data in enumerate(buffers)]
while h.aio_in_flight():
    h.poll(-1)
for cookie in cookies:
    assert h.aio_command_completed(cookie)
model[:len(buffers) * 512] = b''.join(buffers)
assert h.pread(len(model), 0) == model
";

#[test]
fn content_is_right_although_requests_fail() {
    require!("nbdsh");
    for parameters in [
        &["--filter=retry", "retries=100", "retry-delay=1ms", "retry-exponential=false"][..],
        &["--filter=retry-request", "retry-request-retries=100", "retry-request-delay=1ms"],
    ] {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("disk"), vec![0; 1 << 20]).unwrap();
        let (filter, parameters) = parameters.split_first().unwrap();
        let arguments = ["--filter=error", "file", "disk", "error-rate=30%"];
        let arguments = [&[*filter], &arguments[..], parameters].concat();
        let mut server = serving(directory, &arguments);
        // It is opened anew more often than that is possible.
        server.allow_log("could not be opened anew: it was opened anew 16 times");
        nbdsh(&server, MODEL);
    }
}

#[test]
fn verification_passes_although_requests_fail() {
    require!("fio", "nbdcopy");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("disk"), vec![0; 8 << 20]).unwrap();
    let arguments = ["--filter=retry", "--filter=error", "file", "disk", "error-rate=5%"];
    let parameters = ["retries=100", "retry-delay=1ms", "retry-exponential=false"];
    let mut server = serving(directory, &[&arguments[..], &parameters].concat());
    server.allow_log("could not be opened anew: it was opened anew 16 times");
    let mut command = client(&server, "fio");
    command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
    command.arg(format!("--uri={}", server.uri()));
    command.args(["--rw=randwrite", "--bsrange=512-64k", "--verify=crc32c", "--iodepth=16"]);
    command.args(["--size=8M"]);
    run(&mut command).success();
    let image: Vec<u8> = (0..8_u32 << 20).map(|n| (n / 512 % 251) as u8).collect();
    fs::write(server.path("image"), &image).unwrap();
    run(client(&server, "nbdcopy").arg("image").arg(server.uri())).success();
    run(client(&server, "nbdcopy").arg(server.uri()).arg("back")).success();
    assert!(fs::read(server.path("back")).unwrap() == image);
}

#[test]
fn component_that_traps_comes_back() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    // Each instance fails for good at its second write.
    let mortal = "(if (i32.load (i32.const 0x10)) (then (unreachable)))
        (i32.store (i32.const 0x10) (i32.const 1))";
    guest(&directory.path().join("mortal.wasm"), &[("write", mortal)]);
    let mut server = serving(directory, &["--filter=retry", "mortal.wasm", "retry-delay=10ms"]);
    nbdsh(&server, "for n in range(5): h.pwrite(bytes(512), n * 512)\nh.pread(512, 0)");
    for offset in [512, 1024, 1536, 2048] {
        server.expect_log(&format!("write({offset}, 512) trapped"));
    }
    let reopened = |line: &&String| line.contains("the disk was opened anew after a request");
    let count = || server.log().iter().filter(reopened).count();
    assert!(wait_until(LIMIT, || count() == 4), "{:?}", server.log());
}

#[test]
fn flush_after_the_loss_of_a_component_fails_once() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let mortal = "(if (i64.eq (local.get 0) (i64.const 4096)) (then
          (if (i32.load (i32.const 0x10)) (then (unreachable)))))
        (i32.store (i32.const 0x10) (i32.const 1))";
    guest(&directory.path().join("mortal.wasm"), &[("write", mortal)]);
    let mut server = serving(directory, &["--filter=retry", "mortal.wasm", "retry-delay=10ms"]);
    nbdsh(
        &server,
        "
h.pwrite(bytes(512), 0)
h.flush()
h.pwrite(bytes(512), 0)
h.pwrite(bytes(512), 4096)
try:
    h.flush()
    assert False, 'the first write was lost'
except nbd.Error as error:
    assert error.errno == 'EIO'
h.flush()
",
    );
    server.expect_log("write(4096, 512) trapped");
    server.allow_log("could not be flushed");
}

#[test]
fn file_is_opened_by_its_path_again() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("disk"), vec![1; 1 << 20]).unwrap();
    let arguments = ["--filter=retry", "--filter=error", "file", "disk", "error-range=512:1"];
    // The new file is another one than the sandbox would let it open.
    let parameters = ["retry-delay=10ms", "retries=2", "--sandbox-path=."];
    let mut server = serving(directory, &[&arguments[..], &parameters].concat());
    nbdsh(
        &server,
        "
import os
h.pwrite(b'old' + bytes(509), 0)
def replace(size):
    with open('next', 'wb') as file:
        file.write(b'new' * (size // 3))
        file.truncate(size)
    os.replace('next', 'disk')
def fail():
    try:
        h.pread(1, 512)
        assert False
    except nbd.Error as error:
        assert error.errno == 'EIO'
fail()
assert h.pread(3, 0) == b'old', 'the same file again'
replace((1 << 20) + 1)
fail()
assert h.pread(3, 0) == b'old', 'the new one is too large'
replace(1 << 20)
fail()
assert h.pread(3, 0) == b'new'
h.pwrite(b'more', 0)
assert open('disk', 'rb').read(4) == b'more'
os.remove('disk')
fail()
assert h.pread(4, 0) == b'more', 'it stays open'
",
    );
    server.expect_log("could not be opened anew: what was opened has another size");
    server.expect_log("could not be opened anew: error: base: file ");
}

#[test]
fn export_of_its_own_is_not_opened_anew() {
    require!("nbdsh");
    let exports = [
        "disk=memory,1M",
        "flaky=error,base=disk,error-once=true",
        "top=retry,base=flaky,retry-delay=10ms,retries=1",
        "broken=error,base=disk,error-pread-rate=100%",
        "tried=retry,base=broken,retry-delay=10ms,retries=2",
    ];
    let server = Server::start(&exports.map(|export| ["--export", export]).concat());
    nbdsh(
        &server,
        "
def connect(name):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    return c
top = connect('top')
top.pwrite(b'there', 0)
assert top.pread(5, 0) == b'there'
try:
    connect('tried').pread(5, 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'EIO'
assert h.pread(5, 0) == b'there', 'the export has kept its content'
",
    );
    assert!(!server.log().iter().any(|line| line.contains("opened anew")), "{:?}", server.log());
}

#[test]
fn each_client_with_a_disk_of_its_own_has_its_own_failures() {
    require!("nbdsh");
    let arguments = ["--private", "--filter=retry", "--filter=error", "memory", "1M"];
    let parameters = ["error-once=true", "retry-delay=10ms", "retry-readonly=true"];
    let server = Server::start(&[&arguments[..], &parameters].concat());
    nbdsh(
        &server,
        "
assert h.pread(512, 0) == bytes(512)
try:
    h.pwrite(bytes(512), 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'EPERM'
c = nbd.NBD()
c.connect_unix('socket')
assert c.pread(512, 0) == bytes(512)
",
    );
}

#[test]
fn wrong_parameters_are_refused() {
    let retry = ["--filter=retry", "memory", "1M"];
    let request = ["--filter=retry-request", "memory", "1M"];
    for (filter, parameter, message) in [
        (retry, "retry-delay=0", "retry-delay must be more than 0 and at most 10 minutes"),
        (retry, "retry-delay=601", "retry-delay must be more than 0 and at most 10 minutes"),
        (request, "retry-request-delay=0", "retry-request-delay must be more than 0"),
    ] {
        complains(1, &[&filter[..], &[parameter]].concat(), &[message]);
    }
    for (filter, parameter, message) in [
        (retry, "retries=500", "499"),
        (retry, "retries=-1", "retries"),
        (retry, "retry-readonly=maybe", "retry-readonly"),
        (request, "retry-request-retries=1001", "1000"),
    ] {
        complains(2, &[&filter[..], &[parameter]].concat(), &[message]);
    }
}
