//! Clients that hang up or reset at every byte of a conversation, while another one goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::commands::pattern;
use super::haggle::*;
use super::numbers::*;
use super::session::{Request, compact, extended};
use super::stream::Stream;
use crate::support::{LIMIT, Server, wait_until};

/// The longest that the client may wait who behaves: far more than a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a client goes.
#[derive(Clone, Copy)]
enum Farewell {
    /// It closes, with replies unread: a reset of a kind over Unix sockets, too.
    Close,
    /// It closes once what it asked for may be under way.
    CloseLate,
    Reset,
    ResetLate,
}

/// Runs `harm` while a client writes and reads undisturbed; then the server is as it was before.
fn beside_a_good_client(server: &Server, harm: impl FnOnce()) {
    let mut session = Haggle::new(server).structured("").go("");
    session.write(0, &pattern(65536));
    let (before, threads) = (server.fds().len(), server.threads());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let good = scope.spawn(|| {
            let mut rounds = 0;
            let mut worst = Duration::ZERO;
            while rounds < 10 || !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                let data = vec![rounds as u8; 10_000];
                session.write(1 << 20, &data);
                assert!(session.read(1 << 20, 10_000) == data);
                worst = worst.max(start.elapsed());
                rounds += 1;
                thread::sleep(Duration::from_millis(1));
            }
            assert!(session.read(0, 65536) == pattern(65536));
            worst
        });
        harm();
        done.store(true, Ordering::Relaxed);
        let worst = good.join().unwrap();
        assert!(worst < PATIENCE, "the good client waited {worst:?}");
    });
    let ended = wait_until(LIMIT, || server.fds().len() <= before);
    assert!(ended, "{} file descriptors, {before} before", server.fds().len());
    // On a busy machine a request may have taken so long that the disk got threads of its own.
    let most = threads + thread::available_parallelism().map_or(1, usize::from).min(16);
    assert!(server.threads() <= most, "{} threads, {threads} before", server.threads());
}

/// Sends the first bytes of a conversation and goes, for each number of bytes and in each way.
fn go_at_every_byte(server: &Server, bytes: &[u8], ways: &[Farewell]) {
    for length in 0..=bytes.len() {
        for way in ways {
            let mut stream = Stream::connect(server);
            stream.put(&bytes[..length]);
            if let Farewell::CloseLate | Farewell::ResetLate = way {
                // Somewhere in the middle of things, wherever that is.
                thread::sleep(Duration::from_micros(200 + length as u64 % 7 * 150));
            }
            match way {
                Farewell::Close | Farewell::CloseLate => drop(stream),
                Farewell::Reset | Farewell::ResetLate => stream.reset(),
            }
        }
    }
}

fn request(command: u16, offset: u64, length: u64) -> Request {
    Request { flags: 0, command, cookie: 0x1122_3344_5566_7788, offset, length }
}

/// From the client's flags to transmission.
fn handshake(style: u32) -> Vec<u8> {
    [
        &FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes()[..],
        &option(style, b""),
        &option(opt::SET_META_CONTEXT, &meta("", &["base:allocation"])),
        &option(opt::INFO, &info("", &[0, 1, 2, 3])),
        &option(opt::LIST, b""),
        &option(opt::GO, &info("", &[3])),
    ]
    .concat()
}

const BOTH: [Farewell; 2] = [Farewell::Close, Farewell::CloseLate];
const ALL: [Farewell; 4] =
    [Farewell::Close, Farewell::Reset, Farewell::CloseLate, Farewell::ResetLate];

#[test]
fn in_the_handshake() {
    let bytes = handshake(opt::STRUCTURED_REPLY);
    let server = Server::start(&["64M"]);
    beside_a_good_client(&server, || go_at_every_byte(&server, &bytes, &BOTH));
    let server = Server::start_tcp(&["64M"]);
    beside_a_good_client(&server, || go_at_every_byte(&server, &bytes, &ALL));
}

#[test]
fn in_a_write_with_its_payload() {
    let mut bytes = handshake(opt::EXTENDED_HEADERS);
    let start = bytes.len();
    let write = Request { flags: with::PAYLOAD_LEN, ..request(cmd::WRITE, 2 << 20, 300) };
    bytes.extend(extended(&write));
    bytes.extend([0x77; 300]);
    // Every write is whole: what is announced and not sent is never written.
    let server = Server::start(&["64M"]);
    beside_a_good_client(&server, || {
        go_at_every_byte(&server, &bytes[..bytes.len() - 1], &[Farewell::Close])
    });
    let mut session = Haggle::new(&server).go("");
    assert_eq!(session.read(2 << 20, 300), [0; 300]);
    let server = Server::start_tcp(&["64M"]);
    beside_a_good_client(&server, || {
        for length in start..=bytes.len() {
            for way in ALL {
                let cut = &bytes[..length];
                let mut stream = Stream::connect(&server);
                stream.put(cut);
                match way {
                    Farewell::Close | Farewell::CloseLate => drop(stream),
                    Farewell::Reset | Farewell::ResetLate => stream.reset(),
                }
            }
        }
    });
}

#[test]
fn with_reads_in_flight() {
    let mut bytes = handshake(opt::STRUCTURED_REPLY);
    for index in 0..6 {
        bytes.extend(compact(&request(cmd::READ, index * 100_000, 1 << 20)));
        bytes.extend(compact(&request(cmd::BLOCK_STATUS, index, 60 << 20)));
    }
    bytes.extend(compact(&request(cmd::WRITE_ZEROES, 4 << 20, 8 << 20)));
    bytes.extend(compact(&request(cmd::FLUSH, 0, 0)));
    let server = Server::start(&["64M"]);
    beside_a_good_client(&server, || go_at_every_byte(&server, &bytes, &BOTH));
    let server = Server::start_tcp(&["64M"]);
    beside_a_good_client(&server, || go_at_every_byte(&server, &bytes, &ALL));
}

/// The client reads so many bytes of the replies, then goes.
#[test]
fn at_every_byte_of_the_replies() {
    for server in [Server::start(&["64M"]), Server::start_tcp(&["64M"])] {
        let mut bytes = handshake(opt::STRUCTURED_REPLY);
        let mut prepare = Haggle::new(&server).go("");
        prepare.write(8 << 20, &pattern(40_000));
        bytes.extend(compact(&request(cmd::READ, 8 << 20, 100)));
        bytes.extend(compact(&request(cmd::READ, (8 << 20) - 100, 40_000)));
        bytes.extend(compact(&request(cmd::BLOCK_STATUS, 0, 60 << 20)));
        bytes.extend(compact(&request(cmd::READ, 64 << 20, 1)));
        beside_a_good_client(&server, || {
            for length in (0..600).chain((600..41_000).step_by(499)) {
                let mut stream = Stream::connect(&server);
                stream.put(&bytes);
                stream.take_vec(length);
                match length % 3 {
                    0 => stream.reset(),
                    _ => drop(stream),
                }
            }
        });
    }
}
