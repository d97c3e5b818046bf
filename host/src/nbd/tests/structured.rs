//! "Structured reply chunk message", "Structured reply types", "Block status".

use super::transcript::talk;
use super::*;
use crate::block::{ErrorCode, Extents, Span, Status};

const WRITE: &str = "C: 25609513 0000 0001 00000000000000aa 0000000000001000 00001000 0*4096
    S: 67446698 00000000 00000000000000aa\n";

#[test]
fn read_of_data_is_one_chunk() {
    talk(&format!(
        "{STRUCTURED}{WRITE}C: 25609513 0000 0000 0123456789abcdef 0000000000001003 00000005
         S: 668e33ef          # NBD_STRUCTURED_REPLY_MAGIC
         S: 0001              # NBD_REPLY_FLAG_DONE
         S: 0001              # NBD_REPLY_TYPE_OFFSET_DATA
         S: 0123456789abcdef  # cookie
         S: 0000000d          # length
         S: 0000000000001003  # offset
         S: 0*5"
    ));
}

#[test]
fn read_of_a_hole_is_one_chunk() {
    talk(&format!(
        "{STRUCTURED}C: 25609513 0000 0000 0123456789abcdef 0000000000001003 00000005
         S: 668e33ef          # NBD_STRUCTURED_REPLY_MAGIC
         S: 0001              # NBD_REPLY_FLAG_DONE
         S: 0002              # NBD_REPLY_TYPE_OFFSET_HOLE
         S: 0123456789abcdef  # cookie
         S: 0000000c          # length
         S: 0000000000001003  # offset
         S: 00000005          # hole size"
    ));
}

#[test]
fn read_of_holes_and_data_is_one_chunk_each() {
    talk(&format!(
        "{STRUCTURED}{WRITE}C: 25609513 0000 0000 00000000000000aa 0000000000000000 00004000
         S: 668e33ef 0000 0002 00000000000000aa [ 0000000000000000 00001000 ]
         S: 668e33ef 0000 0001 00000000000000aa [ 0000000000001000 0*4096 ]
         S: 668e33ef 0001 0002 00000000000000aa [ 0000000000002000 00002000 ]"
    ));
}

#[test]
fn read_with_df_is_one_chunk() {
    talk(&format!(
        "{STRUCTURED}{WRITE}C: 25609513 0004 0000 00000000000000aa 0000000000000000 00010000
         S: 668e33ef 0001 0001 00000000000000aa [ 0000000000000000 0*65536 ]
         C: 25609513 0004 0000 00000000000000aa 0000000000010000 00002000
         S: 668e33ef 0001 0002 00000000000000aa [ 0000000000010000 00002000 ]"
    ));
}

#[test]
fn errors_are_chunks_with_a_text() {
    let refused = [
        (
            "0000 0000",
            "0000000000020000",
            "00000016",
            "the request reaches beyond the end of the export",
        ),
        (
            "0000 0006",
            "0000000000020000",
            "0000001c",
            "the request reaches beyond the end of the export",
        ),
        (
            "8000 0000",
            "0000000000000000",
            "00000016",
            "command flags that the export does not offer for this command",
        ),
        (
            "0004 0004",
            "0000000000000000",
            "00000016",
            "command flags that the export does not offer for this command",
        ),
        ("0000 00ff", "0000000000000000", "00000016", "unknown command"),
        ("0000 0003", "0000000000000000", "00000016", "a flush has neither offset nor length"),
    ];
    for (command, offset, error, text) in refused {
        talk(&format!(
            "{STRUCTURED}C: 25609513 {command} 00000000000000aa {offset} 00000001
             S: 668e33ef          # NBD_STRUCTURED_REPLY_MAGIC
             S: 0001              # NBD_REPLY_FLAG_DONE
             S: 8001              # NBD_REPLY_TYPE_ERROR
             S: 00000000000000aa  # cookie
             S: [ {error} ('{text}') ]"
        ));
    }
}

#[test]
fn failed_read_tells_the_offset() {
    talk(&format!(
        "{STRUCTURED}C: 25609513 0000 0000 00000000000000aa 000000000001f000 00000010
         S: 668e33ef 0001     # NBD_REPLY_FLAG_DONE
         S: 8002              # NBD_REPLY_TYPE_ERROR_OFFSET
         S: 00000000000000aa  # cookie
         S: [ 00000005 ('the last page is broken') 000000000001f000 ]"
    ));
}

#[test]
fn success_without_content_is_a_simple_reply() {
    for command in ["0004", "0005", "0006"] {
        talk(&format!(
            "{STRUCTURED}C: 25609513 0000 {command} 00000000000000aa 0000000000000000 00000001
             S: 67446698 00000000 00000000000000aa"
        ));
    }
}

#[test]
fn block_status_tells_extents() {
    talk(&format!(
        "{STRUCTURED}{WRITE}C: 25609513 0000 0007 00000000000000aa 0000000000000005 00004000
         S: 668e33ef           # NBD_STRUCTURED_REPLY_MAGIC
         S: 0001               # NBD_REPLY_FLAG_DONE
         S: 0005               # NBD_REPLY_TYPE_BLOCK_STATUS
         S: 00000000000000aa   # cookie
         S: 0000001c           # length
         S: 00000001           # context
         S: 00000ffb 00000003  # hole, zero
         S: 00001000 00000000  # data
         S: 00002005 00000003  # hole, zero
         C: 25609513 0008 0007 00000000000000aa 0000000000000005 00004000  # REQ_ONE
         S: 668e33ef 0001 0005 00000000000000aa [ 00000001 00000ffb 00000003 ]
         C: 25609513 0008 0007 00000000000000aa 0000000000001005 00000003  # REQ_ONE
         S: 668e33ef 0001 0005 00000000000000aa [ 00000001 00000003 00000000 ]"
    ));
}

fn reply(style: ReplyStyle) -> ReplyTo {
    let request = Request {
        flags: 0,
        command: codes::CommandCode::BLOCK_STATUS,
        cookie: 0xaa,
        offset: 0x100,
        length: 0x1000,
    };
    session(&geometry(), style).reply_to(&request)
}

#[test]
fn statuses_are_the_bits_of_base_allocation() {
    let mut extents = Extents::new(0x1000, 9);
    for (hole, zero) in [(false, false), (true, false), (false, true), (true, true)] {
        extents.push(0x200, Status { hole, zero });
    }
    let mut out = Vec::new();
    let span = Span { offset: 0x100, length: 0x1000 };
    reply(ReplyStyle::Structured).block_status(span, &extents, &mut out);
    assert_eq!(
        out[24..],
        transcript::bytes(
            "00000200 00000000 00000200 00000001 00000200 00000002 00000200 00000003"
        )
    );
}

#[test]
fn nothing_known_is_told_as_data() {
    let span = Span { offset: 0x100, length: 0x1000 };
    let mut out = Vec::new();
    reply(ReplyStyle::Structured).block_status(span, &Extents::new(0x1000, 1), &mut out);
    assert_eq!(
        out,
        transcript::bytes("668e33ef 0001 0005 00000000000000aa [ 00000001 00001000 00000000 ]")
    );
}

#[test]
fn extents_are_cut_to_32_bits_and_nothing_follows_a_cut_one() {
    let exact = u64::from(u32::MAX);
    for (length, told) in [(exact, "ffffffff"), (exact + 1, "ffff0000"), (1 << 62, "ffff0000")] {
        let mut extents = Extents::new(1 << 63, 9);
        extents.push(512, Status::DATA);
        extents.push(length, Status::HOLE);
        extents.push(512, Status::DATA);
        let mut out = Vec::new();
        let span = Span { offset: 0, length: 1 << 63 };
        reply(ReplyStyle::Structured).block_status(span, &extents, &mut out);
        let rest = if length == exact { "00000200 00000000" } else { "" };
        let expected = format!(
            "668e33ef 0001 0005 00000000000000aa
             [ 00000001 00000200 00000000 {told} 00000003 {rest} ]"
        );
        assert_eq!(out, transcript::bytes(&expected.replace('\n', " ")));
    }
}

#[test]
fn error_texts_are_cut_whatever_a_component_says() {
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let header = if style == ReplyStyle::Extended { 32 } else { 20 };
        for text in ["\u{2603}".repeat(100_000), "a".repeat(257), "a\0b".into(), String::new()] {
            let mut out = Vec::new();
            reply(style).error(ErrorCode::Io, &text, &mut out);
            let length = usize::from(u16::from_be_bytes([out[header + 4], out[header + 5]]));
            assert!(length <= 256 && text.as_bytes().starts_with(&out[header + 6..]));
            assert_eq!(out.len(), header + 6 + length);
            assert!(str::from_utf8(&out[header + 6..]).is_ok_and(|text| !text.contains('\0')));

            let mut out = Vec::new();
            reply(style).error_at(ErrorCode::Io, &text, 0x100, &mut out);
            assert_eq!(out.len(), header + 14 + length);
            assert_eq!(out[header + 6 + length..], 0x100_u64.to_be_bytes());
        }
    }
}
