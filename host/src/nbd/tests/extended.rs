//! Extended headers: the branch `extension-ext-header` of the spec.

use super::server::End;
use super::transcript::{Setup, talk};
use super::*;

/// A read that succeeds, and its answer: the stream is in step.
const IN_STEP: &str = "C: 21e41c71 0000 0000 00000000000000ff 0000000000000010 0000000000000004
    S: 6e8a278c 0001 0002 00000000000000ff 0000000000000010 { 0000000000000010 00000004 }\n";

#[test]
fn replies_repeat_cookie_and_offset() {
    talk(&format!(
        "{EXTENDED}C: 21e41c71  # NBD_EXTENDED_REQUEST_MAGIC
         C: 0020                # NBD_CMD_FLAG_PAYLOAD_LEN
         C: 0001                # NBD_CMD_WRITE
         C: 0123456789abcdef    # cookie
         C: 0000000000001003    # offset
         C: 0000000000000004    # payload length
         C: 'abcd'
         S: 6e8a278c            # NBD_EXTENDED_REPLY_MAGIC
         S: 0001                # NBD_REPLY_FLAG_DONE
         S: 0000                # NBD_REPLY_TYPE_NONE
         S: 0123456789abcdef    # cookie
         S: 0000000000001003    # offset of the request
         S: 0000000000000000    # payload length
         C: 21e41c71 0000 0000 fedcba9876543210 0000000000001001 0000000000001fff
         S: 6e8a278c 0000 0001 fedcba9876543210 0000000000001001
         S: {{ 0000000000001001 0000 'abcd' 0*4089 }}
         S: 6e8a278c 0001 0002 fedcba9876543210 0000000000001001
         S: {{ 0000000000002000 00001000 }}"
    ));
}

#[test]
fn simple_replies_are_never_used() {
    for command in ["0003", "0004", "0005", "0006"] {
        let (offset, length) =
            if command == "0003" { ("0*8", "0*8") } else { ("0*7 10", "0*7 01") };
        talk(&format!(
            "{EXTENDED}C: 21e41c71 0000 {command} 00000000000000aa {offset} {length}
             S: 6e8a278c 0001 0000 00000000000000aa {offset} 0000000000000000
             C: 21e41c71 0000 00ff 00000000000000aa 0000000000000007 0000000000000001
             S: 6e8a278c 0001 8001 00000000000000aa 0000000000000007
             S: {{ 00000016 ('unknown command') }}
             {IN_STEP}"
        ));
    }
}

#[test]
fn second_structured_reply_is_overruled() {
    talk(
        "C: 'IHAVEOPT' 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 'IHAVEOPT' 0000000b 00000000
         S: 0003e889045565a9 0000000b 00000001 00000000
         C: 'IHAVEOPT' 00000008 00000000
         S: 0003e889045565a9 00000008 8000000a [*]
         C: 'IHAVEOPT' 0000000b 00000000
         S: 0003e889045565a9 0000000b 00000001 00000000
         C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0ded ]
         S: 0003e889045565a9 00000007 00000001 00000000
         C: 21e41c71 0000 0000 00000000000000ff 0000000000000010 0000000000000004
         S: 6e8a278c 0001 0002 00000000000000ff 0000000000000010 { 0000000000000010 00000004 }",
    );
}

#[test]
fn lengths_of_64_bits_are_not_cut() {
    for (command, error) in
        [("0000", "16"), ("0004", "16"), ("0005", "16"), ("0006", "1c"), ("0007", "16")]
    {
        talk(&format!(
            "{EXTENDED}C: 21e41c71 0000 {command} 00000000000000aa 0*8 0000000100001000
             S: 6e8a278c 0001 8001 00000000000000aa 0*8
             S: {{ 000000{error} ('the request reaches beyond the end of the export') }}
             {IN_STEP}"
        ));
    }
}

#[test]
fn payload_that_is_not_expected_is_consumed() {
    for command in ["0000", "0003", "0004", "0005", "0006", "00ff"] {
        let text = match command {
            "00ff" => "unknown command",
            _ => "command flags that the export does not offer for this command",
        };
        talk(&format!(
            "{EXTENDED}C: 21e41c71 0020 {command} 00000000000000aa 0*8 0000000000001000 0*4096
             S: 6e8a278c 0001 8001 00000000000000aa 0*8 {{ 00000016 ('{text}') }}
             {IN_STEP}"
        ));
    }
}

#[test]
fn payload_above_the_maximum_ends_the_session() {
    for (command, length) in [("0001", "0000000200000000"), ("0000", "0000000004000001")] {
        let server = talk(&format!(
            "{EXTENDED}C: 21e41c71 0020 {command} 00000000000000aa 0*8 {length}
             S: EOF"
        ));
        assert!(matches!(server.violation(), ProtocolError::PayloadTooLong { .. }));
    }
}

#[test]
fn write_without_payload_flag_waits_for_its_data() {
    let header = "C: 21e41c71 0000 0001 00000000000000aa 0*8 0000000000001000";
    talk(&format!("{EXTENDED}{header}"));
    talk(&format!(
        "{EXTENDED}{header} 0*4096
         S: 6e8a278c 0001 0000 00000000000000aa 0*8 0*8
         C: 21e41c71 0020 0001 00000000000000aa 0*8 0000000000000000
         S: 6e8a278c 0001 8001 00000000000000aa 0*8 {{ 00000016 ('the length is zero') }}
         C: 21e41c71 0000 0000 00000000000000ff 0*8 0000000000000004
         S: 6e8a278c 0001 0001 00000000000000ff 0*8 {{ 0*8 0*4 }}"
    ));
}

#[test]
fn compact_request_ends_the_session() {
    let server =
        talk(&format!("{EXTENDED}C: 25609513 0000 0000 00000000000000aa 0*8 00001000 0*4"));
    assert_eq!(server.violation(), ProtocolError::RequestMagic { magic: 0x2560_9513 });
}

#[test]
fn disc_closes_the_connection() {
    let server = talk(&format!("{EXTENDED}C: 21e41c71 0020 0002 00000000000000aa 0*8 0*7 10"));
    assert_eq!(server.end, Some(End::Closed));
}

#[test]
fn block_status_has_64_bits() {
    talk(&format!(
        "{EXTENDED}C: 21e41c71 0000 0007 00000000000000aa 0000000000000200 000000000001fe00
         S: 6e8a278c 0001      # NBD_REPLY_FLAG_DONE
         S: 0006               # NBD_REPLY_TYPE_BLOCK_STATUS_EXT
         S: 00000000000000aa   # cookie
         S: 0000000000000200   # offset of the request
         S: 0000000000000018   # length
         S: 00000001           # context
         S: 00000001           # descriptor count
         S: 000000000001fe00   # length
         S: 0000000000000003   # hole, zero"
    ));
}

#[test]
fn block_status_payload_filters_contexts() {
    talk(&format!(
        "{EXTENDED}C: 21e41c71 0020 0007 00000000000000aa 0*8
         C: {{ 0000000000001000 00000001 }}  # effect length, context
         S: 6e8a278c 0001 0006 00000000000000aa 0*8
         S: {{ 00000001 00000001 0000000000001000 0000000000000003 }}
         C: 21e41c71 0028 0007 00000000000000aa 0*8 {{ 0000000000000001 00000001 }}  # REQ_ONE
         S: 6e8a278c 0001 0006 00000000000000aa 0*8
         S: {{ 00000001 00000001 0000000000000001 0000000000000003 }}
         {IN_STEP}"
    ));
    let refused = [
        ("0000000000001000 000003e9", ""),          // an unknown context
        ("0000000000001000 00000001 00000001", ""), // a context twice
        ("0000000000001000", ""),                   // no context
        ("0000000000001000 00", ""),                // not a multiple of four
        ("00", ""),
        ("0*4096", ""),
        ("0000000000020001 00000001", "the request reaches beyond the end of the export"),
        ("ffffffffffffffff 00000001", "the request reaches beyond the end of the export"),
        ("0000000000000000 00000001", "the length is zero"),
    ];
    for (payload, text) in refused {
        let text = match text {
            "" => "the payload does not list selected metadata contexts, each once",
            text => text,
        };
        talk(&format!(
            "{EXTENDED}C: 21e41c71 0020 0007 00000000000000aa 0*8 {{ {payload} }}
             S: 6e8a278c 0001 8001 00000000000000aa 0*8 {{ 00000016 ('{text}') }}
             {IN_STEP}"
        ));
    }
}

#[test]
fn block_status_payload_that_was_not_offered_is_consumed() {
    talk(
        "C: 'IHAVEOPT' 0000000b 00000000
         S: 0003e889045565a9 0000000b 00000001 00000000
         C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0ded ]
         S: 0003e889045565a9 00000007 00000001 00000000
         C: 21e41c71 0020 0007 00000000000000aa 0*8 { 0000000000001000 00000001 }
         S: 6e8a278c 0001 8001 00000000000000aa 0*8
         S: { 00000016 ('command flags that the export does not offer for this command') }
         C: 21e41c71 0000 0007 00000000000000aa 0*8 0000000000001000
         S: 6e8a278c 0001 8001 00000000000000aa 0*8
         S: { 00000016 ('no metadata context is selected for this export') }",
    );
}

#[test]
fn extended_headers_need_no_structured_replies() {
    let config = HandshakeConfig { structured_replies: false, ..HandshakeConfig::default() };
    Setup { config, ..Setup::default() }.talk(&format!("{EXTENDED}{IN_STEP}"));
}
