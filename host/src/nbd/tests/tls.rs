//! "TLS support": its place in the handshake.

use super::transcript::{Setup, talk};
use super::*;

const STARTTLS: &str = "C: 'IHAVEOPT' 00000005 00000000
    S: 0003e889045565a9 00000005 00000001 00000000\n";

#[test]
fn without_tls_starttls_is_refused_and_tls_never_required() {
    talk(
        "C: 'IHAVEOPT' 00000005 00000000
         S: 0003e889045565a9 00000005 80000002 [*]
         C: 'IHAVEOPT' 00000006 [ ['secret'] 0000 ]
         S: 0003e889045565a9 00000006 80000002 [*]
         C: 'IHAVEOPT' 00000006 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000006 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 00000006 00000001 00000000",
    );
}

#[test]
fn starttls_with_data_is_refused_in_every_mode() {
    for mode in [TlsMode::Off, TlsMode::On, TlsMode::Require] {
        Setup::tls(mode).talk(
            "C: 'IHAVEOPT' 00000005 ['junk']
             S: 0003e889045565a9 00000005 80000003 [*]",
        );
    }
}

#[test]
fn second_starttls_is_refused() {
    for mode in [TlsMode::On, TlsMode::Require] {
        let server = Setup::tls(mode).talk(&format!(
            "{STARTTLS}C: 'IHAVEOPT' 00000005 00000000
             S: 0003e889045565a9 00000005 80000003 [*]"
        ));
        assert!(server.tls);
    }
}

#[test]
fn required_tls_refuses_everything_else() {
    let mut transcript = String::new();
    for option in [3, 6, 7, 8, 9, 10, 11, 0x7e57, 0, u32::MAX] {
        transcript += &format!(
            "C: 'IHAVEOPT' {option:08x} [ ['disk'] 0000 ]
             S: 0003e889045565a9 {option:08x} 80000005 [*]\n"
        );
    }
    Setup::tls(TlsMode::Require).talk(&format!(
        "{transcript}C: 'IHAVEOPT' 00000002 00000000
         S: 0003e889045565a9 00000002 00000001 00000000
         S: EOF"
    ));
    let server = Setup::tls(TlsMode::Require).talk("C: 'IHAVEOPT' 00000001 ['disk']\nS: EOF");
    assert_eq!(server.violation(), ProtocolError::ExportNeedsTls);
}

#[test]
fn selective_tls_is_required_for_some_exports_only() {
    Setup::tls(TlsMode::On).talk(
        "C: 'IHAVEOPT' 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 'IHAVEOPT' 00000006 [ ['secret'] 0000 ]
         S: 0003e889045565a9 00000006 80000005 [*]
         C: 'IHAVEOPT' 00000007 [ ['secret'] 0000 ]
         S: 0003e889045565a9 00000007 80000005 [*]
         C: 'IHAVEOPT' 00000009 [ ['secret'] 00000000 ]
         S: 0003e889045565a9 00000009 80000002 [*]   # only INFO and GO may say that TLS is required
         C: 'IHAVEOPT' 0000000a [ ['secret'] 00000000 ]
         S: 0003e889045565a9 0000000a 80000002 [*]
         C: 'IHAVEOPT' 00007e57 00000000
         S: 0003e889045565a9 00007e57 80000001 [*]
         C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0ded ]
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
    let server = Setup::tls(TlsMode::On).talk("C: 'IHAVEOPT' 00000001 ['secret']\nS: EOF");
    assert_eq!(server.violation(), ProtocolError::ExportNeedsTls);
}

#[test]
fn inside_tls_everything_is_served() {
    for mode in [TlsMode::On, TlsMode::Require] {
        Setup::tls(mode).talk(&format!(
            "{STARTTLS}C: 'IHAVEOPT' 00007e57 00000000
             S: 0003e889045565a9 00007e57 80000001 [*]
             C: 'IHAVEOPT' 00000006 [ ['no such'] 0000 ]
             S: 0003e889045565a9 00000006 80000006 [*]
             C: 'IHAVEOPT' 00000001 ['secret']
             S: 0000000000020000 0d6d"
        ));
    }
}

#[test]
fn nothing_negotiated_before_tls_survives() {
    Setup::tls(TlsMode::On).talk(&format!(
        "C: 'IHAVEOPT' 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 'IHAVEOPT' 0000000a [ ['disk'] 00000001 ['base:allocation'] ]
         S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
         S: 0003e889045565a9 0000000a 00000001 00000000
         C: 'IHAVEOPT' 0000000b 00000000
         S: 0003e889045565a9 0000000b 00000001 00000000
         {STARTTLS}C: 'IHAVEOPT' 0000000a [ ['disk'] 00000001 ['base:allocation'] ]
         S: 0003e889045565a9 0000000a 80000003 [*]   # structured replies are forgotten
         C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 00000007 00000001 00000000
         C: 25609513 0000 0000 00000000000000aa 0000000000000000 00000004  # READ
         S: 67446698 00000000 00000000000000aa 0*4
         C: 25609513 0000 0007 00000000000000aa 0000000000000000 00000004  # BLOCK_STATUS
         S: 67446698 00000016 00000000000000aa"
    ));
}

#[test]
fn selection_from_before_tls_does_not_survive_new_structured_replies() {
    let structured = "C: 'IHAVEOPT' 00000008 00000000
        S: 0003e889045565a9 00000008 00000001 00000000\n";
    Setup::tls(TlsMode::On).talk(&format!(
        "{structured}C: 'IHAVEOPT' 0000000a [ ['disk'] 00000001 ['base:allocation'] ]
         S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
         S: 0003e889045565a9 0000000a 00000001 00000000
         {STARTTLS}{structured}C: 'IHAVEOPT' 00000001 ['disk']
         S: 0000000000020000 0ded
         C: 25609513 0000 0007 00000000000000aa 0000000000000000 00000004  # BLOCK_STATUS
         S: 668e33ef 0001 8001 00000000000000aa
         S: [ 00000016 ('no metadata context is selected for this export') ]"
    ));
}

#[test]
fn plain_text_that_comes_along_with_starttls_is_not_obeyed() {
    let mut handshake = Handshake::new(Setup::tls(TlsMode::On).config);
    let injected = "00000003 'IHAVEOPT' 00000005 00000000 'IHAVEOPT' 00001ead 00000000";
    let mut output = Vec::new();
    let result = handshake.advance(&transcript::bytes(injected), &mut output);
    assert_eq!(result, Err(ProtocolError::PlaintextAfterStartTls { bytes: 16 }));
    assert!(output.is_empty(), "not even STARTTLS is answered");
}

#[test]
fn client_without_fixed_newstyle_gets_no_tls() {
    Setup::tls(TlsMode::On).talk_from_greeting(
        "S: 'NBDMAGIC' 'IHAVEOPT' 0003
         C: 00000000 'IHAVEOPT' 00000005 00000000
         S: 0003e889045565a9 00000005 80000002 [*]
         C: 'IHAVEOPT' 00000006 [ ['secret'] 0000 ]
         S: 0003e889045565a9 00000006 80000002 [*]
         C: 'IHAVEOPT' 00000001 ['disk']
         S: 0000000000020000 0d6d 0*124",
    );
    Setup::tls(TlsMode::Require).talk_from_greeting(
        "S: 'NBDMAGIC' 'IHAVEOPT' 0003
         C: 00000000 'IHAVEOPT' 00000005 00000000
         S: 0003e889045565a9 00000005 80000002 [*]
         C: 'IHAVEOPT' 00000006 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000006 80000002 [*]
         C: 'IHAVEOPT' 00000001 ['disk']
         S: EOF",
    );
}

#[test]
fn inside_tls_it_is_never_required() {
    for option in ["00000006", "00000007"] {
        let mut handshake = Handshake::new(Setup::tls(TlsMode::On).config);
        let mut output = Vec::new();
        let starttls = transcript::bytes("00000003 'IHAVEOPT' 00000005 00000000");
        let (_, event) = handshake.advance(&starttls, &mut output).unwrap();
        assert_eq!(event, Event::StartTls);
        handshake.tls_established();
        let info = transcript::bytes(&format!("'IHAVEOPT' {option} [ ['disk'] 0000 ]"));
        output.clear();
        handshake.advance(&info, &mut output).unwrap();
        assert_eq!(handshake.opened(Err(OpenError::TlsRequired), &mut output), Ok(None));
        assert_eq!(output[8..16], transcript::bytes(&format!("{option} 80000002")));
    }
}
