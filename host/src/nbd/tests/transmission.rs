//! "Transmission", "Request message", "Simple reply message", with simple replies.

use super::server::End;
use super::transcript::talk;
use super::*;

/// A read that succeeds, and its answer: the stream is in step.
const IN_STEP: &str = "C: 25609513 0000 0000 00000000000000ff 0000000000000000 00000004
    S: 67446698 00000000 00000000000000ff 0*4\n";

#[test]
fn write_is_read_back() {
    talk(&format!(
        "{SIMPLE}C: 25609513          # NBD_REQUEST_MAGIC
         C: 0000                      # flags
         C: 0001                      # NBD_CMD_WRITE
         C: 0123456789abcdef          # cookie
         C: 0000000000000fff          # offset
         C: 00000002                  # length
         C: 'ab'
         S: 67446698                  # NBD_SIMPLE_REPLY_MAGIC
         S: 00000000                  # error
         S: 0123456789abcdef          # cookie
         C: 25609513 0000 0000 ffffffffffffffff 0000000000000ffe 00000004  # READ
         S: 67446698 00000000 ffffffffffffffff 00 'ab' 00"
    ));
}

#[test]
fn every_command_is_answered() {
    for command in ["0000 0003", "0000 0004", "0000 0005", "0000 0006", "0002 0006", "0010 0006"] {
        let span = match command {
            "0000 0003" => "0000000000000000 00000000",
            _ => "0000000000001000 00001000",
        };
        talk(&format!(
            "{SIMPLE}C: 25609513 {command} 0000000000000000 {span}
             S: 67446698 00000000 0000000000000000
             {IN_STEP}"
        ));
    }
}

#[test]
fn fua_is_accepted_on_every_command() {
    for command in ["0000", "0001", "0004", "0005", "0006"] {
        let (payload, reply) = match command {
            "0000" => ("", "0*4"),
            "0001" => ("C: 0*4", ""),
            _ => ("", ""),
        };
        talk(&format!(
            "{SIMPLE}C: 25609513 0001 {command} 00000000000000aa 0000000000000000 00000004
             {payload}
             S: 67446698 00000000 00000000000000aa {reply}
             {IN_STEP}"
        ));
    }
    talk(&format!(
        "{SIMPLE}C: 25609513 0001 0003 00000000000000aa 0000000000000000 00000000
         S: 67446698 00000000 00000000000000aa
         C: 25609513 0001 0002 00000000000000aa 0000000000000000 00000000
         S: EOF"
    ));
}

#[test]
fn refused_write_leaves_stream_aligned() {
    for (flags, offset, error) in [
        ("0000", "000000000001ffff", "0000001c"), // beyond the end
        ("0000", "ffffffffffffffff", "0000001c"), // offset + length would overflow
        ("8000", "0000000000000000", "00000016"), // unknown flag
        ("0020", "0000000000000000", "00000016"), // PAYLOAD_LEN in a compact header
        ("0002", "0000000000000000", "00000016"), // NO_HOLE
        ("0004", "0000000000000000", "00000016"), // DF
        ("0008", "0000000000000000", "00000016"), // REQ_ONE
        ("0010", "0000000000000000", "00000016"), // FAST_ZERO
    ] {
        talk(&format!(
            "{SIMPLE}C: 25609513 {flags} 0001 00000000000000aa {offset} 00000020
             C: 25609513 0000 0002 00000000000000aa 0000000000000000 00000000  # data like a DISC
             C: 0*4
             S: 67446698 {error} 00000000000000aa
             {IN_STEP}"
        ));
    }
}

#[test]
fn unknown_commands_are_refused_and_have_no_payload() {
    for command in ["00ff", "0008", "ffff", "0100", "0101", "4242"] {
        for flags in ["0000", "0001", "0020", "ffff"] {
            talk(&format!(
                "{SIMPLE}C: 25609513 {flags} {command} 00000000000000aa 0000000000000000 00001000
                 S: 67446698 00000016 00000000000000aa
                 {IN_STEP}"
            ));
        }
    }
}

#[test]
fn block_status_without_structured_replies_is_refused() {
    talk(&format!(
        "{SIMPLE}C: 25609513 0000 0007 00000000000000aa 0000000000000000 00001000
         S: 67446698 00000016 00000000000000aa
         {IN_STEP}"
    ));
}

#[test]
fn wrong_request_magic_ends_the_session() {
    for magic in ["25609514", "21e41c71", "12560953", "00000000"] {
        let server = talk(&format!(
            "{SIMPLE}C: {magic} 0000 0000 00000000000000aa 0000000000000000 00000004 0*4
             S: EOF"
        ));
        let magic = u32::from_str_radix(magic, 16).unwrap();
        assert_eq!(server.violation(), ProtocolError::RequestMagic { magic });
    }
}

#[test]
fn disc_has_no_reply_whatever_its_fields_say() {
    for (flags, span) in [
        ("0000", "0000000000000000 00000000"),
        ("0001", "0000000000000000 00000000"),
        ("0000", "0000000000001000 00001000"),
        ("ffff", "ffffffffffffffff ffffffff"),
    ] {
        let server = talk(&format!(
            "{SIMPLE}{IN_STEP}C: 25609513 {flags} 0002 00000000000000aa {span}
             S: EOF"
        ));
        assert_eq!(server.end, Some(End::Closed));
    }
}

#[test]
fn requests_in_one_segment_are_each_answered() {
    let mut transcript = SIMPLE.to_owned();
    let requests = [
        ("0000 0000", "0000000000000000 00000001", "00000000", "00"),
        ("0000 0000", "0000000000020000 00000001", "00000016", ""),
        ("0000 0003", "0000000000000000 00000000", "00000000", ""),
        ("8000 0004", "0000000000000000 00000001", "00000016", ""),
        ("0000 0006", "0000000000020000 00000001", "0000001c", ""),
    ];
    for (command, span, _, _) in requests {
        transcript += &format!("C: 25609513 {command} 000000000000002a {span}\n");
    }
    for (_, _, error, data) in requests {
        transcript += &format!("S: 67446698 {error} 000000000000002a {data}\n");
    }
    talk(&transcript);
}

#[test]
fn failed_read_has_no_payload() {
    talk(&format!(
        "{SIMPLE}C: 25609513 0000 0000 00000000000000aa 000000000001f000 00000010  # broken page
         S: 67446698 00000005 00000000000000aa
         {IN_STEP}"
    ));
}

#[test]
fn request_header_that_is_cut_short_is_an_error() {
    let session = session(&geometry(), ReplyStyle::Simple);
    let error = ProtocolError::RequestTruncated { length: 27 };
    assert_eq!(session.parse(&[0; 27]), Err(error));
}
