//! What clients are told when the server stops.

use rustix::process::Signal;

use super::commands::sessions;
use super::haggle::*;
use super::numbers::*;
use super::stream::Stream;
use crate::support::{Server, wait_until};
use std::time::Duration;

/// Tells a server to stop, and waits until it has begun to.
fn stop(server: &Server) {
    server.signal(Signal::TERM);
    assert!(wait_until(Duration::from_secs(10), || !server.socket().exists()), "it still listens");
}

#[test]
fn who_haggles_is_told() {
    let mut server = Server::start(&["-e", "disk", "1M"]);
    let mut haggle = Haggle::new(&server).structured("disk");
    let mut late = Haggle::greeted(Stream::connect(&server));
    let mut named = Haggle::new(&server);
    // Where the machine is so slow that it is cut off first, this is not logged.
    server.allow_log("EXPORT_NAME while the server is shutting down");
    stop(&server);
    named.stream.put(&option(opt::EXPORT_NAME, b"disk"));
    named.stream.expect_end();
    late.stream.put(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
    for haggle in [&mut haggle, &mut late] {
        for (number, data) in [
            (opt::INFO, info("disk", &[])),
            (opt::GO, info("disk", &[])),
            (opt::LIST, Vec::new()),
            (opt::STRUCTURED_REPLY, Vec::new()),
            (opt::UNKNOWN, Vec::new()),
        ] {
            let answer = haggle.option(number, &data);
            assert_eq!(answer.end, rep::ERR_SHUTDOWN, "option {number}");
            assert!(answer.interim.is_empty());
        }
        haggle.accept(opt::ABORT, b"");
        haggle.stream.expect_end();
    }
    server.wait();
}

#[test]
pub(crate) fn requests_are_refused_once_the_server_stops() {
    let mut server = Server::start(&["1M"]);
    let mut sessions = sessions(&server);
    for session in &mut sessions {
        session.expect_in_sync();
    }
    stop(&server);
    for session in &mut sessions {
        for command in [cmd::READ, cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE] {
            assert_eq!(session.ask(0, command, 0, 4096), errno::ESHUTDOWN);
        }
        let outcome = session.call(0, cmd::WRITE, 0, 4096, &[1; 4096]);
        assert_eq!(outcome.error, errno::ESHUTDOWN);
        assert_eq!(session.ask(0, cmd::FLUSH, 0, 0), errno::ESHUTDOWN);
    }
    for session in sessions {
        session.disconnect();
    }
    server.wait();
}

#[test]
pub(crate) fn requests_in_flight_are_finished() {
    let mut server = Server::start(&["64M"]);
    let mut session = Haggle::new(&server).go("");
    session.write(0, &[9; 1 << 20]);
    for _ in 0..32 {
        let request = session.request(0, cmd::READ, 0, 1 << 20);
        session.send(request, b"");
    }
    // A write of which half is there is in flight, too.
    let request = session.request(0, cmd::WRITE, 0, 4096);
    let header = session.header(&request);
    session.expect(request);
    session.stream.put(&[header, vec![3; 2048]].concat());
    stop(&server);
    session.stream.put(&[3; 2048]);
    while session.outstanding() > 0 {
        let (_, outcome) = session.receive();
        assert!([0, errno::ESHUTDOWN].contains(&outcome.error));
        assert!(outcome.data.iter().all(|byte| [9, 3].contains(byte)));
    }
    drop(session);
    server.wait();
}

#[test]
pub(crate) fn who_does_not_go_is_disconnected() {
    let mut server = Server::start(&["1M"]);
    let mut session = Haggle::new(&server).go("");
    session.expect_in_sync();
    stop(&server);
    session.stream.expect_end();
    server.wait();
}
