//! "Newstyle negotiation", "Handshake flags", "Client flags".

use super::transcript::{Setup, talk};
use super::*;

#[test]
fn greeting_offers_fixed_newstyle_and_no_zeroes() {
    Setup::default().talk_from_greeting(
        "S: 4e42444d41474943  # NBDMAGIC
         S: 49484156454f5054  # IHAVEOPT
         S: 0003              # fixed newstyle, no zeroes
         C: 00000003",
    );
}

#[test]
fn unknown_client_flags_end_the_session() {
    for flags in ["80000001", "00000005", "00010000"] {
        let server = Setup::default().talk_from_greeting(&format!(
            "S: 'NBDMAGIC' 'IHAVEOPT' 0003
             C: {flags} 'IHAVEOPT' 00007e57 00000000
             S: EOF",
        ));
        let flags = u32::from_str_radix(flags, 16).unwrap();
        assert_eq!(server.violation(), ProtocolError::ClientFlags { flags, offered: 3 });
    }
}

#[test]
fn flags_that_were_not_offered_end_the_session() {
    let mut setup = Setup::default();
    setup.config.no_zeroes = false;
    setup.talk_from_greeting(
        "S: 'NBDMAGIC' 'IHAVEOPT' 0001
         C: 00000003
         S: EOF",
    );
    setup.config.no_zeroes = true;
    setup.config.fixed_newstyle = false;
    setup.talk_from_greeting(
        "S: 'NBDMAGIC' 'IHAVEOPT' 0002
         C: 00000001
         S: EOF",
    );
}

#[test]
fn option_without_magic_ends_the_session() {
    let server = talk(
        "C: 'WHATVER' 45 00000006 00000006 0*6
         S: EOF",
    );
    assert_eq!(server.violation(), ProtocolError::OptionMagic { magic: 0x5748_4154_5645_5245 });
}

#[test]
fn export_name_pads_with_zeroes_unless_agreed_otherwise() {
    for flags in ["00000000", "00000001"] {
        let server = Setup::default().talk_from_greeting(&format!(
            "S: 'NBDMAGIC' 'IHAVEOPT' 0003
             C: {flags} 'IHAVEOPT' 00000001 ['disk']
             S: 0000000000020000  # size
             S: 0d6d              # transmission flags
             S: 0*124             # reserved
             C: 25609513 0000 0003 0123456789abcdef 0000000000000000 00000000  # FLUSH
             S: 67446698 00000000 0123456789abcdef",
        ));
        assert!(server.session.is_some());
    }
    talk(
        "C: 'IHAVEOPT' 00000001 ['disk']
         S: 0000000000020000  # size
         S: 0d6d              # transmission flags, and nothing more
         C: 25609513 0000 0003 0123456789abcdef 0000000000000000 00000000  # FLUSH
         S: 67446698 00000000 0123456789abcdef",
    );
}

#[test]
fn empty_name_is_the_default_export() {
    talk("C: 'IHAVEOPT' 00000001 00000000\nS: 0000000000020000 0d6d");
}

#[test]
fn export_name_that_cannot_be_had_ends_the_session() {
    use ProtocolError::*;
    let cases = [
        ("'conformance-no-such-export'", ExportUnknown),
        ("'broken'", ExportFailed),
        ("'forbidden'", ExportForbidden),
        ("'secret'", ExportNeedsTls),
        ("'disk' 00 'tail'", ExportNameNotText),
        ("ff", ExportNameNotText),
        ("0*4096", ExportNameNotText),
        ("0*4097", ExportNameTooLong { length: 4097 }),
        ("0*5000", ExportNameTooLong { length: 5000 }),
    ];
    for (name, error) in cases {
        let server = talk(&format!("C: 'IHAVEOPT' 00000001 [{name}]\nS: EOF"));
        assert_eq!(server.violation(), error, "{name}");
    }
}

#[test]
fn export_name_of_4096_bytes_is_looked_for() {
    let name = "n".repeat(4096);
    let server = talk(&format!("C: 'IHAVEOPT' 00000001 ['{name}']\nS: EOF"));
    assert_eq!(server.violation(), ProtocolError::ExportUnknown);
}

#[test]
fn export_name_of_4_gib_is_not_waited_for() {
    talk("C: 'IHAVEOPT' 00000001 ffffffff\nS: EOF");
    talk("C: 'IHAVEOPT' 00000001 00001001\nS: EOF");
}

#[test]
fn export_name_works_after_other_options() {
    talk(
        "C: 'IHAVEOPT' 00007e57 00000000
         S: 0003e889045565a9 00007e57 80000001 [*]
         C: 'IHAVEOPT' 00000006 [ ['no such'] 0000 ]
         S: 0003e889045565a9 00000006 80000006 [*]
         C: 'IHAVEOPT' 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 'IHAVEOPT' 00000001 ['disk']
         S: 0000000000020000 0ded
         C: 25609513 0000 0000 00000000000000aa 0000000000000000 00000200  # READ
         S: 668e33ef 0001 0002 00000000000000aa [ 0000000000000000 00000200 ]",
    );
}

#[test]
fn export_name_is_refused_after_extended_headers() {
    let server = talk(
        "C: 'IHAVEOPT' 0000000b 00000000
         S: 0003e889045565a9 0000000b 00000001 00000000
         C: 'IHAVEOPT' 00000001 ['disk']
         S: EOF",
    );
    assert_eq!(server.violation(), ProtocolError::ExportNameWithExtendedHeaders);
}

#[test]
fn without_fixed_newstyle_only_export_name_is_understood() {
    let mut setup = Setup::default();
    setup.config.fixed_newstyle = false;
    let server = setup.talk_from_greeting(
        "S: 'NBDMAGIC' 'IHAVEOPT' 0002
         C: 00000002 'IHAVEOPT' 00000003 00000000
         S: EOF",
    );
    assert_eq!(
        server.violation(),
        ProtocolError::NotFixedNewstyle { option: codes::OptionCode::LIST }
    );
    setup.talk_from_greeting(
        "S: 'NBDMAGIC' 'IHAVEOPT' 0002
         C: 00000002 'IHAVEOPT' 00000001 ['disk']
         S: 0000000000020000 0d6d",
    );
}
