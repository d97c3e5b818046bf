//! INFO and GO, and metadata contexts.

use super::haggle::*;
use super::numbers::*;
use crate::support::Server;

#[test]
pub(crate) fn info_and_go_tell_the_same() {
    let server = Server::start(&["-e", "disk", "8G"]);
    let lists: [&[u16]; 7] =
        [&[], &[0], &[0, 1, 2, 3], &[3], &[0x7777, 0, 0xffff], &[1, 1, 0, 0], &[0, 1, 3]];
    for requests in lists {
        let data = info("disk", requests);
        let mut haggle = Haggle::new(&server);
        let first = haggle.accept(opt::INFO, &data);
        for _ in 0..2 {
            assert_eq!(haggle.accept(opt::INFO, &data), first);
        }
        let go = haggle.accept(opt::GO, &data);
        assert_eq!(go, first);
        let infos = go.infos();
        assert_eq!(infos.size, 8 << 30);
        assert!(!requests.contains(&1) || infos.name.as_deref() == Some("disk"));
        assert!(!requests.contains(&2) || infos.description.is_some());
        if requests.contains(&3) {
            let [minimum, preferred, maximum] = infos.block_sizes.expect("it was asked for");
            assert!(minimum.is_power_of_two() && minimum <= 65536);
            assert!(preferred.is_power_of_two() && preferred >= minimum.max(512));
            assert!(maximum >= preferred.max(32 << 20));
            assert_eq!(infos.size % u64::from(minimum), 0);
        }
        // Transmission begins, without zeroes in between.
        haggle.stream.expect_silence();
        haggle.into_session(infos).expect_in_sync();
    }
}

#[test]
fn go_is_not_followed_by_zeroes_whatever_the_flags() {
    let server = Server::start(&["1M"]);
    for flags in [0, 1, 2, 3] {
        let mut haggle = Haggle::with_flags(&server, flags);
        let infos = haggle.accept(opt::GO, &info("", &[])).infos();
        haggle.stream.expect_silence();
        haggle.into_session(infos).expect_in_sync();
    }
}

#[test]
pub(crate) fn unknown_exports_are_refused_without_information() {
    let long = "n".repeat(4096);
    let script = "ξένος-國-☃";
    let server = Server::start(&["-e", "disk", "1M"]);
    let mut haggle = Haggle::new(&server);
    let names: [&[u8]; 5] =
        [b"conformance-no-such-export", long.as_bytes(), script.as_bytes(), b"Disk", b"disk "];
    for name in names {
        for number in [opt::INFO, opt::GO] {
            let answer = haggle.option(number, &info(name, &[0, 3]));
            assert_eq!(answer.end, rep::ERR_UNKNOWN);
            assert!(answer.interim.is_empty());
        }
    }
    for name in [&b"disk\0tail"[..], b"disk\0", b"\0"] {
        assert_eq!(haggle.option(opt::INFO, &info(name, &[])).end, rep::ERR_INVALID);
    }
    haggle.go("disk").expect_in_sync();
}

#[test]
pub(crate) fn names_of_any_script_and_of_4096_bytes_are_served() {
    for name in ["ξένος-國-☃".to_owned(), "/".to_owned(), "n".repeat(4096)] {
        let server = Server::start(&["-e", &name, "1M"]);
        let mut haggle = Haggle::new(&server);
        assert_eq!(haggle.accept(opt::LIST, b"").exports()[0].0, name);
        let infos = haggle.accept(opt::INFO, &info(&name, &[1])).infos();
        assert_eq!(infos.name.as_ref(), Some(&name));
        haggle.go(&name).expect_in_sync();
        let mut haggle = Haggle::new(&server);
        haggle.stream.put(&option(opt::EXPORT_NAME, name.as_bytes()));
        assert_eq!(haggle.stream.take_u64(), 1 << 20);
    }
}

#[test]
pub(crate) fn list_and_set_match_contexts() {
    let server = Server::start(&["-e", "disk", "1M"]);
    let mut haggle = Haggle::new(&server);
    haggle.accept(opt::STRUCTURED_REPLY, b"");
    let many: Vec<String> = (0..99).map(|number| format!("x-test:{number}")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push("base:allocation");
    let (all, none) = (1, 0);
    let cases: [(&[&str], usize, usize); 11] = [
        (&[], all, none),
        (&["base:"], all, none),
        (&["base:allocation"], all, all),
        (&["base:allocation", "base:allocation"], all, all),
        (&["x-test:a", "base:allocation", "base:no-such-context"], all, all),
        (&["base:no-such-context"], none, none),
        (&["x-conformance:anything"], none, none),
        (&["nocolon"], none, none),
        (&["qemu:"], none, none),
        (&[""], none, none),
        (&many, all, all),
    ];
    for (queries, listed, set) in cases {
        for (number, expected) in [(opt::LIST_META_CONTEXT, listed), (opt::SET_META_CONTEXT, set)] {
            let contexts = haggle.accept(number, &meta("disk", queries)).contexts();
            assert_eq!(contexts.len(), expected, "{queries:?}");
            assert!(contexts.iter().all(|(_, name)| name == "base:allocation"));
            assert!(number == opt::SET_META_CONTEXT || contexts.iter().all(|(id, _)| *id == 0));
        }
    }
}

#[test]
pub(crate) fn malformed_context_options_are_refused_and_in_sync() {
    let server = Server::start(&["-e", "disk", "1M"]);
    let mut haggle = Haggle::new(&server);
    haggle.accept(opt::STRUCTURED_REPLY, b"");
    let name = string("disk");
    let malformed: [Vec<u8>; 8] = [
        Vec::new(),
        [&name[..], &[0, 0]].concat(),
        [&1000_u32.to_be_bytes()[..], b"disk", &[0; 4]].concat(),
        [&name[..], &[0, 0, 0, 3], &string("base:allocation")].concat(),
        [&name[..], &[0, 0, 0, 1], &1000_u32.to_be_bytes(), b"base:allocation"].concat(),
        [&name[..], &[0, 0, 0, 1], &[0xff; 4], b"base:allocation"].concat(),
        [&name[..], &[0xff; 4], &string("base:allocation")].concat(),
        [&meta("disk", &["base:allocation"]), &b"junk"[..]].concat(),
    ];
    for data in &malformed {
        for number in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
            assert_eq!(haggle.option(number, data).end, rep::ERR_INVALID, "{data:02x?}");
            haggle.expect_in_sync();
        }
    }
    for number in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        let answer = haggle.option(number, &meta("no-such-export", &["base:"]));
        assert_eq!(answer.end, rep::ERR_UNKNOWN);
    }
}

#[test]
pub(crate) fn selection_is_for_one_name_and_the_last_set() {
    let server = Server::start(&["-e", "disk", "1M"]);
    let contexts = |sets: &[(&str, &[&str])], go: &str, works: bool| {
        let mut haggle = Haggle::new(&server);
        haggle.accept(opt::STRUCTURED_REPLY, b"");
        for (name, queries) in sets {
            haggle.option(opt::SET_META_CONTEXT, &meta(name, queries));
        }
        haggle.accept(opt::INFO, &info("disk", &[]));
        haggle.accept(opt::LIST_META_CONTEXT, &meta("disk", &[]));
        haggle.expect_in_sync();
        let mut session = haggle.go(go);
        let error = session.ask(0, cmd::BLOCK_STATUS, 0, 4096);
        assert_eq!(error, if works { 0 } else { errno::EINVAL }, "{sets:?}, then GO {go:?}");
        session.expect_in_sync();
    };
    let set = &["base:allocation"][..];
    contexts(&[("disk", set)], "disk", true);
    contexts(&[("", set)], "", true);
    contexts(&[], "disk", false);
    contexts(&[("disk", set), ("disk", &[])], "disk", false);
    contexts(&[("disk", set), ("no-such-export", set)], "disk", false);
    contexts(&[("no-such-export", set), ("disk", set)], "disk", true);
    contexts(&[("disk", set), ("", set)], "disk", false);

    let mut haggle = Haggle::new(&server).structured("disk");
    assert_eq!(haggle.option(opt::SET_META_CONTEXT, b"junk").end, rep::ERR_INVALID);
    assert_eq!(haggle.go("disk").ask(0, cmd::BLOCK_STATUS, 0, 4096), errno::EINVAL);
}

#[test]
pub(crate) fn contexts_come_after_structured_replies() {
    let server = Server::start(&["1M"]);
    let mut haggle = Haggle::new(&server);
    for number in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        let answer = haggle.option(number, &meta("", &["base:allocation"]));
        assert_eq!(answer.end, rep::ERR_INVALID);
    }
    let mut session = haggle.go("");
    assert_eq!(session.ask(0, cmd::BLOCK_STATUS, 0, 4096), errno::EINVAL);
    session.expect_in_sync();
}

#[test]
pub(crate) fn structured_replies_and_extended_headers_are_negotiated_without_data() {
    let server = Server::start(&["1M"]);
    let mut haggle = Haggle::new(&server);
    for number in [opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS] {
        assert_eq!(haggle.option(number, b"junk").end, rep::ERR_INVALID);
        haggle.expect_in_sync();
    }
    haggle.accept(opt::STRUCTURED_REPLY, b"");
    let again = haggle.option(opt::STRUCTURED_REPLY, b"").end;
    assert!([rep::ACK, rep::ERR_INVALID].contains(&again));
    haggle.accept(opt::LIST, b"");
    haggle.accept(opt::EXTENDED_HEADERS, b"");
    assert_eq!(haggle.option(opt::STRUCTURED_REPLY, b"").end, rep::ERR_EXT_HEADER_REQD);
    haggle.go("").expect_in_sync();
}

#[test]
pub(crate) fn what_is_turned_off_is_unknown() {
    let negotiating = [opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS];
    let contexts = [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT];
    for (argument, refused) in
        [("--no-sr", &[&negotiating[..], &contexts].concat()), ("--no-mc", &contexts.to_vec())]
    {
        let server = Server::start(&[argument, "1M"]);
        let mut haggle = Haggle::new(&server);
        if argument == "--no-mc" {
            haggle.accept(opt::STRUCTURED_REPLY, b"");
        }
        for &number in refused {
            let data = if contexts.contains(&number) { meta("", &[]) } else { Vec::new() };
            assert_eq!(haggle.option(number, &data).end, rep::ERR_UNSUP, "{argument}: {number}");
            haggle.expect_in_sync();
        }
        let mut session = haggle.go("");
        assert_eq!(session.ask(0, cmd::BLOCK_STATUS, 0, 4096), errno::EINVAL);
        if argument == "--no-sr" {
            assert_eq!(session.infos.flags & flag::SEND_DF, 0);
            assert_eq!(session.ask(with::DF, cmd::READ, 0, 4096), errno::EINVAL);
        }
        session.expect_in_sync();
    }
}
