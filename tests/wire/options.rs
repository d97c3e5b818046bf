//! Option haggling in general, ABORT, LIST, EXPORT_NAME, and what there is not.

use super::haggle::*;
use super::numbers::*;
use super::stream::Stream;
use crate::support::Server;

#[test]
pub(crate) fn unknown_options_are_refused_and_their_data_is_skipped() {
    let server = Server::start(&["1M"]);
    let mut haggle = Haggle::new(&server);
    let another = option(opt::ABORT, b"");
    for number in [0x0765_4321, 0, 12, 0xffff_ffff, opt::PEEK_EXPORT] {
        for data in [&b""[..], b"7 bytes", &another, &[0xa5; 4096], &[b'I'; 65536]] {
            assert_eq!(haggle.option(number, data).end, rep::ERR_UNSUP);
        }
    }
    assert_eq!(haggle.option(opt::PEEK_EXPORT, &string("")).end, rep::ERR_UNSUP);
    for _ in 0..20 {
        haggle.expect_in_sync();
    }
    assert_eq!(haggle.accept(opt::INFO, &info("", &[])).infos().size, 1 << 20);
}

#[test]
pub(crate) fn option_of_4_gib_ends_the_connection() {
    let mut server = Server::start(&["1M"]);
    let before = server.resident();
    for number in [0x0765_4321, opt::LIST, opt::STRUCTURED_REPLY, opt::INFO, opt::GO, opt::ABORT] {
        for length in [0xffff_ffff, 0x8000_0000, 64 << 20] {
            let mut haggle = Haggle::new(&server);
            haggle.stream.put(&announced(number, length, &info("", &[])));
            haggle.stream.expect_end();
        }
    }
    server.expect_log("too many for a handshake");
    assert!(server.resident() < before + (16 << 20));
}

#[test]
pub(crate) fn lengths_that_lie_are_refused_and_in_sync() {
    let server = Server::start(&["1M"]);
    let mut haggle = Haggle::new(&server);
    for number in [opt::INFO, opt::GO] {
        let huge_name = [&0xffff_ffff_u32.to_be_bytes()[..], b"name", &[0; 2]].concat();
        let long_name = [&104_u32.to_be_bytes()[..], b"name", &[0; 2]].concat();
        let malformed: [&[u8]; 9] = [
            b"",
            &[0; 5],
            &huge_name,
            &long_name,
            &[&string("")[..], &[0, 5, 0, 1]].concat(),
            &[&string("")[..], &[0xff, 0xff]].concat(),
            &[&info("", &[0]), &b"junk"[..]].concat(),
            &info([b'n'; 5000], &[]),
            &info(b"\xff\xfe", &[]),
        ];
        for data in malformed {
            assert_eq!(haggle.option(number, data).end, rep::ERR_INVALID, "{data:02x?}");
        }
        haggle.expect_in_sync();
    }
    // As much as an option may have at all, and more.
    let end = haggle.option(opt::INFO, &info("", &[0; 32000])).end;
    assert_eq!(end, rep::ACK);
    assert_eq!(haggle.option(opt::INFO, &info("", &[0; 65535])).end, rep::ERR_TOO_BIG);
    haggle.go("").expect_in_sync();
}

#[test]
pub(crate) fn abort_is_acknowledged_whatever_comes_with_it() {
    let server = Server::start(&["1M"]);
    for data in [&b""[..], b"goodbye", &[0; 4096]] {
        for options in [0, 1] {
            let mut haggle = Haggle::new(&server);
            (0..options).for_each(|_| haggle.expect_in_sync());
            haggle.accept(opt::ABORT, data);
            haggle.stream.expect_end();
        }
    }
    for _ in 0..3 {
        Haggle::new(&server).stream.put(&option(opt::ABORT, b""));
    }
    Haggle::new(&server).go("").expect_in_sync();
}

#[test]
pub(crate) fn list_tells_names_that_can_be_used() {
    let server = Server::start(&["-e", "a disk", "1M"]);
    let mut haggle = Haggle::new(&server);
    let exports = haggle.accept(opt::LIST, b"").exports();
    let [(name, description)] = &exports[..] else { panic!("{exports:?}") };
    assert_eq!(name, "a disk");
    assert_eq!(haggle.accept(opt::LIST, b"").exports(), exports, "again the same");
    let infos = haggle.accept(opt::INFO, &info(name, &[1, 2])).infos();
    assert_eq!(infos.name.as_deref(), Some("a disk"));
    assert_eq!(infos.description.as_deref(), Some(description.as_str()));
    let infos = haggle.accept(opt::INFO, &info("", &[1])).infos();
    assert_eq!(infos.name.as_deref(), Some("a disk"), "the canonical name");
    for data in [&b"junk"[..], b"junkjunk", &[0; 9000]] {
        assert_eq!(haggle.option(opt::LIST, data).end, rep::ERR_INVALID);
        haggle.expect_in_sync();
    }
    haggle.go(name).expect_in_sync();
}

#[test]
pub(crate) fn export_name_is_followed_by_transmission() {
    let server = Server::start(&["-e", "disk", "1M"]);
    let go = Haggle::new(&server).go("disk").infos;
    for (name, before) in [("disk", None), ("", None), ("disk", Some(opt::STRUCTURED_REPLY))] {
        let mut haggle = Haggle::new(&server);
        haggle.expect_in_sync();
        if let Some(option) = before {
            haggle.accept(option, b"");
            haggle.accept(opt::SET_META_CONTEXT, &meta("disk", &["base:allocation"]));
        }
        haggle.stream.put(&option(opt::EXPORT_NAME, name.as_bytes()));
        let (size, flags) = (haggle.stream.take_u64(), haggle.stream.take_u16());
        assert_eq!(size, go.size);
        assert_eq!(flags & !flag::SEND_DF, go.flags);
        haggle.stream.expect_silence();
        let mut session = haggle.into_session(Infos { size, flags, ..Infos::default() });
        session.expect_in_sync();
        if before.is_some() {
            assert_eq!(session.status(0, 0, 1 << 20), [(1 << 20, 3)]);
        }
    }
}

#[test]
pub(crate) fn export_name_that_cannot_be_had_ends_the_connection() {
    let mut server = Server::start(&["-e", "disk", "1M"]);
    let names: [&[u8]; 5] = [b"no-such-export", &[b'n'; 5000], &[b'n'; 4097], b"disk\0", b"\xff"];
    for name in names {
        let mut haggle = Haggle::new(&server);
        haggle.stream.put(&option(opt::EXPORT_NAME, name));
        haggle.stream.expect_end();
    }
    server.expect_log("EXPORT_NAME");
    Haggle::new(&server).go("disk").expect_in_sync();
}

#[test]
fn there_is_no_tls_and_none_is_asked_for() {
    let server = Server::start(&["1M"]);
    for flags in [1, 3, 2] {
        let mut haggle = Haggle::with_flags(&server, flags);
        let refused = [rep::ERR_POLICY, rep::ERR_UNSUP];
        assert!(refused.contains(&haggle.option(opt::STARTTLS, b"").end));
        let with_data = haggle.option(opt::STARTTLS, b"junk").end;
        assert!(with_data == rep::ERR_INVALID || refused.contains(&with_data));
        for (number, data) in [
            (opt::LIST, Vec::new()),
            (opt::UNKNOWN, Vec::new()),
            (opt::INFO, info("no-such-export", &[])),
            (opt::STRUCTURED_REPLY, Vec::new()),
            (opt::LIST_META_CONTEXT, meta("", &[])),
        ] {
            assert_ne!(haggle.option(number, &data).end, rep::ERR_TLS_REQD);
        }
        haggle.go("").expect_in_sync();
    }
}

#[test]
fn options_in_any_order_after_a_go_that_failed() {
    let server = Server::start(&["-e", "disk", "1M"]);
    let mut haggle = Haggle::new(&server).structured("disk");
    for round in 0..3 {
        assert_eq!(haggle.option(opt::GO, &info("no", &[0, 3])).end, rep::ERR_UNKNOWN);
        assert_eq!(haggle.option(opt::GO, b"").end, rep::ERR_INVALID);
        match round {
            0 => assert_eq!(haggle.option(opt::STARTTLS, b"").end, rep::ERR_POLICY),
            1 => assert_eq!(haggle.accept(opt::LIST, b"").interim.len(), 1),
            _ => drop(haggle.accept(opt::STRUCTURED_REPLY, b"")),
        }
        let answer = haggle.accept(opt::LIST_META_CONTEXT, &meta("disk", &[]));
        assert_eq!(answer.contexts().len(), 1);
        assert_eq!(haggle.accept(opt::INFO, &info("disk", &[])).infos().size, 1 << 20);
    }
    let mut session = haggle.go("disk");
    session.expect_in_sync();
    assert_eq!(session.status(0, 0, 4096), [(4096, 3)]);
}

#[test]
fn requests_that_hold_more_than_was_announced_are_options_again() {
    let server = Server::start(&["1M"]);
    // The count says three requests, the option holds one: what follows is the next option.
    let mut data = string("");
    data.extend([0, 3, 0, 3]);
    let mut haggle = Haggle::greeted(Stream::connect(&server));
    let mut bytes = FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes().to_vec();
    bytes.extend(option(opt::GO, &data));
    bytes.extend(option(opt::LIST, b""));
    haggle.stream.put(&bytes);
    assert_eq!(haggle.answer(opt::GO).end, rep::ERR_INVALID);
    assert_eq!(haggle.answer(opt::LIST).end, rep::ACK);
}
