//! Requests on their way: pipelined, in pieces, slowly read, on several connections.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use super::commands::{pattern, sessions};
use super::haggle::*;
use super::numbers::*;
use super::session::{Session, compact};
use crate::support::Server;

const MIB: u64 = 1 << 20;

#[test]
pub(crate) fn pipelined_requests_are_each_answered_once() {
    let server = Server::start(&["8M"]);
    for mut session in sessions(&server) {
        let mut burst = Vec::new();
        let mut expected = HashMap::new();
        for index in 0..64 {
            let at = index * 8192;
            for (command, flags, at, length, error) in [
                (cmd::WRITE, 0, at, 4096, 0),
                (cmd::READ, 0, at + 4096, 4096, 0),
                (cmd::READ, 0, 8 * MIB, 4096, errno::EINVAL),
                (cmd::WRITE, 0, 8 * MIB, 4096, errno::ENOSPC),
                (0xff, 0, 0, 4096, errno::EINVAL),
                (cmd::FLUSH, 0, 0, 0, 0),
                (cmd::WRITE, with::UNKNOWN, at, 4096, errno::EINVAL),
            ] {
                let request = session.request(flags, command, at, length);
                burst.extend(session.header(&request));
                if command == cmd::WRITE {
                    burst.resize(burst.len() + length as usize, index as u8 + 1);
                }
                expected.insert(request.cookie, error);
                session.expect(request);
            }
        }
        session.stream.put(&burst);
        while session.outstanding() > 0 {
            let (request, outcome) = session.receive();
            assert_eq!(Some(outcome.error), expected.remove(&request.cookie), "{request:?}");
        }
        assert!(expected.is_empty());
        for index in 0..64 {
            assert_eq!(session.read(index * 8192, 4096), [index as u8 + 1; 4096]);
        }
        session.stream.expect_silence();
    }
}

#[test]
fn requests_with_the_same_cookie_are_all_answered() {
    let server = Server::start(&["1M"]);
    for mut session in sessions(&server) {
        session.write(0, &[7; 4096]);
        for _ in 0..4 {
            let mut request = session.request(0, cmd::READ, 0, 4096);
            request.cookie = 42;
            session.send(request, b"");
        }
        for _ in 0..4 {
            assert_eq!(session.receive().1.success().data, [7; 4096]);
        }
        session.stream.expect_silence();
    }
}

#[test]
pub(crate) fn requests_in_pieces_are_requests() {
    for server in [Server::start(&["1M"]), Server::start_tcp(&["1M"])] {
        for mut session in sessions(&server) {
            let data = pattern(2000);
            let write = session.request(0, cmd::WRITE, 77, 2000);
            let read = session.request(0, cmd::READ, 77, 2000);
            let bytes = [session.header(&write), data.clone(), session.header(&read)].concat();
            for segment in [1, 97, 42, bytes.len()] {
                session.zero(0, 0, 4096);
                session.expect(write);
                session.expect(read);
                for piece in bytes.chunks(segment) {
                    session.stream.put(piece);
                    if segment == 97 {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
                let answers = [session.receive(), session.receive()];
                let (_, outcome) = answers.into_iter().find(|(r, _)| *r == read).unwrap();
                assert_eq!(outcome.success().data, data);
            }
        }
    }
}

#[test]
pub(crate) fn slow_readers_get_every_reply() {
    for server in [Server::start(&["64M"]), Server::start_tcp(&["64M"])] {
        for mut session in sessions(&server) {
            let data = pattern(MIB);
            for index in 0..32 {
                let mut data = data.clone();
                data[0] = index as u8;
                session.write(index * MIB, &data);
            }
            for index in 0..32 {
                let request = session.request(0, cmd::READ, index * MIB, MIB);
                session.send(request, b"");
            }
            thread::sleep(Duration::from_millis(50));
            while session.outstanding() > 0 {
                let (request, outcome) = session.receive();
                let read = outcome.success().data;
                assert_eq!(read[0], (request.offset / MIB) as u8);
                assert!(read[1..] == data[1..]);
            }
        }
    }
}

#[test]
pub(crate) fn writes_before_disc_take_effect() {
    for server in [Server::start(&["64M"]), Server::start_tcp(&["64M"])] {
        for index in 0..3 {
            let mut session = sessions(&server).into_iter().nth(index).unwrap();
            let fill = 0x40 + index as u8;
            let mut burst = Vec::new();
            for index in 0..32 {
                let request = session.request(0, cmd::WRITE, index * 65536, 65536);
                burst.extend(session.header(&request));
                burst.resize(burst.len() + 65536, fill);
                session.expect(request);
            }
            let disc = session.request(0, cmd::DISC, 0, 0);
            burst.extend(session.header(&disc));
            session.stream.put(&burst);
            while session.outstanding() > 0 {
                session.receive().1.success();
            }
            session.stream.expect_end();
            let mut later = Haggle::new(&server).go("");
            let read = later.read(0, 32 * 65536);
            assert!(read.iter().all(|&byte| byte == fill), "some writes had no effect");
        }
    }
}

#[test]
pub(crate) fn disc_closes_whatever_its_fields_say() {
    let server = Server::start(&["1M"]);
    for (flags, at, length) in [(0, 0, 0), (with::FUA, 0, 0), (0, 4096, 4096), (0xffff, 1, 1)] {
        for mut session in sessions(&server) {
            let request = session.request(flags, cmd::DISC, at, length);
            let header = session.header(&request);
            session.stream.put(&header);
            session.stream.expect_end();
        }
    }
    Haggle::new(&server).go("").disconnect();
}

#[test]
pub(crate) fn who_only_stops_sending_still_gets_its_replies() {
    for server in [Server::start(&["8M"]), Server::start_tcp(&["8M"])] {
        for mut session in sessions(&server) {
            for _ in 0..8 {
                let request = session.request(0, cmd::READ, 0, MIB);
                session.send(request, b"");
            }
            let request = session.request(0, cmd::WRITE, 0, 512);
            session.send(request, &[1; 512]);
            session.stream.finish_sending();
            while session.outstanding() > 0 {
                session.receive().1.success();
            }
            session.stream.expect_end();
        }
    }
}

/// Whatever is answered on one connection is seen by another once this was said on `flusher`.
#[test]
pub(crate) fn what_was_flushed_is_seen_on_all_connections() {
    for (server, rounds) in [(Server::start(&["8M"]), 20), (Server::start_tcp(&["8M"]), 20)] {
        let [mut a, mut b, mut c] = sessions(&server);
        assert_ne!(a.infos.flags & flag::CAN_MULTI_CONN, 0);
        for round in 0..rounds {
            let (old, new) = (vec![round * 4; 70_000], vec![round * 4 + 1; 70_000]);
            let at = u64::from(round) * 65536 + 11;
            a.write_with(with::FUA, at, &old);
            assert_eq!(b.read(at, 70_000), old);
            a.write(at, &new);
            a.flush();
            assert_eq!(b.read(at, 70_000), new);
            a.write(at, &old);
            b.flush();
            assert_eq!(c.read(at, 70_000), old);
            c.zero(with::FUA, at, 70_000);
            assert_eq!(a.read(at, 70_000), [0; 70_000]);
            assert_eq!(b.read(at, 70_000), [0; 70_000]);
        }
    }
}

#[test]
fn eight_connections_work_at_once() {
    let server = Server::start_tcp(&["64M"]);
    thread::scope(|scope| {
        for index in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let mut session = sessions(server).into_iter().nth(index % 3).unwrap();
                let base = index as u64 * 8 * MIB;
                for round in 0..50 {
                    let data = vec![(index * 50 + round) as u8; 100_000];
                    session.write(base + round as u64 * 1000, &data);
                    assert!(session.read(base + round as u64 * 1000, 100_000) == data);
                }
            });
        }
    });
}

/// A header that waits for the rest must not keep replies back.
#[test]
pub(crate) fn a_request_and_a_half_is_a_request() {
    let server = Server::start(&["1M"]);
    let mut session: Session = Haggle::new(&server).go("");
    let first = session.request(0, cmd::READ, 0, 512);
    let second = session.request(0, cmd::READ, 512, 512);
    let bytes = [compact(&first), compact(&second)].concat();
    session.expect(first);
    session.expect(second);
    session.stream.put(&bytes[..42]);
    assert_eq!(session.receive().0, first);
    session.stream.put(&bytes[42..]);
    assert_eq!(session.receive().0, second);
}
