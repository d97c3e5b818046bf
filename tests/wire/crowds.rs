//! Many clients, clients that do nothing, clients that do not read, and a server that runs out of
//! something.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::haggle::*;
use super::numbers::*;
use super::session::{Request, compact};
use super::stream::Stream;
use crate::support::{LIMIT, Server, memnbd, wait_until};

const MIB: u64 = 1 << 20;

fn allow_many_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(4096, |maximum| maximum.min(4096));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}

#[test]
fn a_thousand_connections_at_once() {
    allow_many_files();
    for server in [Server::start(&["1M"]), Server::start_tcp(&["1M"])] {
        let before = server.fds().len();
        let resident = server.resident();
        for round in 0..3 {
            let streams: Vec<Stream> = (0..1000).map(|_| Stream::connect(&server)).collect();
            if round == 2 {
                // They are all served at once.
                let greeted: Vec<Haggle> = streams.into_iter().map(Haggle::greeted).collect();
                assert!(server.resident() < resident + (64 << 20), "{}", server.resident());
                drop(greeted);
            }
        }
        assert!(wait_until(LIMIT, || server.fds().len() <= before), "{}", server.fds().len());
        Haggle::new(&server).go("").expect_in_sync();
    }
}

#[test]
fn who_does_not_negotiate_in_time_is_dropped() {
    let mut server = Server::start(&["--handshake-timeout", "1", "1M"]);
    let mut good = Haggle::new(&server).structured("").go("");
    let before = server.fds().len();
    let silent: Vec<Stream> = (0..100).map(|_| Stream::connect(&server)).collect();
    let mut waiting = Haggle::new(&server);
    waiting.expect_in_sync();
    // A byte now and then is no progress.
    let bytes = [&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes()[..], &option(9999, &[0; 4000])].concat();
    let mut dribbling = Stream::connect(&server);
    let start = Instant::now();
    let mut sent = 0;
    while dribbling.write_all(&bytes[sent..sent + 1]).is_ok() {
        sent += 1;
        good.expect_in_sync();
        thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() < LIMIT, "it may dribble forever");
    }
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    waiting.stream.expect_end();
    for mut stream in silent {
        assert_eq!(stream.rest().len(), 18);
    }
    assert!(wait_until(LIMIT, || server.fds().len() <= before));
    good.expect_in_sync();
    server.allow_log("more warnings about clients were not logged");
    server.expect_log("the handshake timed out");
}

#[test]
pub(crate) fn who_does_not_read_takes_little_memory() {
    for server in [Server::start(&["64M"]), Server::start_tcp(&["64M"])] {
        let mut good = Haggle::new(&server).structured("").go("");
        good.write(0, &vec![1; 8 * MIB as usize]);
        let before = server.resident();
        let mut clients = Vec::new();
        for (length, count) in [(MIB, 2), (4096, 6), (30_000, 6), (100, 6)] {
            for _ in 0..count {
                let mut session = Haggle::new(&server).go("");
                session.stream.set_timeout(Some(Duration::from_millis(50)));
                let request =
                    Request { flags: 0, command: cmd::READ, cookie: 1, offset: 0, length };
                // Until the server does not take any more.
                let requests = compact(&request).repeat(2000);
                while session.stream.write_all(&requests).is_ok() {}
                clients.push(session);
            }
        }
        good.expect_in_sync();
        let now = server.resident();
        // Of requests under way each may have 64 MiB, but not of those that are not begun.
        assert!(now < before + (192 << 20), "{} MiB more", (now - before) >> 20);
        let fds = server.fds().len() - clients.len();
        drop(clients);
        assert!(wait_until(LIMIT, || server.fds().len() <= fds));
        good.expect_in_sync();
    }
}

/// Replies wait all the time, for the client reads less than it asks for.
#[test]
fn who_reads_slowly_does_not_make_the_server_grow() {
    let server = Server::start(&["64M"]);
    let mut session = Haggle::new(&server).go("");
    session.write(0, &[1; 65536]);
    let request = Request { flags: 0, command: cmd::READ, cookie: 1, offset: 0, length: 16384 };
    let requests = compact(&request).repeat(16);
    let mut reader = session.stream.try_clone();
    let mut writer = session.stream.try_clone();
    let total = 256 << 20;
    let before = server.resident();
    thread::scope(|scope| {
        // Far ahead of the reader, always.
        scope.spawn(move || while writer.write_all(&requests).is_ok() {});
        let mut read = 0;
        let mut most = 0;
        while read < total {
            reader.take_vec(50_000);
            read += 50_000;
            if read % (1 << 22) < 50_000 {
                most = most.max(server.resident());
            }
        }
        assert!(most < before + (24 << 20), "{} MiB more", (most - before) >> 20);
        let Stream::Unix(socket) = &reader else { panic!("it is a Unix socket") };
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    });
}

#[test]
pub(crate) fn memory_of_large_requests_is_given_back() {
    let server = Server::start(&["64M"]);
    let mut good = Haggle::new(&server).go("");
    good.write(0, &vec![1; 64 << 20]);
    let before = server.resident();
    let fds = server.fds().len();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut session = Haggle::new(&server).go("");
        let read = session.request(0, cmd::READ, 0, 64 << 20);
        session.send(read, b"");
        clients.push(session);
        // Half of a payload.
        let mut session = Haggle::new(&server).go("");
        let write = session.request(0, cmd::WRITE, 0, 64 << 20);
        let header = session.header(&write);
        session.stream.put(&[header, vec![2; 32 << 20]].concat());
        clients.push(session);
    }
    good.expect_in_sync();
    // Of each at most what it asked for: 4 x 64 MiB, and 4 x 32 MiB twice while buffers grow.
    let most = server.resident() - before;
    assert!(most < 640 << 20, "{} MiB", most >> 20);
    drop(clients);
    assert!(wait_until(LIMIT, || server.fds().len() <= fds));
    good.expect_in_sync();
    let given_back = wait_until(Duration::from_secs(5), || server.resident() < before + (48 << 20));
    assert!(given_back, "{} MiB are kept", (server.resident() - before) >> 20);
}

#[test]
fn accepting_goes_on_when_file_descriptors_run_out() {
    let directory = TempDir::new().unwrap();
    let inner = memnbd(directory.path(), ["-U", "socket", "1M"]);
    let mut command = std::process::Command::new("sh");
    command.current_dir(directory.path()).args(["-c", "ulimit -n 48; exec \"$0\" \"$@\""]);
    command.arg(inner.get_program()).args(inner.get_args());
    let mut server = Server::spawn(directory, &mut command);
    let mut good = Haggle::new(&server).go("");
    let streams: Vec<Stream> = (0..100).map(|_| Stream::connect(&server)).collect();
    server.expect_log("Too many open files");
    for _ in 0..50 {
        good.expect_in_sync();
    }
    // Who came too late is served when others go.
    let (first, late) = streams.split_at(60);
    let mut last = late.last().unwrap().try_clone();
    close(first);
    close(&late[..late.len() - 1]);
    assert_eq!(&last.take(), b"NBDMAGIC");
    drop(streams);
    good.expect_in_sync();
    let served = wait_until(LIMIT, || server.fds().len() < 40);
    assert!(served, "{} file descriptors", server.fds().len());
    Haggle::new(&server).go("").expect_in_sync();
    let warnings = server.log().iter().filter(|line| line.contains("Too many open")).count();
    assert!(warnings <= 4, "{warnings} warnings of the same");
}

/// Ends connections, although their streams are still held.
fn close(streams: &[Stream]) {
    for stream in streams {
        let Stream::Unix(socket) = stream else { panic!("it is a Unix socket") };
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

#[test]
fn who_waits_for_a_free_connection_is_served_in_the_end() {
    let server = Server::start(&["--max-connections", "3", "1M"]);
    let mut first: Vec<Haggle> = (0..3).map(|_| Haggle::new(&server)).collect();
    first.iter_mut().for_each(Haggle::expect_in_sync);
    let mut waiting: Vec<Stream> = (0..5).map(|_| Stream::connect(&server)).collect();
    waiting.iter_mut().for_each(Stream::expect_silence);
    first.iter_mut().for_each(Haggle::expect_in_sync);
    for stream in waiting {
        first.remove(0);
        let mut haggle = Haggle::greeted(stream);
        haggle.stream.put(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
        haggle.expect_in_sync();
        first.push(haggle);
    }
}

#[test]
fn options_without_end_are_ended() {
    let mut server = Server::start(&["1M"]);
    let mut stream = Haggle::new(&server).stream;
    let many = option(opt::UNKNOWN, b"").repeat(5000);
    // The server hangs up before it was told all of it.
    let _ = stream.write_all(&many);
    let answered = stream.rest().len();
    assert!(answered > 20 * 32 && answered < 5000 * 100, "{answered}");
    let mut stream = Haggle::new(&server).stream;
    let large = option(opt::UNKNOWN, &vec![0; 8 << 20]);
    for _ in 0..8 {
        let _ = stream.write_all(&large);
    }
    stream.rest();
    server.expect_log("too many options");
    server.expect_log("too many for a handshake");
}
