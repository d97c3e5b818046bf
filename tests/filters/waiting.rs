//! The filters that make requests wait: `delay`, `spinning` and `pause`.

use std::fs;

use tempfile::TempDir;

use crate::backends::served;
use crate::mistakes::complains;
use crate::support::{Server, memnbd, nbdsh, require};

/// Python code that times reads at offsets, in seconds.
const TIMES: &str = "
import time
def times(offsets, c=h):
    result = []
    for offset in offsets:
        begin = time.monotonic()
        c.pread(512, offset)
        result.append(time.monotonic() - begin)
    return result
";

fn timed(arguments: &[&str], code: &str) {
    nbdsh(&Server::start(arguments), &[TIMES, code].concat());
}

/// A delayed request takes at least its delay; that the others do not is in the component's unit tests.
#[test]
fn only_requests_of_a_rule_are_delayed() {
    require!("nbdsh");
    let delay = ["--filter=delay", "memory", "1M", "rdelay=300ms"];
    let with = |parameters: &[&'static str]| [&delay[..], parameters].concat();
    timed(
        &with(&["delay-range=64k:4k"]),
        "
fast, slow = times([0] * 20), times([65536, 69631])
assert min(slow) >= 0.3 and min(fast) < 0.3, (fast, slow)
",
    );
    timed(&with(&["delay-nth=4"]), "assert all(t >= 0.3 for t in times([0] * 8)[3::4])");
    timed(
        &with(&["delay-state=2", "delay-set-state=pwrite:1:2"]),
        "
before = times([0] * 5)
h.pwrite(bytes(512), 0)
assert min(times([0, 0])) >= 0.3 and min(before) < 0.3
",
    );
}

#[test]
fn delays_are_those_of_a_trace_or_a_distribution() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("trace"), "# of a disk\n10ms\n0.2\n300ms\n").unwrap();
    let arguments =
        ["-U", "socket", "--filter=delay", "memory", "1M", "rdelay=0", "delay-trace=trace"];
    let mut command = memnbd(directory.path(), arguments);
    let code = "
first, second, third, again = times([0] * 4)
assert first >= 0.01 and second >= 0.2 and third >= 0.3 and again >= 0.01
";
    nbdsh(&Server::spawn(directory, &mut command), &[TIMES, code].concat());
    for distribution in ["uniform", "normal", "pareto", "constant"] {
        let distribution = format!("delay-distribution={distribution}");
        timed(
            &["--filter=delay", "memory", "1M", "rdelay=20ms", "delay-jitter=4ms", &distribution],
            "assert sum(times([0] * 30)) >= 30 * 0.015",
        );
    }
}

#[test]
fn stalled_disk_answers_when_the_stall_is_over() {
    require!("nbdsh");
    // Of the time, the disk stalls for two thirds.
    timed(
        &["--filter=delay", "memory", "1M", "delay-stall-every=600ms", "delay-stall-for=400ms"],
        "
end = time.monotonic() + 3
longest = 0
while time.monotonic() < end:
    longest = max(longest, *times([0]))
assert longest >= 0.3, longest
",
    );
}

#[test]
fn seeks_take_time() {
    require!("nbdsh");
    timed(
        &["--filter=spinning", "memory", "1G", "min-seek-time=0.1"],
        "
assert h.is_rotational()
# From the beginning to the end, and back.
end = (1 << 30) - 512
near, far, back = times([4096, end, 0])
assert far >= 0.49 and back >= 0.49, (far, back)
assert min(times([0, 512, 1024, 1536, 2048])) < 0.1
# Requests of all clients share the arm: from the middle to one end, and then to the other.
times([1 << 29])
other = nbd.NBD()
other.connect_unix('socket')
begin = time.monotonic()
buffers = [nbd.Buffer(512), nbd.Buffer(512)]
cookies = [h.aio_pread(buffers[0], end), other.aio_pread(buffers[1], 0)]
waiting = list(zip([h, other], cookies))
while waiting:
    for c, cookie in waiting:
        c.poll(10)
    waiting = [(c, cookie) for c, cookie in waiting if not c.aio_command_completed(cookie)]
assert time.monotonic() - begin >= 0.69
",
    );
    let arguments = [
        "--filter=spinning",
        "memory",
        "64M",
        "heads=4",
        "separate-heads=true",
        "max-seek-time=0",
        "half-seek-time=0",
        "min-seek-time=0",
        "spinning-rpm=120",
        "spinning-rate=1M",
    ];
    timed(
        &arguments,
        "
begin = time.monotonic()
h.pread(1 << 20, 0)
assert time.monotonic() - begin >= 1
h.trim(1 << 20, 0)
",
    );
}

#[test]
fn requests_that_hang_let_others_pass() {
    require!("nbdsh");
    let arguments =
        ["--filter=pause", "memory", "1M", "pause-range=64k:4k", "pause-operation=pread"];
    let server = Server::start(&arguments);
    nbdsh(
        &server,
        "
import time
other = nbd.NBD()
other.connect_unix('socket')
buffer = nbd.Buffer(512)
cookie = other.aio_pread(buffer, 65536)
h.pwrite(b'x' * 512, 65536)
assert h.pread(65536, 0) == bytes(65536)
h.flush()
end = time.monotonic() + 0.5
while time.monotonic() < end:
    other.poll(50)
    assert not other.aio_command_completed(cookie)
assert h.pread(512, 69632) == bytes(512)
",
    );
    // The clients have gone away, and with them the request.
    nbdsh(&server, "assert h.pread(512, 0) == bytes(512)");
}

#[test]
fn paused_disk_answers_nothing_and_stops_nevertheless() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let arguments = ["--filter=pause", "memory", "1M", "paused=true"];
    let code = "
import time
buffers = [nbd.Buffer(512) for n in range(100)]
cookies = [h.aio_pread(buffer, 0) for buffer in buffers]
end = time.monotonic() + 0.3
while time.monotonic() < end:
    h.poll(50)
print(sum(h.aio_command_completed(cookie) for cookie in cookies))
";
    let script = format!("nbdsh -u \"$uri\" -c '{code}'");
    assert_eq!(served("memnbd", directory.path(), &arguments, &script), "0\n");
}

#[test]
fn mistakes_are_told() {
    for (filter, parameters, code, words) in [
        ("delay", &["delay-stall-every=1"][..], 1, "must be given together"),
        ("delay", &["delay-stall-every=1", "delay-stall-for=1"], 1, "must be shorter than"),
        ("delay", &["rdelay=1", "delay-shape=4"], 1, "delay-distribution=pareto"),
        ("delay", &["delay-jitter=1"], 1, "delay-jitter needs a delay"),
        ("delay", &["delay-distribution=even"], 2, "constant, uniform, normal, pareto"),
        ("spinning", &["heads=65"], 2, "heads"),
        ("spinning", &["max-seek-time=11m"], 2, "max-seek-time"),
        ("pause", &["pause-operation=flush"], 2, "pread, pwrite"),
        ("pause", &["paused=maybe"], 2, "paused"),
    ] {
        let filter = format!("--filter={filter}");
        complains(code, &[&[&*filter, "memory", "1M"], parameters].concat(), &[words]);
    }
}
