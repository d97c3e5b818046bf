//! The filters that are parts of the server: limits of what clients do, who may connect, and when the
//! server exits.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
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

/// Connects, and returns what the server greets with.
fn greeting(server: &Server) -> Vec<u8> {
    let mut client = UnixStream::connect(server.socket()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let mut greeting = vec![0; 18];
    let length = client.read(&mut greeting).unwrap();
    greeting.truncate(length);
    greeting
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
        assert error.errno == 'ENOENT', error.string
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
fn rules_are_those_of_nbdkit() {
    require!("nbdkit", "nbdinfo");
    let own = rustix::process::geteuid().as_raw();
    let (uid, not_uid) = (format!("allow=uid:{own}"), format!("deny=uid:{}", own + 1));
    let denied_uid = format!("deny=uid:{own}");
    let ask = r#"nbdinfo --size "$uri" 2>/dev/null || echo denied"#;
    for (rules, expected) in [
        (&[][..], "1048576\n"),
        (&["deny=all"], "denied\n"),
        (&["deny=any"], "denied\n"),
        (&["allow=allunix", "deny=all"], "1048576\n"),
        (&["deny=anyunix"], "denied\n"),
        (&["deny=allipv4,allipv6,allvsock"], "1048576\n"),
        (&[&uid, "deny=all"], "1048576\n"),
        (&["allow=uid:987654", "deny=all"], "denied\n"),
        (&[&not_uid], "1048576\n"),
        (&[&denied_uid], "denied\n"),
        (&["deny=all", "allow=allipv4", "allow=allunix"], "1048576\n"),
    ] {
        let arguments = [&["--filter=ip", "memory", "1M"], rules].concat();
        assert_eq!(same(&arguments, ask), expected, "{rules:?}");
    }
}

/// Debian's nbdkit 1.32.5 was built without inet_pton, and refuses these rules.
#[test]
fn rules_name_addresses_and_networks() {
    require!("nbdsh");
    for (rules, permitted) in [
        (&["allow=127.0.0.1", "deny=all"][..], true),
        (&["allow=127.0.0.0/8", "deny=all"], true),
        (&["allow=127.0.0.2", "deny=all"], false),
        (&["deny=127.0.0.0/8"], false),
        (&["deny=10.0.0.0/8,::/0"], true),
        (&["deny=allipv4"], false),
        (&["deny=allunix"], true),
    ] {
        let arguments = [&["-i", "127.0.0.1", "--filter=ip", "memory", "1M"], rules].concat();
        let mut server = Server::start_tcp(&arguments);
        let mut client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let length = client.read(&mut [0; 18]).unwrap_or(0);
        assert_eq!(length, if permitted { 18 } else { 0 }, "{rules:?}");
        if !permitted {
            server.expect_log("no export is for it");
        }
    }
}

#[test]
fn denied_clients_are_not_greeted_and_others_are() {
    let mut server = Server::start(&["--filter=ip", "memory", "1M", "deny=allunix"]);
    assert_eq!(greeting(&server), b"");
    server.expect_log("no export is for it");
    let server = Server::start(&["--filter=ip", "memory", "1M", "deny=allipv4"]);
    assert_eq!(greeting(&server).len(), 18);
}

#[test]
fn rules_of_one_export_leave_the_others_alone() {
    require!("nbdsh");
    let server = Server::start(&[
        "--export",
        "public=memory,2M",
        "--export",
        "secret=memory,filter=ip,1M,deny=allunix",
    ]);
    nbdsh(
        &server,
        "
names = []
c = nbd.NBD()
c.set_opt_mode(True)
c.connect_unix('socket')
c.opt_list(lambda name, description: names.append(name) and 0 or 0)
assert names == ['public'], names
c.set_export_name('secret')
try:
    c.opt_go()
    assert False
except nbd.Error as error:
    assert error.errno == 'ENOTSUP', error.string
c.set_export_name('public')
c.opt_go()
assert c.get_size() == 2 << 20
",
    );
}

#[test]
fn rules_of_the_server_are_for_all_exports() {
    let arguments = ["--filter=ip", "memory", "1M", "deny=allunix", "--export", "a=memory,1M"];
    let mut server = Server::start(&arguments);
    assert_eq!(greeting(&server), b"");
    server.expect_log("no export is for it");
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
fn clients_without_tls_get_a_message_and_nothing_else() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    let shown = r#"nbdinfo --list "$uri" | grep -v -e timestamp -e context -e protocol -e block_size_p -e uri; nbdcopy "$uri" - | tr -d '\0'"#;
    let directory = TempDir::new().unwrap();
    for arguments in [
        &["--filter=tls-fallback", "memory", "1M"][..],
        &["--filter=tls-fallback", "memory", "1M", "tlsreadme=Use TLS."],
    ] {
        let arguments = [&["--tls=off"], arguments].concat();
        let ours = crate::backends::served("memnbd", directory.path(), &arguments, shown);
        let theirs = crate::backends::served("nbdkit", directory.path(), &arguments, shown);
        let text = |shown: &str| shown.lines().last().unwrap().to_owned();
        assert_eq!(text(&ours), text(&theirs));
        assert!(ours.contains("export-size: 512"), "{ours}");
    }
}

#[test]
fn message_is_for_plaintext_clients_alone() {
    require!("nbdsh", "psktool");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("keys"), "me:00112233445566778899aabbccddeeff\n").unwrap();
    let keys = directory.path().join("keys");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--tls=on", "--tls-psk=keys"]);
    command.args(["--filter=tls-fallback", "memory", "1M", "--export", "b=memory,2M"]);
    let server = Server::spawn(directory, &mut command);
    nbdsh(
        &server,
        &format!(
            "
def size(name, tls):
    c = nbd.NBD()
    c.set_export_name(name)
    if tls:
        c.set_tls(nbd.TLS_REQUIRE)
        c.set_tls_psk_file({keys:?})
        c.set_tls_username('me')
    c.connect_unix('socket')
    return c.get_size()
assert size('', False) == 512
assert size('b', False) == 512
assert size('no such', False) == 512
assert size('', True) == 1 << 20
assert size('b', True) == 2 << 20
"
        ),
    );
}

#[test]
fn exitlast_exits_after_the_last_client() {
    require!("nbdsh");
    let mut server = Server::start(&["--filter=exitlast", "memory", "1M"]);
    nbdsh(&server, "h.pread(1, 0)");
    server.wait();
}

/// A server that a client uses, with a file `stop` in its directory that does not exist.
fn exiting(event: &str) -> Server {
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=exitwhen", "memory"]);
    command.args(["1M", event]);
    Server::spawn(directory, &mut command)
}

/// The server refuses further clients after `cause`, goes on with the one that it has, and exits after it.
fn exits_after(mut server: Server, cause: impl FnOnce(&Server)) {
    let mut client = UnixStream::connect(server.socket()).unwrap();
    let mut greeting = [0; 18];
    client.read_exact(&mut greeting).unwrap();
    let export_name = [&[0, 0, 0, 3], &b"IHAVEOPT"[..], &[0, 0, 0, 1, 0, 0, 0, 0]].concat();
    client.write_all(&export_name).unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    cause(&server);
    let refused = || UnixStream::connect(server.socket()).is_err();
    assert!(wait_until(LIMIT, refused), "it accepts clients");
    let read = [&0x2560_9513_u32.to_be_bytes()[..], &[0; 20], &512_u32.to_be_bytes()].concat();
    client.write_all(&read).unwrap();
    client.read_exact(&mut [0; 16 + 512]).unwrap();
    drop(client);
    server.wait();
}

#[test]
fn exitwhen_exits_after_events() {
    let stop = |server: &Server| fs::write(server.path("stop"), "").unwrap();
    exits_after(exiting("exit-when-file-created=stop"), stop);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("go");
    fs::write(&file, "").unwrap();
    let event = format!("exit-when-file-deleted={}", file.display());
    exits_after(exiting(&event), |_| fs::remove_file(&file).unwrap());
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    exits_after(exiting(&format!("exit-when-process-exits={}", child.id())), |_| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn exitwhen_exits_when_a_pipe_is_closed() {
    let directory = TempDir::new().unwrap();
    let script =
        "exec \"$MEMNBD\" -U socket --filter=exitwhen memory 1M exit-when-pipe-closed=5 5<fifo";
    run(Command::new("mkfifo").arg(directory.path().join("fifo"))).success();
    let fifo = directory.path().join("fifo");
    let writer = std::thread::spawn(move || fs::OpenOptions::new().write(true).open(fifo).unwrap());
    let mut command = crate::support::shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let server = Server::spawn(directory, &mut command);
    let writer = writer.join().unwrap();
    exits_after(server, |_| drop(writer));
}

#[test]
fn exitwhen_runs_scripts_only_if_it_may() {
    let script = "exit-when-script=test ! -e stop || exit 88";
    complains(2, &["--filter=exitwhen", "memory", "1M", script], &["--allow-scripts"]);
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=exitwhen", "memory"]);
    command.args(["1M", "--allow-scripts", "exit-when-poll=100ms", script]);
    let server = Server::spawn(directory, &mut command);
    exits_after(server, |server| fs::write(server.path("stop"), "").unwrap());
}

#[test]
fn server_exits_at_once_when_the_event_has_occurred_before() {
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=exitwhen", "memory"]);
    command.args(["1M", "exit-when-file-created=/"]).stdin(Stdio::null());
    let finished = run(&mut command);
    assert_eq!(finished.success(), "");
    assert!(!directory.path().join("socket").exists());
}

#[test]
fn signal_stops_a_server_that_waits_for_its_last_client() {
    let mut server = exiting("exit-when-file-created=stop");
    let _client = UnixStream::connect(server.socket()).unwrap();
    fs::write(server.path("stop"), "").unwrap();
    let refused = || UnixStream::connect(server.socket()).is_err();
    assert!(wait_until(LIMIT, refused));
    server.signal(Signal::TERM);
    server.wait();
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
