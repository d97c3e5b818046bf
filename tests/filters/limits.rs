//! The filters that are parts of the server: limits of what clients do, and what all of these filters
//! have in common.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::backends::same;
use crate::mistakes::complains;
use crate::support::{Server, memnbd, nbdsh, require, run, wait_until};

/// How long something takes that is not to take long.
const LIMIT: Duration = Duration::from_secs(20);

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

#[test]
fn rate_limits_reads_and_writes_of_all_connections() {
    require!("nbdsh");
    // 1 MiB per second; what may be caught up on is 100 KiB.
    let arguments = ["--filter=rate", "memory", "4M", "rate=8M", "burstiness=0.1"];
    let server = Server::start(&arguments);
    let took = timed(|| _ = nbdsh(&server, "h.pread(1 << 20, 0)\nh.pread(1 << 20, 0)"));
    assert!(took >= Duration::from_millis(1890), "{took:?}");
    let server = Server::start(&arguments);
    let two = "
c = nbd.NBD()
c.connect_unix('socket')
buffer = bytes(1 << 20)
for n in range(1):
    one = h.aio_pwrite(buffer, 0)
    other = c.aio_pwrite(buffer, 1 << 20)
    while not h.aio_command_completed(one):
        h.poll(-1)
    while not c.aio_command_completed(other):
        c.poll(-1)
";
    let took = timed(|| _ = nbdsh(&server, two));
    assert!(took >= Duration::from_millis(1890), "{took:?}");
}

#[test]
fn requests_are_limited_for_each_connection_and_export() {
    require!("nbdsh");
    let reads = "
for n in range(11):
    h.pread(1, n)
";
    let item = "a=memory,1M,rate-requests=10,burstiness=0";
    for arguments in [
        &["--filter=rate", "memory", "1M", "connection-rate-requests=10", "burstiness=10ms"][..],
        &["--export", item],
    ] {
        let server = Server::start(arguments);
        let took = timed(|| _ = nbdsh(&server, reads));
        assert!(took >= Duration::from_millis(990), "{took:?}");
    }
}

#[test]
fn requests_that_transfer_nothing_are_free_of_rates() {
    require!("nbdsh");
    let server = Server::start(&["--filter=rate", "memory", "1G", "rate=1", "connection-rate=1"]);
    let took = timed(|| {
        nbdsh(&server, "h.trim(1 << 29, 0)\nh.zero(1 << 29, 0)\nh.flush()");
    });
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn replies_are_what_they_are_without_a_limit() {
    require!("nbdkit", "nbdcopy");
    let content = r#"nbdcopy "$uri" - | sha256sum && nbdinfo --size "$uri""#;
    same(&["--filter=rate", "pattern", "300k", "rate=8M", "burstiness=0.1"], content);
}

#[test]
fn client_of_a_little_is_not_kept_waiting_by_one_of_much() {
    require!("nbdsh");
    // 1 MiB per second, of which the first wants 64 MiB.
    let arguments = ["--filter=rate", "memory", "64M", "rate=8M", "burstiness=0.1"];
    let server = Server::start(&arguments);
    let took = timed(|| {
        nbdsh(
            &server,
            "
import os
buffer = nbd.Buffer(32 << 20)
greedy = [h.aio_pread(buffer, 0), h.aio_pread(nbd.Buffer(32 << 20), 32 << 20)]
h.poll(100)
c = nbd.NBD()
c.connect_unix('socket')
for n in range(5):
    c.pread(4096, 0)
assert not h.aio_command_completed(greedy[0])
os._exit(0)
",
        );
    });
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn throttled_clients_hold_no_memory_and_no_threads() {
    require!("nbdsh");
    let server = Server::start(&["--filter=rate", "memory", "1G", "rate=8", "--max-memory=1G"]);
    let before = server.resident();
    nbdsh(
        &server,
        "
import os
buffer = bytes(16 << 20)
clients = []
for n in range(20):
    c = nbd.NBD()
    c.connect_unix('socket')
    for n in range(8):
        c.aio_pwrite(buffer, n << 24)
        c.poll(10)
    clients.append(c)
os._exit(0)
",
    );
    let more = server.resident().saturating_sub(before);
    assert!(more < 64 << 20, "{} MiB for 2.5 GiB of writes", more >> 20);
    let threads = server.threads();
    assert!(threads < 30, "{threads} threads");
}

#[test]
fn server_with_throttled_requests_stops_at_once_and_tells_them() {
    require!("nbdsh");
    let server = Server::start(&["--filter=rate", "memory", "64M", "rate=8"]);
    let told = nbdsh(
        &server,
        &format!(
            "
import os, signal
cookie = h.aio_pread(nbd.Buffer(1 << 20), 0)
h.poll(200)
os.kill({}, signal.SIGTERM)
try:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
except nbd.Error as error:
    print(error.errno)
",
            server.pid().as_raw_nonzero()
        ),
    );
    assert_eq!(told, "ESHUTDOWN\n");
    let mut server = server;
    let took = timed(|| server.wait());
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn connection_of_a_vanished_client_is_closed_while_it_is_throttled() {
    require!("nbdsh");
    let server = Server::start(&["-v", "--filter=rate", "memory", "64M", "rate=8"]);
    nbdsh(
        &server,
        "
import os
h.aio_pread(nbd.Buffer(1 << 20), 0)
h.poll(100)
os._exit(0)
",
    );
    let closed = || server.log().iter().any(|line| line.contains("lost: "));
    assert!(wait_until(LIMIT, closed), "{:#?}", server.log());
}

#[test]
fn rate_file_changes_the_rate_of_requests_that_wait() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rate");
    let mut command = memnbd(directory.path(), ["-U", "socket", "-v", "--filter=rate", "memory"]);
    command.args(["64M", "rate=8", "rate-file=rate"]);
    let server = Server::spawn(directory, &mut command);
    let code = format!(
        "
import os, time
cookie = h.aio_pread(nbd.Buffer(1 << 20), 0)
h.poll(200)
assert not h.aio_command_completed(cookie)
open({path:?} + '.new', 'w').write('1G\\n')
os.rename({path:?} + '.new', {path:?})
while not h.aio_command_completed(cookie):
    h.poll(-1)
"
    );
    let took = timed(|| _ = nbdsh(&server, &code));
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn files_that_are_no_rates_are_told_once() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("rate"), "fast").unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=rate", "memory"]);
    command.args(["64M", "connection-rate-file=rate"]);
    let mut server = Server::spawn(directory, &mut command);
    server.expect_log("\"fast\"");
}

#[test]
fn limit_refuses_clients_that_are_too_many() {
    require!("nbdsh");
    let other = "
c = nbd.NBD()
def connected():
    try:
        c = nbd.NBD()
        c.connect_unix('socket')
        return c
    except nbd.Error as error:
        assert 'policy prevents' in error.string, error.string
        return None
";
    for (arguments, more) in [
        (&["--filter=limit", "memory", "1M"][..], 0),
        (&["--filter=limit", "memory", "1M", "limit=3"], 2),
        (&["--export", "a=memory,filter=limit,1M,limit=2"], 1),
        (&["--filter=limit", "memory", "1M", "limit=0"], 5),
    ] {
        let server = Server::start(arguments);
        let code = format!(
            "{other}
clients = [connected() for n in range(5)]
assert len([c for c in clients if c]) == {more}, clients
h.shutdown()
if {more} < 5:
    import time
    for n in range(1000):
        again = connected()
        if again: break
        time.sleep(0.01)
    assert again
"
        );
        nbdsh(&server, &code);
    }
}

#[test]
fn connections_end_in_time_however_busy_they_are() {
    require!("nbdsh");
    for arguments in [
        &["--filter=time-limit", "memory", "1M", "time-limit=500ms"][..],
        &["--export", "a=memory,filter=time-limit,1M,time-limit=0.5"],
    ] {
        let server = Server::start(arguments);
        for code in [
            "
import time
begin = time.time()
try:
    while True:
        h.pread(512, 0)
except nbd.Error:
    assert time.time() - begin > 0.3
",
            "
import time
time.sleep(0.6)
h.poll(10000)
assert h.aio_is_closed() or h.aio_is_dead()
",
        ] {
            let took = timed(|| _ = nbdsh(&server, code));
            assert!(took < LIMIT, "{took:?}");
        }
    }
}

#[test]
fn mistakes_are_told_before_anything_listens() {
    for (arguments, told) in [
        (&["--filter=ip", "memory", "1M", "allow=me"][..], &["ip: allow: \"me\"", "allipv4"][..]),
        (&["--filter=ip", "memory", "1M", "deny=security:x"], &["security labels"]),
        (&["--filter=ip", "memory", "1M", "deny=dn:*"], &["--tls-verify-peer"]),
        (&["--filter=rate", "memory", "1M", "rate=0"], &["rate: rate: ", "smallest"]),
        (&["--filter=rate", "memory", "1M", "rat=1"], &["\"rat\""]),
        (&["memory", "1M", "rate=1M"], &["memory has no parameter \"rate\""]),
        (&["--filter=limit", "memory", "1M", "limit=x"], &["limit: limit: \"x\""]),
        (&["--filter=luks", "memory", "1M"], &["luks of nbdkit is not supported", "cryptsetup"]),
        (&["--filter=ext2", "memory", "1M"], &["ext2 of nbdkit is not supported", "debugfs"]),
        (&["--export", "a=memory,filter=exitlast,1M"], &["--filter=exitlast"]),
        (&["--filter=rate", "--export", "a=memory,1M"], &["filter=..."]),
        (
            &["--filter=exitwhen", "memory", "1M", "exit-when-process-exits=999999999"],
            &["exitwhen"],
        ),
    ] {
        complains(2, arguments, told);
    }
}

#[test]
fn help_tells_the_parameters_of_each() {
    for (name, parameter) in [
        ("rate", "connection-rate-requests"),
        ("ip", "allow"),
        ("limit", "limit"),
        ("time-limit", "time-limit"),
        ("tls-fallback", "tlsreadme"),
        ("exitwhen", "exit-when-script"),
        ("exitlast", "exits when the last client"),
    ] {
        let help = run(&mut memnbd(std::path::Path::new("/"), ["--help", name])).success();
        assert!(help.contains(parameter), "{name}: {help}");
        let page = run(&mut memnbd(std::path::Path::new("/"), ["--man", name])).success();
        assert!(page.contains(&format!("memnbd-{name}")), "{page}");
    }
}
