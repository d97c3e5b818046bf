//! The filter `retry-request`.

use std::fs;

use tempfile::TempDir;

use super::content::CONTENT;
use super::layers::OUTCOMES;
use super::saying;
use crate::backends::same;
use crate::mistakes::complains;
use crate::support::{Server, memnbd, nbdsh, require};

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
        &["--filter=retry-request", "retry-request-retries=0"][..],
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
        &["--filter=retry-request", "retry-request-retries=30", "retry-request-delay=1"][..],
        &[
            "--filter=retry-request",
            "retry-request-retries=30",
            "retry-request-delay=1",
            "error=ENOSPC",
        ],
    ] {
        let arguments = ["--filter=error", "pattern", "1000007", "error-rate=50%"];
        let (filter, parameters) = parameters.split_first().unwrap();
        same(&[&[*filter], &arguments[..], parameters].concat(), CONTENT);
    }
}

#[test]
fn single_failure_is_not_seen() {
    require!("nbdsh");
    for filter in [
        &["--filter=retry-request", "retry-request-delay=10ms"][..],
        &["--filter=retry-request", "retry-request-delay=10ms", "retry-request-retries=1"],
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
        &["--filter=retry-request", "retry-request-retries=100", "retry-request-delay=1ms"][..],
        &[
            "--filter=retry-request",
            "retry-request-retries=100",
            "retry-request-delay=1ms",
            "error=ENOSPC",
        ],
    ] {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("disk"), vec![0; 1 << 20]).unwrap();
        let (filter, parameters) = parameters.split_first().unwrap();
        let arguments = ["--filter=error", "file", "disk", "error-rate=30%"];
        let arguments = [&[*filter], &arguments[..], parameters].concat();
        let server = serving(directory, &arguments);
        nbdsh(&server, MODEL);
    }
}

#[test]
fn wrong_parameters_are_refused() {
    let request = ["--filter=retry-request", "memory", "1M"];
    for (filter, parameter, message) in
        [(request, "retry-request-delay=0", "retry-request-delay must be more than 0")]
    {
        complains(1, &[&filter[..], &[parameter]].concat(), &[message]);
    }
    for (filter, parameter, message) in [(request, "retry-request-retries=1001", "1000")] {
        complains(2, &[&filter[..], &[parameter]].concat(), &[message]);
    }
}
