//! From the start of a server to its end.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Probe, Server, memnbd, probe, wait_until};

/// The server's own time for clients to finish.
const DRAIN_TIME: Duration = memnbd::server::DRAIN_TIME;

#[test]
fn signals_stop_it_cleanly() {
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let mut server = Server::start(&["1M"]);
        server.signal(signal);
        server.wait();
        assert!(!server.socket().exists(), "the socket is still there");
    }
}

#[test]
fn it_stops_although_a_client_stays_connected() {
    let mut server = Server::start(&["1M"]);
    let client = probe(&server);
    server.signal(Signal::TERM);
    server.wait();
    drop(client);
}

#[test]
fn it_stops_although_a_client_does_not_negotiate() {
    let mut server = Server::start(&["1M"]);
    let client = std::os::unix::net::UnixStream::connect(server.socket()).unwrap();
    server.signal(Signal::TERM);
    server.wait();
    drop(client);
}

#[test]
fn second_signal_stops_it_at_once() {
    let mut server = Server::start(&["1M"]);
    let client = probe(&server);
    let start = Instant::now();
    server.signal(Signal::INT);
    // Signals of one kind that come together are one.
    assert!(wait_until(DRAIN_TIME, || !server.socket().exists()), "it still listens");
    server.signal(Signal::INT);
    server.allow_log("SIGINT, again");
    server.wait_for(128 + 2);
    assert!(start.elapsed() < DRAIN_TIME, "{:?}", start.elapsed());
    drop(client);
}

#[test]
fn client_that_vanishes_leaves_the_others_alone() {
    let server = Server::start(&["1M"]);
    let stays = probe(&server);
    for _ in 0..10 {
        drop(std::os::unix::net::UnixStream::connect(server.socket()).unwrap());
        drop(probe(&server));
    }
    assert_eq!(probe(&server).size, stays.size);
}

#[test]
fn stale_socket_is_replaced() {
    let directory = TempDir::new().unwrap();
    drop(UnixListener::bind(directory.path().join("socket")).unwrap());
    let command = &mut memnbd(directory.path(), ["-U", "socket", "1M"]);
    let server = Server::spawn(directory, command);
    assert_eq!(probe(&server).size, 1 << 20);
}

#[test]
fn one_connection_more_than_allowed_waits() {
    let server = Server::start_tcp(&["-i", "127.0.0.1", "--max-connections", "1", "1M"]);
    let connect = || std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let first = Probe::new(connect(), "");
    let second = connect();
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(std::io::Read::read(&mut &second, &mut [0; 18]).is_err(), "it was served");
    second.set_read_timeout(None).unwrap();
    drop(first);
    assert_eq!(Probe::new(second, "").size, 1 << 20);
}

#[test]
fn client_that_does_not_negotiate_is_dropped_in_time() {
    let mut server = Server::start(&["--handshake-timeout", "0.2", "1M"]);
    let mut client = std::os::unix::net::UnixStream::connect(server.socket()).unwrap();
    let mut greeting = Vec::new();
    std::io::Read::read_to_end(&mut client, &mut greeting).unwrap();
    assert_eq!(greeting.len(), 18);
    server.expect_log("the handshake timed out");
}

#[test]
fn many_servers_start_at_once() {
    let servers: Vec<Server> = (0..8).map(|_| Server::start_tcp(&["1M"])).collect();
    for server in &servers {
        assert_eq!(probe(server).size, 1 << 20);
    }
}

#[test]
fn it_ends_with_the_last_client_that_used_an_export() {
    let mut server = Server::start(&["--exit-last", "1M"]);
    // This one only looks.
    drop(std::os::unix::net::UnixStream::connect(server.socket()).unwrap());
    let (first, second) = (probe(&server), probe(&server));
    drop(first);
    assert_eq!(probe(&server).size, 1 << 20);
    drop(second);
    server.wait();
    assert!(!server.socket().exists());
}

#[test]
fn other_spellings_bound_clients_as_well() {
    let mut server = Server::start(&["--timeout=200ms", "--limit=1", "--keepalive", "1M"]);
    let mut idle = std::os::unix::net::UnixStream::connect(server.socket()).unwrap();
    // It has the only place, until its time is over.
    assert_eq!(probe(&server).size, 1 << 20);
    let mut greeting = Vec::new();
    std::io::Read::read_to_end(&mut idle, &mut greeting).unwrap();
    assert_eq!(greeting.len(), 18);
    server.expect_log("the handshake timed out");
}
