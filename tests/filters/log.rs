//! The filter `log`, and what holds for all files that components write to.

use std::fs;
use std::io::Read;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::saying;
use crate::backends::served;
use crate::mistakes::complains;
use crate::support::{LIMIT, Server, memnbd, nbdsh, require, run, wait_until};

/// Requests, some of which fail.
const REQUESTS: &str = r#"
h.set_strict_mode(0)
say("write", lambda: h.pwrite(b"x" * 5000, 1000))
say("write", lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_FUA))
say("read", lambda: h.pread(4096, 512))
say("zero", lambda: h.zero(4096, 8192))
say("zero", lambda: h.zero(100000, 8192, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA))
say("trim", lambda: h.trim(4096, 16384))
say("trim", lambda: h.trim(100, 5, nbd.CMD_FLAG_FUA))
say("cache", lambda: h.cache(65536, 0))
say("flush", h.flush)
"#;

/// The lines about requests, without the time and the number of the connection. Nobody says with
/// which flags a client asks for block status.
fn requests(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.splitn(3, ' ').nth(2));
    let lines = lines.map(|line| line.strip_prefix("connection=1 ").unwrap_or(line));
    let of_requests = |line: &&str| line.contains(" id=") && !line.contains("connect");
    lines.filter(of_requests).map(str::to_owned).collect()
}

/// What this program and nbdkit log of the same requests.
fn logs(arguments: &[&str]) -> [Vec<String>; 2] {
    ["memnbd", "nbdkit"].map(|program| {
        let directory = TempDir::new().unwrap();
        let arguments = [arguments, &["logfile=log"]].concat();
        served(program, directory.path(), &arguments, &saying(REQUESTS));
        requests(&fs::read_to_string(directory.path().join("log")).unwrap())
    })
}

#[test]
fn log_is_that_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    for arguments in [
        &["--filter=log", "memory", "1M"][..],
        &["--filter=log", "--filter=error", "memory", "1M", "error-pwrite-rate=1", "error=ENOSPC"],
        &["--filter=log", "--filter=error", "memory", "1M", "error-rate=1"],
    ] {
        let [ours, theirs] = logs(arguments);
        assert!(ours.len() >= 18, "{ours:?}");
        assert_eq!(ours, theirs, "{arguments:?}");
    }
}

/// The log tells what the filter above sends down: the same pieces as nbdkit's, in any order.
#[test]
fn log_beneath_a_filter_has_what_that_asks_for() {
    require!("nbdkit", "nbdsh");
    for parameters in [
        &["minblock=512", "maxdata=1k"][..],
        &["minblock=4k"],
        &["maxdata=2k", "maxlen=8k"],
        &["minblock=64k", "maxlen=64k"],
    ] {
        let filters = ["--filter=blocksize", "--filter=log", "memory", "1M"];
        let pieces = |log: Vec<String>| {
            let words = |line: String| {
                let words = line.split(' ').filter(|word| !word.starts_with("id="));
                words.collect::<Vec<_>>().join(" ")
            };
            let mut pieces: Vec<String> = log.into_iter().map(words).collect();
            pieces.sort_unstable();
            pieces
        };
        let [ours, theirs] = logs(&[&filters[..], parameters].concat()).map(pieces);
        assert_eq!(ours, theirs, "{parameters:?}");
    }
}

#[test]
fn json_has_every_request_with_its_time() {
    require!("nbdsh");
    let filters = ["--filter=log", "--filter=delay", "--filter=error"];
    let parameters = ["memory", "1M", "logfile=log", "log-format=json", "rdelay=50ms"];
    let errors = ["error-trim-rate=1", "error=EPERM"];
    let server = Server::start(&[&filters[..], &parameters, &errors].concat());
    nbdsh(
        &server,
        "
import json, time
c = nbd.NBD()
c.connect_unix('socket')
before = time.time()
h.pread(512, 0)
c.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)
try:
    h.trim(512, 1024, nbd.CMD_FLAG_FUA)
    assert False
except nbd.Error as error:
    assert error.errno == 'EPERM'
h.flush()
for attempt in range(1000):
    lines = [json.loads(line) for line in open('log')]
    if len(lines) == 5:
        break
    time.sleep(0.01)
opened, *requests = lines
assert opened['event'] == 'open' and opened['size'] == 1 << 20 and opened['write'] is True
short = [(r['event'], r.get('offset'), r.get('length'), r['error']) for r in requests]
assert short == [('read', 0, 512, None), ('zero', 8192, 4096, None), ('trim', 1024, 512, 'EPERM'),
                 ('flush', None, None, None)], short
assert requests[0]['duration'] >= 50_000_000
assert requests[1]['keep_allocated'] is True and requests[1]['fua'] is False
assert requests[2]['fua'] is True
from datetime import datetime
begin = datetime.fromisoformat(requests[0]['time'].replace('Z', '+00:00')).timestamp()
assert before - 0.001 <= begin <= time.time()
",
    );
    let log = server.path("log");
    let kept = TempDir::new().unwrap();
    let copy = kept.path().join("log");
    fs::hard_link(&log, &copy).unwrap();
    drop(server);
    let log = fs::read_to_string(copy).unwrap();
    assert!(log.ends_with("\"event\":\"close\",\"transactions\":4}\n"), "{log}");
}

#[test]
fn log_is_replaced_or_appended_to() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "before\n").unwrap();
    let serve = |parameters: &[&str]| {
        let arguments = [&["--filter=log", "memory", "1M", "logfile=log"], parameters].concat();
        served("memnbd", directory.path(), &arguments, r#"nbdsh -u "$uri" -c 'h.pread(1, 0)'"#);
        fs::read_to_string(&path).unwrap()
    };
    let log = serve(&["logappend=true"]);
    assert!(log.starts_with("before\n") && log.matches("Close").count() == 1, "{log}");
    let log = serve(&["logappend=on"]);
    assert!(log.starts_with("before\n") && log.matches("Close").count() == 2, "{log}");
    let log = serve(&[]);
    assert!(!log.contains("before") && log.matches("Close").count() == 1, "{log}");
}

/// Several disks that name one file: it is emptied once, and lines stay whole.
#[test]
fn exports_share_a_log() {
    require!("nbdsh");
    let item = |name| format!("{name}=memory,filter=log,1M,logfile=log");
    let (first, second) = (item("a"), item("b"));
    let server = Server::start(&["--export", &first, "--export", &second]);
    nbdsh(
        &server,
        "
clients = []
for name in ['a', 'b'] * 2:
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    clients.append(c)
for step in range(200):
    for c in clients:
        c.pread(512, step * 512)
",
    );
    let log = || fs::read_to_string(server.path("log")).unwrap();
    assert!(wait_until(LIMIT, || log().lines().count() == 2 + 4 * 2 * 200));
    let log = log();
    assert_eq!(log.matches("Open export=").count(), 2);
    let words = log.lines().map(|line| line.split(' ').nth(2).unwrap());
    assert!(words.into_iter().all(|word| ["Open", "Read", "...Read"].contains(&word)), "{log}");
}

#[test]
fn log_without_a_file_goes_to_that_of_the_server() {
    require!("nbdsh");
    let mut server = Server::start(&["--filter=log", "memory", "1M"]);
    nbdsh(&server, "h.pread(512, 1024)");
    server.expect_log("log: Read id=1 offset=0x400 count=0x200 ...");
    server.expect_log("log: ...Read id=1 return=0");
}

/// A pipe that somebody opened, but nobody reads.
#[test]
fn log_that_nobody_reads_blocks_no_request() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let arguments = ["-U", "socket", "--filter=log", "memory", "1M", "logfile=pipe"];
    let reader = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut command = memnbd(directory.path(), arguments);
    let mut server = Server::spawn(directory, &mut command);
    // Much more than a pipe and the queue take.
    nbdsh(&server, "for n in range(10000): h.pread(512, n % 1000 * 512)");
    server.expect_log("pieces were dropped, as it is written too slowly");
    let mut reader = reader;
    let mut bytes = [0; 65536];
    let count = reader.read(&mut bytes).unwrap();
    assert!(bytes[..count].starts_with(b"20") && bytes[..count].contains(&b'\n'));
    std::thread::spawn(move || while reader.read(&mut bytes).is_ok_and(|count| count > 0) {});
}

#[test]
fn log_is_no_longer_than_it_may_be() {
    require!("nbdsh");
    let arguments = ["--max-output", "10k", "--filter=log", "memory", "1M", "logfile=log"];
    let mut server = Server::start(&arguments);
    nbdsh(&server, "for n in range(1000): h.pread(512, n * 512)");
    server.expect_log("the log is as long as it may be");
    let length = || fs::metadata(server.path("log")).unwrap().len();
    assert!(wait_until(LIMIT, || length() > 10_000));
    assert!(length() <= 10_240);
}

#[test]
fn grant_is_told() {
    let directory = TempDir::new().unwrap();
    let text = run(&mut memnbd(directory.path(), ["--dump-component", "log"])).success();
    assert!(text.contains("grants_outputs=logfile\n"), "{text}");
    assert!(text.contains("parameters_logfile_type=PATH\n"), "{text}");
}

#[test]
fn mistakes_are_told() {
    for (parameters, code, words) in [
        (&["logfile=none/log"][..], 1, "logfile: "),
        (&["logfile=/dev/null"], 1, "it is a device; right would be a regular file"),
        (&["logfile=/"], 1, "directory"),
        (&["logfile=a", "log-format=xml"], 2, "nbdkit, json"),
        (&["logfile=a", "logfile=b"], 2, "given twice"),
        (&["logappend=perhaps"], 2, "neither true nor false"),
    ] {
        complains(code, &[&["--filter=log", "memory", "1M"], parameters].concat(), &[words]);
    }
}
