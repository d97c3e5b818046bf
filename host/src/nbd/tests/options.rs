//! "Fixed newstyle negotiation", "Termination of the session during option haggling", "Option
//! types".

use super::transcript::{Setup, talk};
use super::*;

/// What a client sends to learn whether the server is in step, and the answer.
const IN_STEP: &str = "C: 'IHAVEOPT' 00007e57 00000000
    S: 0003e889045565a9 00007e57 80000001 [*]\n";

#[test]
fn unknown_options_are_refused_and_skipped() {
    let cases = [
        ("07654321", "".to_owned()),
        ("07654321", "0*7".to_owned()),
        ("07654321", "'IHAVEOPT' 00000002 00000000".to_owned()),
        ("07654321", "0*4096".to_owned()),
        ("07654321", "0*65536".to_owned()),
        ("07654321", "0*100000".to_owned()),
        ("00000000", "".to_owned()),
        ("ffffffff", "".to_owned()),
        ("00000004", "['disk']".to_owned()),
    ];
    for (option, data) in cases {
        talk(&format!(
            "C: 'IHAVEOPT' {option} [{data}]
             S: 0003e889045565a9 {option} 80000001 [*]
             {IN_STEP}"
        ));
    }
}

#[test]
fn errors_do_not_end_the_session() {
    let info = "C: 'IHAVEOPT' 00000006 [ ['disk'] 0000 ]
        S: 0003e889045565a9 00000006 00000003 [ 0000 0000000000020000 0d6d ]
        S: 0003e889045565a9 00000006 00000001 00000000";
    talk(&(IN_STEP.repeat(20) + info));
}

#[test]
fn options_of_4_gib_end_the_session() {
    for option in ["07654321", "00000003", "00000006", "00000007", "0000000a"] {
        let server = talk(&format!("C: 'IHAVEOPT' {option} ffffffff ['disk'] 0000\nS: EOF"));
        assert!(matches!(server.violation(), ProtocolError::TooManyBytes { .. }));
    }
}

#[test]
fn options_are_bounded_in_number_and_bytes() {
    let mut server = server::Server::new(HandshakeConfig::default(), geometry());
    server.feed(&transcript::bytes("00000003"));
    let option = transcript::bytes("'IHAVEOPT' 00007e57 00000000");
    (0..limits::MAX_OPTIONS).for_each(|_| server.feed(&option));
    assert_eq!(server.end, None);
    server.feed(&option);
    assert_eq!(server.violation(), ProtocolError::TooManyOptions);

    let mut server = server::Server::new(HandshakeConfig::default(), geometry());
    server.feed(&transcript::bytes("00000003"));
    let option = transcript::bytes("'IHAVEOPT' 00007e57 [0*1048576]");
    (0..32).for_each(|_| server.feed(&option));
    assert_eq!(server.end, None);
    server.feed(&transcript::bytes("'IHAVEOPT' 00007e57 [00]"));
    assert!(matches!(server.violation(), ProtocolError::TooManyBytes { length: 1, .. }));
}

#[test]
fn option_data_that_is_too_long_to_keep_is_skipped() {
    for option in ["00000006", "00000007"] {
        talk(&format!(
            "C: 'IHAVEOPT' {option} [0*65536]
             S: 0003e889045565a9 {option} 80000003 [*]  # kept, and malformed
             C: 'IHAVEOPT' {option} [0*65537]
             S: 0003e889045565a9 {option} 80000009 [*]
             {IN_STEP}"
        ));
    }
}

#[test]
fn abort_is_acknowledged_and_its_data_ignored() {
    for data in ["", "'goodbye'", "0*100000"] {
        for prefix in ["", IN_STEP] {
            let server = talk(&format!(
                "{prefix}C: 'IHAVEOPT' 00000002 [{data}]
                 S: 0003e889045565a9 00000002 00000001 00000000
                 S: EOF"
            ));
            assert_eq!(server.end, Some(server::End::Closed));
        }
    }
}

#[test]
fn list_tells_names_and_descriptions() {
    let list = "C: 'IHAVEOPT' 00000003 00000000
        S: 0003e889045565a9 00000003 00000002 [ ['disk'] 'a disk for tests' ]
        S: 0003e889045565a9 00000003 00000002 [ ['other'] ]
        S: 0003e889045565a9 00000003 00000001 00000000\n";
    talk(&list.repeat(2));
}

#[test]
fn list_with_data_is_refused_once() {
    for data in ["'junk'", "'junkjunk'", "0*70000"] {
        talk(&format!(
            "C: 'IHAVEOPT' 00000003 [{data}]
             S: 0003e889045565a9 00000003 80000003 [*]
             {IN_STEP}"
        ));
    }
}

#[test]
fn options_without_data_refuse_data() {
    for option in ["00000008", "0000000b", "00000005"] {
        talk(&format!(
            "C: 'IHAVEOPT' {option} ['junk']
             S: 0003e889045565a9 {option} 80000003 [*]
             {IN_STEP}"
        ));
    }
}

#[test]
fn options_that_are_turned_off_are_unknown() {
    let config = HandshakeConfig {
        structured_replies: false,
        meta_contexts: false,
        extended_headers: false,
        ..HandshakeConfig::default()
    };
    let setup = Setup { config, ..Setup::default() };
    for option in ["00000008", "00000009", "0000000a", "0000000b"] {
        setup.talk(&format!(
            "C: 'IHAVEOPT' {option} 00000000
             S: 0003e889045565a9 {option} 80000001 [*]
             {IN_STEP}"
        ));
    }
    setup.talk(
        "C: 'IHAVEOPT' 00000008 00000000
         S: 0003e889045565a9 00000008 80000001 [*]
         C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 00000007 00000001 00000000
         C: 25609513 0000 0000 00000000000000aa 0000000000000000 00000004  # READ
         S: 67446698 00000000 00000000000000aa 00000000",
    );
}

#[test]
fn options_are_refused_while_shutting_down() {
    let mut transcript = "SHUTDOWN\n".to_owned();
    for option in ["00000003", "00000006", "00000008", "00000009", "0000000a", "00007e57"] {
        transcript += &format!(
            "C: 'IHAVEOPT' {option} [ ['disk'] 0000 ]
             S: 0003e889045565a9 {option} 80000007 [*]\n"
        );
    }
    talk(&format!(
        "{transcript}C: 'IHAVEOPT' 00000002 00000000
         S: 0003e889045565a9 00000002 00000001 00000000
         S: EOF"
    ));
    let server = talk(&format!("{transcript}C: 'IHAVEOPT' 00000001 ['disk']\nS: EOF"));
    assert_eq!(server.violation(), ProtocolError::ExportShutdown);
}

#[test]
fn an_export_opened_while_shutting_down_is_not_served() {
    let mut handshake = Handshake::new(HandshakeConfig::default());
    let mut output = Vec::new();
    let go = transcript::bytes("00000003 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]");
    let (_, event) = handshake.advance(&go, &mut output).unwrap();
    assert_eq!(event, Event::Open { name: "disk".into(), purpose: Purpose::Transmission });
    handshake.shutting_down();
    let geometry = geometry();
    let export = ExportInfo { name: "disk", description: "", geometry: &geometry, bitmaps: None };
    assert_eq!(handshake.opened(Ok(&export), &mut output), Ok(None));
    assert_eq!(output[8..16], transcript::bytes("00000007 80000007"));
}

#[test]
fn pending_event_stops_the_machine() {
    let mut handshake = Handshake::new(HandshakeConfig::default());
    let mut output = Vec::new();
    let lists =
        transcript::bytes("00000003 'IHAVEOPT' 00000003 00000000 'IHAVEOPT' 00000003 00000000");
    assert_eq!(handshake.advance(&lists, &mut output), Ok((20, Event::List)));
    assert_eq!(handshake.advance(&lists[20..], &mut output), Ok((0, Event::NeedInput)));
    handshake.listed(&mut output);
    assert_eq!(handshake.advance(&lists[20..], &mut output), Ok((16, Event::List)));
    assert_eq!(output, transcript::bytes("0003e889045565a9 00000003 00000001 00000000"));
}
