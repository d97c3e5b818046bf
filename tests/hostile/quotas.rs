//! Clients that take connections from others, and clients that keep theirs for nothing.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use super::tenants::{LONG, MIB, Tenants, drain};
use crate::support::{Server, wait_until};
use crate::wire::haggle::{Haggle, info};
use crate::wire::numbers::{cmd, opt, rep};
use crate::wire::session::Session;
use crate::wire::stream::Stream;

const SECOND: Duration = Duration::from_secs(1);

/// How many connections the servers of these tests allow.
const LIMIT: usize = 64;

/// The options of a server that has few connections, which may negotiate as long as they like.
const FEW: [&str; 4] = ["--max-connections", "64", "--handshake-timeout", "0"];

/// How many connections the least tenant can have, whatever the others do.
const GUARANTEED: usize = 4;

/// The neighbour can have its part of the connections.
fn expect_room_for_neighbour(tenants: &Tenants) {
    let mut sessions: Vec<Session> = Vec::new();
    for _ in 0..GUARANTEED {
        sessions.push(tenants.haggle("b").go("b"));
    }
    sessions.iter_mut().for_each(Session::expect_in_sync);
}

#[test]
fn silent_clients_of_one_listener_leave_room_at_another() {
    let tenants = Tenants::with_disk("1M", &FEW);
    let silent: Vec<Stream> = (0..LIMIT * 2).map(|_| tenants.stream("a")).collect();
    expect_room_for_neighbour(&tenants);
    tenants.during(LONG, || thread::sleep(SECOND));
    drop(silent);
}

#[test]
fn idle_clients_of_one_listener_leave_room_at_another() {
    let tenants = Tenants::with_disk("1M", &FEW);
    // As many as are let in, each of which uses the export.
    let mut idle = Vec::new();
    let mut waiting = Vec::new();
    for _ in 0..LIMIT * 2 {
        let stream = tenants.stream("a");
        stream.set_timeout(Some(Duration::from_millis(100)));
        if waiting.is_empty() && is_greeted(&stream) {
            stream.set_timeout(Some(30 * SECOND));
            idle.push(Haggle::greeted(stream));
        } else {
            waiting.push(stream);
        }
    }
    assert!(idle.len() >= GUARANTEED, "{} were let in", idle.len());
    assert!(idle.len() < LIMIT, "one listener has all connections");
    expect_room_for_neighbour(&tenants);
    // Who waits is served when others go.
    drop(idle);
    let first = waiting.remove(0);
    first.set_timeout(Some(30 * SECOND));
    assert!(is_greeted(&first));
}

/// Whether the server has said something, within the timeout of the stream. It stays to be read.
fn is_greeted(stream: &Stream) -> bool {
    let flags = rustix::net::RecvFlags::PEEK;
    rustix::net::recv(stream, &mut [0; 1][..], flags).is_ok_and(|(count, _)| count == 1)
}

#[test]
fn an_export_cannot_have_all_connections_of_a_shared_listener() {
    let mut server =
        Server::start(&["--max-connections=64", "--export=a=memory,1M", "--export=b=memory,1M"]);
    let mut sessions = Vec::new();
    let refusal = loop {
        let mut haggle = Haggle::new(&server);
        let answer = haggle.option(opt::GO, &info("a", &[]));
        if answer.end != rep::ACK {
            break answer;
        }
        sessions.push(haggle.into_session(answer.infos()));
        assert!(sessions.len() < LIMIT, "one export has all connections");
    };
    assert!(sessions.len() >= GUARANTEED, "{} were let in", sessions.len());
    assert!(refusal.text.contains("connections"), "{}", refusal.text);
    let mut others: Vec<Session> = (0..GUARANTEED).map(|_| Haggle::new(&server).go("b")).collect();
    others.iter_mut().for_each(Session::expect_in_sync);
    sessions.iter_mut().for_each(Session::expect_in_sync);
    // There is room again when somebody goes.
    drop(sessions);
    let again =
        wait_until(LONG, || Haggle::new(&server).option(opt::GO, &info("a", &[])).end == rep::ACK);
    assert!(again, "the export refuses although nobody uses it");
    server.allow_log("connections");
}

#[test]
fn a_client_that_stops_reading_is_closed_in_time() {
    let tenants = Tenants::with_disk("64M", &["--stall-timeout", "4"]);
    let mut writer = tenants.attacker();
    writer.write(0, &vec![7; 8 << 20]);
    let fds = tenants.server.fds().len();
    let mut stalled: Vec<Session> = (0..20).map(|_| tenants.attacker()).collect();
    for session in &mut stalled {
        let read = session.request(0, cmd::READ, 0, 8 * MIB);
        session.send(read, b"");
    }
    // Who waits for nothing does not stall, and who reads little by little does not either.
    let mut slow = tenants.attacker();
    let read = slow.request(0, cmd::READ, 0, 8 * MIB);
    slow.send(read, b"");
    let end = Instant::now() + 8 * SECOND;
    let mut taken = 0;
    while Instant::now() < end {
        taken += slow.stream.take_vec(16 << 10).len();
        thread::sleep(SECOND / 40);
    }
    let gone = wait_until(LONG, || tenants.server.fds().len() <= fds + 1);
    assert!(gone, "{} are still there", tenants.server.fds().len() - fds);
    let rest = slow.stream.take_vec((8 << 20) + 16 - taken);
    assert!(rest.ends_with(&[7; 4096]));
    writer.expect_in_sync();
    for session in &mut stalled {
        drain(&mut session.stream);
    }
}

#[test]
fn a_client_that_wants_nothing_is_closed_where_that_is_asked_for() {
    let tenants =
        Tenants::with_component(&["compute"], &["--idle-timeout", "1", "--deadline", "60"]);
    let mut busy = tenants.attacker();
    // Who waits for a reply is not idle: this one computes for more than a second.
    let mut waiting = tenants.attacker();
    let read = waiting.request(0, cmd::READ, 4096 * 3000, 4096);
    waiting.send(read, b"");
    let mut idle = tenants.attacker();
    let mut half_header = tenants.attacker();
    half_header.stream.put(&[0x25, 0x60, 0x95, 0x13, 0, 0]);
    let mut half_payload = tenants.attacker();
    let write = half_payload.request(0, cmd::WRITE, 0, 4096);
    let header = half_payload.header(&write);
    half_payload.stream.put(&[header, vec![1; 100]].concat());
    let start = Instant::now();
    while start.elapsed() < 3 * SECOND {
        busy.expect_in_sync();
        thread::sleep(SECOND / 10);
    }
    for session in [&mut idle, &mut half_header, &mut half_payload] {
        session.stream.expect_end();
    }
    waiting.receive().1.success();
    busy.expect_in_sync();
}

#[test]
fn clients_that_come_and_go_delay_nobody_else() {
    let tenants = Tenants::with_disk("1M", &[]);
    let attack = || {
        thread::scope(|scope| {
            for kind in 0..4 {
                let tenants = &tenants;
                scope.spawn(move || {
                    for _ in 0..3000 {
                        match kind {
                            0 => drop(tenants.stream("a")),
                            1 => drop(tenants.haggle("a")),
                            2 => drop(tenants.attacker()),
                            _ => {
                                let mut stream = tenants.stream("a");
                                let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
                            }
                        }
                    }
                });
            }
        });
    };
    let (_, neighbour) = tenants.during(LONG, attack);
    assert!(neighbour.median < SECOND / 20, "{neighbour:?}");
}
