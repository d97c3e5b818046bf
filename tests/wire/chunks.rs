//! Structured replies, block status and extended headers.

use super::commands::{chunked, pattern};
use super::haggle::*;
use super::numbers::*;
use super::ranges::walk;
use super::session::{Style, compact};
use crate::support::Server;

const MIB: u64 = 1 << 20;

#[test]
pub(crate) fn reads_tell_holes_from_data() {
    let server = Server::start(&["8M"]);
    for mut session in chunked(&server) {
        session.zero(0, 0, 8 * MIB);
        session.write(MIB, &pattern(MIB));
        let whole = session.call(0, cmd::READ, 0, 8 * MIB, b"").success();
        // What is longer than 4 MiB is read in pieces.
        let first = [(0, MIB, true), (MIB, MIB, false), (2 * MIB, 2 * MIB, true)];
        let expected = [&first[..], &[(4 * MIB, 4 * MIB, true)]].concat();
        assert_eq!(whole.chunks, expected);
        assert!(whole.data[MIB as usize..2 * MIB as usize] == pattern(MIB));
        let hole = session.call(0, cmd::READ, 3 * MIB, MIB, b"").success();
        assert_eq!(hole.chunks, [(3 * MIB, MIB, true)]);
        // The edges within a read are aligned, its own need not be.
        let odd = session.call(0, cmd::READ, MIB - 70000 + 3, 200_000, b"").success();
        let inner = &odd.chunks[1..];
        assert!(inner.iter().all(|(at, _, _)| at % 512 == 0), "{:?}", odd.chunks);
        assert!(odd.chunks.len() <= 3);
    }
}

#[test]
pub(crate) fn reads_with_df_are_one_chunk() {
    let server = Server::start(&["64M"]);
    for mut session in chunked(&server) {
        session.zero(0, 0, 64 * MIB);
        session.write(MIB, &pattern(MIB));
        for (at, length) in [(MIB - 4096, 65536), (MIB - 1, 3), (0, 16 * MIB), (0, 64 * MIB)] {
            let one = session.call(with::DF, cmd::READ, at, length, b"").success();
            assert_eq!(one.chunks, [(at, length, false)]);
            assert!(one.data == session.read(at, length));
        }
        let hole = session.call(with::DF, cmd::READ, 4 * MIB, 65536, b"").success();
        assert_eq!(hole.chunks.len(), 1);
    }
}

#[test]
pub(crate) fn errors_have_a_text() {
    let server = Server::start(&["1M"]);
    for mut session in chunked(&server) {
        for (command, flags, at) in [
            (cmd::READ, 0, MIB),
            (cmd::READ, with::UNKNOWN, 0),
            (cmd::TRIM, 0, MIB),
            (cmd::WRITE_ZEROES, with::DF, 0),
            (cmd::BLOCK_STATUS, 0, MIB),
            (0xff, 0, 0),
        ] {
            let outcome = session.call(flags, command, at, 4096, b"");
            assert_ne!(outcome.error, 0);
            assert!(!outcome.text.is_empty(), "command {command}");
            assert!(outcome.chunks.is_empty());
        }
        let outcome = session.call(0, cmd::WRITE, MIB, 4096, &[1; 4096]);
        assert_eq!(outcome.error, errno::ENOSPC);
        assert!(!outcome.text.is_empty());
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn pipelined_reads_are_each_complete() {
    let server = Server::start(&["8M"]);
    for mut session in chunked(&server) {
        session.write(MIB, &pattern(2 * MIB));
        let whole = session.read(0, 8 * MIB);
        for index in 0..64 {
            let at = index * 70_001;
            let request = session.request(0, cmd::READ, at, 300_000);
            session.send(request, b"");
            let request = session.request(0, cmd::BLOCK_STATUS, at + 5, 3);
            session.send(request, b"");
        }
        while session.outstanding() > 0 {
            let (request, outcome) = session.receive();
            let outcome = outcome.success();
            if request.command == cmd::READ {
                let at = request.offset as usize;
                assert!(outcome.data == whole[at..at + 300_000]);
            }
        }
    }
}

#[test]
pub(crate) fn status_says_what_reads_as_zeroes() {
    let server = Server::start(&["4M"]);
    for mut session in chunked(&server) {
        session.zero(0, 0, 4 * MIB);
        assert_eq!(walk(&mut session, 4 * MIB), [(0, 4 * MIB, 3)]);
        session.write(MIB, &pattern(65536));
        session.write(2 * MIB + 3, b"x");
        let extents = walk(&mut session, 4 * MIB);
        for &(at, length, state) in &extents {
            assert!(at % 512 == 0 && length % 512 == 0, "{extents:?}");
            let data = session.read(at, length);
            assert!(state & 2 == 0 || data.iter().all(|&byte| byte == 0));
        }
        let data: u64 = extents.iter().filter(|(.., state)| state & 2 == 0).map(|e| e.1).sum();
        assert!((65537..=MIB).contains(&data), "{extents:?}");
        // Zeroes that are to be allocated are no hole; the others may be one.
        session.zero(with::NO_HOLE, MIB, 65536);
        let extents = session.status(0, MIB, 65536);
        assert!(extents.iter().all(|(_, state)| *state == u64::from(state::ZERO)), "{extents:?}");
        session.zero(0, MIB, 65536);
        assert_eq!(session.status(0, MIB, 65536), [(65536, 3)]);
    }
}

#[test]
pub(crate) fn status_of_any_range_and_of_one_extent() {
    let server = Server::start(&["4M"]);
    for mut session in chunked(&server) {
        session.write(MIB, &pattern(65536));
        for (at, length) in [(5, 3), (MIB - 1, 2), (MIB + 1, 65535), (4 * MIB - 1, 1)] {
            let extents = session.status(0, at, length);
            assert!(extents.iter().map(|(length, _)| length).sum::<u64>() <= 4 * MIB - at);
            let one = session.status(with::REQ_ONE, at, length);
            assert_eq!(one[0].1, extents[0].1);
        }
        let one = session.status(with::REQ_ONE, 0, 4 * MIB);
        assert_eq!(one, [(MIB, 3)]);
    }
}

#[test]
pub(crate) fn fragmented_disk_is_walked_in_steps() {
    let server = Server::start(&["64M"]);
    for mut session in chunked(&server) {
        // Every other 32 KiB.
        for index in 0..1024 {
            let request = session.request(0, cmd::WRITE, index * 65536, 512);
            session.send(request, &[1; 512]);
        }
        while session.outstanding() > 0 {
            session.receive().1.success();
        }
        let extents = walk(&mut session, 64 * MIB);
        assert_eq!(extents.len(), 2048);
    }
}

#[test]
pub(crate) fn lengths_of_64_bits_are_not_cut() {
    let server = Server::start(&["1M"]);
    let mut session = Haggle::new(&server).extended("").go("");
    for length in [(1 << 32) + 4096, 1 << 63, u64::MAX, (1 << 63) + 4096] {
        for (command, expected) in [
            (cmd::READ, errno::EINVAL),
            (cmd::TRIM, errno::EINVAL),
            (cmd::CACHE, errno::EINVAL),
            (cmd::BLOCK_STATUS, errno::EINVAL),
            (cmd::WRITE_ZEROES, errno::ENOSPC),
        ] {
            assert_eq!(session.ask(0, command, 0, length), expected);
        }
    }
    session.expect_in_sync();
}

#[test]
pub(crate) fn payloads_that_no_command_expects_are_consumed() {
    let server = Server::start(&["1M"]);
    let mut session = Haggle::new(&server).extended("").go("");
    for command in [cmd::READ, cmd::TRIM, cmd::FLUSH, cmd::WRITE_ZEROES, cmd::CACHE, 0xff] {
        let error = session.call(with::PAYLOAD_LEN, command, 0, 4096, &[0x21; 4096]).error;
        assert_eq!(error, errno::EINVAL);
        session.expect_in_sync();
    }
}

#[test]
pub(crate) fn payload_of_block_status_names_contexts() {
    let server = Server::start(&["1M"]);
    let mut session = Haggle::new(&server).extended("").go("");
    assert_ne!(session.infos.flags & flag::BLOCK_STATUS_PAYLOAD, 0);
    let id = session.context.expect("it is selected");
    let payload = |length: u64, ids: &[u32]| {
        let mut payload = length.to_be_bytes().to_vec();
        ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
        payload
    };
    let mut ask = |payload: &[u8]| {
        let length = payload.len() as u64;
        let outcome = session.call(with::PAYLOAD_LEN, cmd::BLOCK_STATUS, 0, length, payload);
        session.expect_in_sync();
        (outcome.error, outcome.extents)
    };
    assert_eq!(ask(&payload(65536, &[id])), (0, vec![(65536, 3)]));
    assert_eq!(ask(&payload(65536, &[id + 1000])), (errno::EINVAL, vec![]));
    assert_eq!(ask(&payload(65536, &[id, id])), (errno::EINVAL, vec![]));
    assert_eq!(ask(&payload(1 << 63, &[id])), (errno::EINVAL, vec![]));
    assert_eq!(ask(&[0; 9]), (errno::EINVAL, vec![]));
    assert_eq!(ask(&[7; 4096]), (errno::EINVAL, vec![]));

    // Not offered without a context.
    let mut haggle = Haggle::new(&server);
    haggle.accept(opt::EXTENDED_HEADERS, b"");
    let mut session = haggle.go("");
    assert_eq!(session.infos.flags & flag::BLOCK_STATUS_PAYLOAD, 0);
    let error = session.call(with::PAYLOAD_LEN, cmd::BLOCK_STATUS, 0, 12, &payload(4096, &[id]));
    assert_eq!(error.error, errno::EINVAL);
    session.expect_in_sync();
}

#[test]
pub(crate) fn write_without_its_payload_flag_is_not_executed_early() {
    let server = Server::start(&["1M"]);
    let mut session = Haggle::new(&server).extended("").go("");
    let mut request = session.request(0, cmd::WRITE, 0, 4096);
    request.flags = 0;
    let header = session.header(&request);
    session.stream.put(&header);
    session.stream.expect_silence();
    let mut other = Haggle::new(&server).go("");
    assert_eq!(other.read(0, 4096), [0; 4096]);
}

#[test]
pub(crate) fn requests_in_the_other_format_are_not_executed() {
    let mut server = Server::start(&["1M"]);
    for style in [Style::Simple, Style::Extended] {
        let mut haggle = Haggle::new(&server);
        if style == Style::Extended {
            haggle.accept(opt::EXTENDED_HEADERS, b"");
        }
        let mut session = haggle.go("");
        let request = session.request(0, cmd::READ, 0, 4096);
        let wrong = match style {
            Style::Extended => [compact(&request), vec![0; 4]].concat(),
            _ => super::session::extended(&request),
        };
        session.stream.put(&wrong);
        session.stream.expect_end();
    }
    let mut session = Haggle::new(&server).go("");
    let request = session.request(0, cmd::READ, 0, 4096);
    let mut wrong = compact(&request);
    wrong[3] += 1;
    session.stream.put(&wrong);
    session.stream.expect_end();
    server.expect_log("request with wrong magic");
}
