//! Where requests may reach, how long they may be, and what large disks are like.

use super::commands::{chunked, pattern, sessions};
use super::haggle::*;
use super::numbers::*;
use super::session::{Session, Style};
use crate::support::Server;

const GIB: u64 = 1 << 30;
const LARGEST: u64 = i64::MAX as u64;

/// Commands, and the error for a range that reaches beyond the end.
const BEYOND: [(u16, u32); 6] = [
    (cmd::READ, errno::EINVAL),
    (cmd::TRIM, errno::EINVAL),
    (cmd::CACHE, errno::EINVAL),
    (cmd::WRITE, errno::ENOSPC),
    (cmd::WRITE_ZEROES, errno::ENOSPC),
    (cmd::BLOCK_STATUS, errno::EINVAL),
];

#[test]
pub(crate) fn ranges_beyond_the_end_are_refused_and_in_sync() {
    for (size, exact) in [("1M", 1 << 20), ("9223372036854775807", LARGEST)] {
        let server = Server::start(&[size]);
        for mut session in sessions(&server) {
            let mut ranges = vec![
                (exact - 4096, 8192),
                (exact, 4096),
                (exact, 1),
                (1 << 63, 4096),
                (u64::MAX - 4095, 8192),
                (u64::MAX, 1),
            ];
            if exact < GIB {
                ranges.push((0, (1 << 32) - 4096));
            }
            for (command, expected) in BEYOND {
                let context = command != cmd::BLOCK_STATUS || session.style != Style::Simple;
                let expected = if context { expected } else { errno::EINVAL };
                for &(at, length) in &ranges {
                    if command == cmd::WRITE && length > 1 << 20 {
                        continue;
                    }
                    let payload =
                        vec![0xa5; if command == cmd::WRITE { length as usize } else { 0 }];
                    let error = session.call(0, command, at, length, &payload).error;
                    assert_eq!(error, expected, "command {command} of {at:#x}+{length:#x}");
                }
                session.expect_in_sync();
            }
        }
        let mut session = Haggle::new(&server).go("");
        assert!(session.read(exact - 4096, 4096).iter().all(|&byte| byte == 0));
    }
}

#[test]
pub(crate) fn empty_ranges_are_answered() {
    let server = Server::start(&["1M"]);
    for mut session in sessions(&server) {
        for command in [0, 1, 3, 4, 5, 6, 7] {
            for at in [0, 4096, 1 << 20, u64::MAX] {
                let _ = session.ask(0, command, at, 0);
            }
        }
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn first_and_last_block_can_be_written_and_read() {
    let sizes = [("1M", 1 << 20), ("8G", 8 * GIB), ("9223372036854775807", LARGEST), ("1", 1)];
    for (size, exact) in sizes {
        let server = Server::start(&[size]);
        for mut session in sessions(&server) {
            assert_eq!(session.infos.size, exact);
            let length = exact.min(4096);
            let data = pattern(length);
            for at in [0, exact - length] {
                session.write(at, &data);
                assert_eq!(session.read(at, length), data);
                session.zero(0, at, length);
                assert_eq!(session.read(at, length), vec![0; length as usize]);
            }
        }
    }
}

#[test]
pub(crate) fn pattern_is_right_from_one_end_of_the_largest_disk_to_the_other() {
    let server = Server::start(&["pattern", "9223372036854775807"]);
    let byte = |at: u64| (at & !7).to_be_bytes()[at as usize % 8];
    for mut session in sessions(&server) {
        for at in [0, 1, 4093, (1 << 32) - 7, 1 << 40, LARGEST - 70000] {
            for length in [1, 2, 4096, 70000] {
                let expected: Vec<u8> = (at..at + length).map(byte).collect();
                assert_eq!(session.read(at, length), expected);
                session.write(at, &expected);
            }
        }
        // In parts, for the component takes a mebibyte at once.
        let length = (3 << 20) + 5;
        let expected: Vec<u8> = (77..77 + length).map(byte).collect();
        assert_eq!(session.read(77, length), expected);
        assert_eq!(session.call(0, cmd::WRITE, 0, 8, &[1; 8]).error, errno::EIO);
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn payloads_up_to_the_maximum_are_taken() {
    let server = Server::start(&["256M"]);
    for mut session in sessions(&server) {
        let [_, _, maximum] = session.infos.block_sizes.expect("it was asked for");
        let maximum = u64::from(maximum);
        assert!(maximum >= 64 << 20);
        let mut data = vec![0; maximum as usize];
        data[0] = 1;
        data[maximum as usize - 1] = 2;
        data[12345678] = 3;
        session.write(4096, &data);
        assert!(session.read(4096, maximum) == data, "as long as can be");
        assert!(session.read(4097, maximum - 1) == data[1..]);
        let error = session.ask(0, cmd::READ, 0, maximum + 1);
        assert!([errno::EINVAL, errno::EOVERFLOW].contains(&error), "{error}");
        session.zero(0, 0, 256 << 20);
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn payloads_of_32_mib_are_drained_even_if_the_disk_is_smaller() {
    let server = Server::start(&["1M"]);
    for mut session in sessions(&server) {
        assert_eq!(session.ask(0, cmd::READ, 0, 1 << 25), errno::EINVAL);
        let error = session.call(0, cmd::WRITE, 0, 1 << 25, &vec![0x5a; 1 << 25]).error;
        assert_eq!(error, errno::ENOSPC);
        assert_eq!(session.read(0, 1 << 20), vec![0; 1 << 20], "nothing was written");
    }
}

#[test]
pub(crate) fn writes_of_4_gib_end_the_connection() {
    let mut server = Server::start(&["8G"]);
    let before = server.resident();
    for length in [0xffff_f000, 0xffff_ffff] {
        for mut session in sessions(&server) {
            let request = session.request(0, cmd::WRITE, 0, length);
            let header = session.header(&request);
            session.stream.put(&header);
            session.stream.expect_end();
        }
    }
    let mut session = Haggle::new(&server).extended("").go("");
    let request = session.request(with::PAYLOAD_LEN, cmd::WRITE, 0, 1 << 33);
    let header = session.header(&request);
    session.stream.put(&header);
    session.stream.expect_end();
    server.expect_log("with a payload of");
    assert!(server.resident() < before + (32 << 20));
}

#[test]
pub(crate) fn requests_without_payload_may_be_as_long_as_the_disk() {
    for size in ["8G", "9223372036854775807"] {
        let server = Server::start(&[size]);
        let mut session = Haggle::new(&server).extended("").go("");
        let size = session.infos.size;
        session.write(size - 512, &[1; 512]);
        for (command, flags) in [
            (cmd::CACHE, 0),
            (cmd::TRIM, 0),
            (cmd::WRITE_ZEROES, 0),
            (cmd::WRITE_ZEROES, with::FAST_ZERO),
        ] {
            let error = session.ask(flags, command, 0, size);
            let refused = command == cmd::CACHE && error == errno::EINVAL;
            assert!(error == 0 || refused, "command {command}: {error}");
        }
        assert_eq!(session.read(size - 512, 512), [0; 512]);
        assert_eq!(session.status(0, 0, size), [(size, 3)]);
        let [mut simple, mut structured, _] = sessions(&server);
        let most = u64::from(u32::MAX);
        for session in [&mut simple, &mut structured] {
            for command in [cmd::TRIM, cmd::WRITE_ZEROES] {
                assert_eq!(session.ask(0, command, 1 << 30, most), 0);
            }
        }
    }
}

#[test]
pub(crate) fn block_status_of_4_gib_on_8_gib() {
    let server = Server::start(&["8G"]);
    for mut session in chunked(&server) {
        for at in [0, 4096, 1, 4 * GIB] {
            let most = u64::from(u32::MAX);
            let extents = session.status(0, at, most);
            assert!(extents[0].0 >= 0xffff_0000 && extents[0].0 <= 8 * GIB - at);
            assert_eq!(extents[0].1, 3);
        }
        session.write(4 * GIB + 4096, &[1; 4096]);
        let data = walk(&mut session, 8 * GIB)[1];
        assert!(data.0 <= 4 * GIB + 4096 && data.1 <= 65536 && data.2 == 0, "{data:?}");
        session.zero(0, 4 * GIB, 8192);
        session.expect_in_sync();
    }
}

/// All extents of a disk, neighbours of the same state joined: offset, length, state.
pub(crate) fn walk(session: &mut Session, size: u64) -> Vec<(u64, u64, u64)> {
    let mut found: Vec<(u64, u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let longest = if session.style == Style::Extended { size } else { u64::from(u32::MAX) };
        for (length, state) in session.status(0, at, longest.min(size - at)) {
            match found.last_mut() {
                Some(last) if last.2 == state => last.1 += length,
                _ => found.push((at, length, state)),
            }
            at += length;
        }
    }
    assert_eq!(at, size, "nothing beyond the end");
    found
}
