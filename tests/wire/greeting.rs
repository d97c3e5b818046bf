//! The greeting, the client's flags, and how requests are cut into segments.

use std::time::Duration;

use super::haggle::*;
use super::numbers::*;
use super::stream::Stream;
use crate::support::Server;

#[test]
fn nothing_follows_the_greeting_until_the_client_speaks() {
    for server in [Server::start(&["1M"]), Server::start_tcp(&["1M"])] {
        let mut haggle = Haggle::greeted(Stream::connect(&server));
        haggle.stream.expect_silence();
        haggle.stream.put(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
        haggle.stream.expect_silence();
        haggle.expect_in_sync();
    }
}

#[test]
fn unknown_client_flags_end_the_connection() {
    let mut server = Server::start(&["1M"]);
    for flags in [4, 5, 7, 0x8000_0001, 0xffff_ffff, 0x0001_0000] {
        Haggle::with_flags(&server, flags).stream.expect_end();
    }
    server.expect_log("client flags");
}

#[test]
fn flags_that_were_masked_end_the_connection() {
    for (mask, offered, good) in [("0", [0, 0], 0), ("1", [0, 1], 1), ("2", [0, 2], 2)] {
        let mut server = Server::start(&["--mask-handshake", mask, "1M"]);
        for (flags, ends) in [(good, false), (3, true)] {
            let mut stream = Stream::connect(&server);
            assert_eq!(stream.take::<18>()[16..], offered);
            stream.put(&u32::to_be_bytes(flags));
            match ends {
                true => stream.expect_end(),
                false => stream.expect_silence(),
            }
        }
        server.expect_log("client flags");
    }
}

#[test]
fn option_without_its_magic_is_not_obeyed() {
    let mut server = Server::start(&["1M"]);
    let mut haggle = Haggle::new(&server);
    haggle.stream.put(&[&b"WHATVERS"[..], &[0, 0, 0, 6, 0, 0, 0, 6], &[0; 6]].concat());
    haggle.stream.expect_end();
    server.expect_log("option with wrong magic");
}

#[test]
fn any_segmentation_is_a_stream_of_bytes() {
    for server in [Server::start(&["1M"]), Server::start_tcp(&["1M"])] {
        let mut bytes = FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes().to_vec();
        bytes.extend(option(opt::STRUCTURED_REPLY, b""));
        bytes.extend(option(opt::INFO, &info("", &[0, 3])));
        bytes.extend(option(opt::GO, &info("", &[3])));
        for segment in [1, 3, 16, bytes.len()] {
            let mut haggle = Haggle::greeted(Stream::connect(&server));
            for piece in bytes.chunks(segment) {
                haggle.stream.put(piece);
                if segment < 16 {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            assert_eq!(haggle.answer(opt::STRUCTURED_REPLY).end, rep::ACK);
            assert_eq!(haggle.answer(opt::INFO).infos().size, 1 << 20);
            let infos = haggle.answer(opt::GO).infos();
            haggle.into_session(infos).expect_in_sync();
        }
    }
}

#[test]
fn client_without_flags_gets_what_it_knows() {
    let server = Server::start(&["1M"]);
    for flags in [0, 1] {
        let mut haggle = Haggle::with_flags(&server, flags);
        haggle.stream.put(&option(opt::EXPORT_NAME, b""));
        assert_eq!(haggle.stream.take_u64(), 1 << 20);
        let flags = haggle.stream.take_u16();
        assert_eq!(haggle.stream.take(), [0; 124]);
        haggle.stream.expect_silence();
        let infos = Infos { size: 1 << 20, flags, ..Infos::default() };
        haggle.into_session(infos).expect_in_sync();
    }
}

#[test]
fn small_replies_are_not_held_back_and_vanished_clients_found_out() {
    use rustix::io::Errno;
    use rustix::net::sockopt;
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

    let server = Server::start_tcp(&["1M"]);
    let session = Haggle::new(&server).go("");
    let Stream::Tcp(stream) = &session.stream else { panic!("it is a TCP socket") };
    let ours = stream.local_addr().unwrap();
    let pidfd = pidfd_open(server.pid(), PidfdFlags::empty()).unwrap();
    let mut found = 0;
    for fd in server.fds() {
        let socket = match pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()) {
            Ok(socket) => std::net::TcpStream::from(socket),
            Err(Errno::PERM | Errno::NOSYS) => {
                eprintln!("skipped, for looking into another process is not permitted here");
                return;
            }
            // It was closed in the meantime.
            Err(_) => continue,
        };
        if socket.peer_addr().is_ok_and(|peer| peer.port() == ours.port()) {
            assert!(socket.nodelay().unwrap(), "TCP_NODELAY is not set");
            assert!(sockopt::socket_keepalive(&socket).unwrap(), "SO_KEEPALIVE is not set");
            found += 1;
        }
    }
    assert_eq!(found, 1, "the server's end of our connection");
}
