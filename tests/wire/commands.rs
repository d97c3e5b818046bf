//! Every command with every flag, in each style of replies.

use super::haggle::*;
use super::numbers::*;
use super::session::{Session, Style};
use crate::support::Server;

const MIB: u64 = 1 << 20;

/// All commands that have a reply.
const COMMANDS: [u16; 7] = [
    cmd::READ,
    cmd::WRITE,
    cmd::FLUSH,
    cmd::TRIM,
    cmd::CACHE,
    cmd::WRITE_ZEROES,
    cmd::BLOCK_STATUS,
];

/// A session in each style.
pub(crate) fn sessions(server: &Server) -> [Session; 3] {
    [
        Haggle::new(server).go(""),
        Haggle::new(server).structured("").go(""),
        Haggle::new(server).extended("").go(""),
    ]
}

/// A session that has structured replies, or extended headers.
pub(crate) fn chunked(server: &Server) -> [Session; 2] {
    let [_, structured, extended] = sessions(server);
    [structured, extended]
}

/// Bytes that tell where they are, and are never zero.
pub(crate) fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at * 7 % 251) as u8 + 1).collect()
}

/// The offset, length and payload of a request that every command takes.
fn arguments(command: u16) -> (u64, u64, Vec<u8>) {
    match command {
        cmd::FLUSH => (0, 0, Vec::new()),
        cmd::WRITE => (4096, 4096, vec![0x11; 4096]),
        _ => (4096, 4096, Vec::new()),
    }
}

#[test]
pub(crate) fn every_command_takes_its_flags_and_no_others() {
    let server = Server::start(&["1M"]);
    for mut session in sessions(&server) {
        let offered = session.infos.flags;
        for command in COMMANDS {
            let (at, length, payload) = arguments(command);
            for bit in 0..16 {
                let flag: u16 = 1 << bit;
                if flag == with::PAYLOAD_LEN && session.style == Style::Extended {
                    continue;
                }
                let takes = flag == with::FUA
                    || match command {
                        cmd::READ => flag == with::DF && offered & flag::SEND_DF != 0,
                        cmd::WRITE_ZEROES => [with::NO_HOLE, with::FAST_ZERO].contains(&flag),
                        cmd::BLOCK_STATUS => flag == with::REQ_ONE,
                        _ => false,
                    };
                let error = session.call(flag, command, at, length, &payload).error;
                let no_context = command == cmd::BLOCK_STATUS && session.style == Style::Simple;
                let expected = if takes && !no_context { 0 } else { errno::EINVAL };
                assert_eq!(error, expected, "command {command} with {flag:#x}");
            }
            session.expect_in_sync();
        }
        let all = with::FUA | with::NO_HOLE | with::FAST_ZERO;
        assert_eq!(session.ask(all, cmd::WRITE_ZEROES, 0, 4096), 0);
    }
}

#[test]
pub(crate) fn unknown_commands_are_refused_and_in_sync() {
    let server = Server::start(&["1M"]);
    for mut session in sessions(&server) {
        for command in [0xff, 8, 0xffff, 0x100, 0x101, 0x4242] {
            for flags in [0, with::FUA, with::UNKNOWN] {
                assert_eq!(session.ask(flags, command, 4096, 4096), errno::EINVAL);
            }
        }
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn cookies_are_repeated_whatever_they_are() {
    let server = Server::start(&["1M"]);
    for mut session in sessions(&server) {
        for cookie in [0, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 63] {
            for command in COMMANDS {
                let (at, length, payload) = arguments(command);
                let mut request = session.request(0, command, at, length);
                request.cookie = cookie;
                session.send(request, &payload);
                assert_eq!(session.receive().0, request);
            }
        }
    }
}

#[test]
pub(crate) fn what_is_written_is_read_there_and_nowhere_else() {
    let server = Server::start(&["8M"]);
    for mut session in sessions(&server) {
        let data = pattern(65536);
        session.zero(0, 0, 8 * MIB);
        session.write(MIB, &data);
        assert_eq!(session.read(MIB, 65536), data);
        assert!(session.read(MIB - 4096, 4096).iter().all(|&byte| byte == 0));
        assert!(session.read(MIB + 65536, 4096).iter().all(|&byte| byte == 0));
        // Any byte range, for the minimum block size is one.
        session.write(MIB + 511, &[0xaa]);
        session.write(MIB + 4095, &[0xbb, 0xcc]);
        let mut expected = data.clone();
        expected[511] = 0xaa;
        expected[4095..4097].copy_from_slice(&[0xbb, 0xcc]);
        assert_eq!(session.read(MIB + 1, 9998), expected[1..9999]);
        session.disconnect();
        // Later connections see it.
        let mut later = Haggle::new(&server).go("");
        assert_eq!(later.read(MIB, 65536), expected);
    }
}

#[test]
pub(crate) fn zeroes_and_trims_touch_their_range_only() {
    let server = Server::start(&["8M"]);
    for mut session in sessions(&server) {
        let data = pattern(MIB / 4);
        let ranges = [(4096, 8192), (5000, 70000), (65535, 2), (100, 1), (3, 200_000)];
        for (command, flags) in [
            (cmd::WRITE_ZEROES, 0),
            (cmd::WRITE_ZEROES, with::NO_HOLE),
            (cmd::WRITE_ZEROES, with::FUA),
            (cmd::WRITE_ZEROES, with::FAST_ZERO),
            (cmd::WRITE_ZEROES, with::FAST_ZERO | with::NO_HOLE),
            (cmd::TRIM, 0),
            (cmd::TRIM, with::FUA),
            (cmd::CACHE, 0),
        ] {
            for (at, length) in ranges {
                session.write(4 * MIB, &data);
                let error = session.ask(flags, command, 4 * MIB + at, length);
                let refused = error == errno::ENOTSUP && flags & with::FAST_ZERO != 0;
                assert!(error == 0 || refused, "command {command} with {flags}: {error}");
                let now = session.read(4 * MIB, MIB / 4);
                let (at, end) = (at as usize, (at + length) as usize);
                assert_eq!(now[..at], data[..at]);
                assert_eq!(now[end..], data[end..]);
                let touched = &now[at..end];
                match command {
                    cmd::WRITE_ZEROES if !refused => assert!(touched.iter().all(|b| *b == 0)),
                    cmd::TRIM => {
                        let mut pairs = touched.iter().zip(&data[at..end]);
                        assert!(pairs.all(|(now, was)| *now == 0 || now == was));
                    }
                    _ => assert_eq!(touched, &data[at..end]),
                }
            }
        }
    }
}

#[test]
pub(crate) fn flush_and_fua_are_offered_and_work() {
    let server = Server::start(&["1M"]);
    for mut session in sessions(&server) {
        let needed = flag::SEND_FLUSH | flag::SEND_FUA;
        assert_eq!(session.infos.flags & needed, needed);
        session.write_with(with::FUA, 512, &[1; 512]);
        session.zero(with::FUA, 512, 100);
        session.flush();
        // Its fields are reserved: whatever the answer, the connection goes on.
        let _ = session.ask(0, cmd::FLUSH, 512, 1024);
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn flags_tell_what_the_disk_can_do() {
    let all = Server::start(&["1M"]);
    let memory = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::CAN_MULTI_CONN
        | flag::SEND_CACHE
        | flag::SEND_FAST_ZERO;
    let [simple, structured, extended] = sessions(&all);
    assert_eq!(simple.infos.flags | flag::SEND_CACHE, memory);
    assert_eq!(structured.infos.flags, simple.infos.flags | flag::SEND_DF);
    let own = flag::SEND_DF | flag::BLOCK_STATUS_PAYLOAD;
    assert_eq!(extended.infos.flags, simple.infos.flags | own);
    // The pattern can neither trim nor zero quickly.
    let server = Server::start(&["pattern", "1M"]);
    for mut session in sessions(&server) {
        let flags = session.infos.flags;
        assert_eq!(flags & (flag::SEND_TRIM | flag::SEND_FAST_ZERO | flag::READ_ONLY), 0);
        assert_eq!(session.ask(0, cmd::TRIM, 0, 4096), errno::EINVAL);
        let fast = session.ask(with::FAST_ZERO, cmd::WRITE_ZEROES, 0, 4096);
        assert_eq!(fast, errno::EINVAL, "fast zero is not offered");
        // The rest fails as the pattern does, never with ENOTSUP.
        for flags in [0, with::NO_HOLE, with::FUA] {
            assert_eq!(session.ask(flags, cmd::WRITE_ZEROES, 0, 4096), errno::EIO);
        }
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn read_only_disks_can_only_be_read() {
    let server = Server::start(&["-r", "1M"]);
    for mut session in sessions(&server) {
        let flags = session.infos.flags;
        assert_ne!(flags & flag::READ_ONLY, 0);
        assert_eq!(flags & (flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO), 0);
        for flags in [0, with::FUA] {
            for command in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
                let (at, length, payload) = arguments(command);
                let error = session.call(flags, command, at, length, &payload).error;
                assert_eq!(error, errno::EPERM, "command {command}");
            }
        }
        session.flush();
        assert_eq!(session.read(0, MIB), vec![0; MIB as usize]);
        session.expect_in_sync();
    }
}
