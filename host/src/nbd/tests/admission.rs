//! What is admitted: "Request types", "Error values", "Size constraints".

use super::*;
use crate::block::{Command, ErrorCode, MAX_SIZE, Span};
use codes::{CommandCode as C, command_flag as flag};

const MIB: u64 = 1 << 20;

fn request(flags: u16, command: C, offset: u64, length: u64) -> Request {
    Request { flags, command, cookie: 7, offset, length }
}

fn verdict(session: &Session, request: Request) -> Verdict {
    session.admit(&request).expect("no reason to disconnect").verdict
}

fn refusal(session: &Session, request: Request) -> ErrorCode {
    match verdict(session, request) {
        Verdict::Refuse { error, .. } => error,
        other => panic!("{request:?} was not refused: {other:?}"),
    }
}

fn disk(size: u64) -> Geometry {
    Geometry { size, ..geometry() }
}

#[test]
fn spans_beyond_the_end_are_refused() {
    let size = 64 * MIB;
    let session = session(&disk(size), ReplyStyle::Structured);
    for (command, error) in [
        (C::READ, ErrorCode::Inval),
        (C::TRIM, ErrorCode::Inval),
        (C::CACHE, ErrorCode::Inval),
        (C::BLOCK_STATUS, ErrorCode::Inval),
        (C::WRITE, ErrorCode::NoSpc),
        (C::WRITE_ZEROES, ErrorCode::NoSpc),
    ] {
        for (offset, length) in [
            (size - 4096, 8192),
            (size, 4096),
            (1 << 63, 4096),
            (u64::MAX - 4095, 8192),
            (u64::MAX, 1),
            (size - 1, 2),
        ] {
            assert_eq!(refusal(&session, request(0, command, offset, length)), error, "{command}");
        }
        if command != C::WRITE {
            let request = request(0, command, 0, (1 << 32) - 4096);
            assert_eq!(refusal(&session, request), error, "{command}");
        }
    }
}

#[test]
fn the_last_byte_of_the_largest_disk_is_within_reach() {
    let session = session(&disk(MAX_SIZE), ReplyStyle::Extended);
    let span = Span { offset: MAX_SIZE - 1, length: 1 };
    let read = request(0, C::READ, span.offset, 1);
    assert_eq!(verdict(&session, read), Verdict::Execute(Command::Read { span }));
    assert_eq!(refusal(&session, request(0, C::READ, span.offset, 2)), ErrorCode::Inval);
    let span = Span { offset: 0, length: MAX_SIZE };
    for (command, executed) in [
        (C::TRIM, Command::Trim { span, fua: false }),
        (C::CACHE, Command::Cache { span }),
        (C::BLOCK_STATUS, Command::Extents { span, limit: limits::MAX_EXTENTS }),
    ] {
        let request = request(0, command, 0, MAX_SIZE);
        assert_eq!(verdict(&session, request), Verdict::Execute(executed));
    }
    assert_eq!(
        verdict(&session, request(flag::FAST_ZERO, C::WRITE_ZEROES, 0, MAX_SIZE)),
        Verdict::Execute(Command::Zero { span, fua: false, keep_allocated: false, fast: true })
    );
}

#[test]
fn empty_requests_are_refused() {
    for style in [ReplyStyle::Simple, ReplyStyle::Structured] {
        let session = session(&disk(MIB), style);
        for command in [C::READ, C::WRITE, C::TRIM, C::CACHE, C::WRITE_ZEROES, C::BLOCK_STATUS] {
            for offset in [0, 4096, MIB, u64::MAX] {
                let request = request(0, command, offset, 0);
                let Ok(Admission { payload, .. }) = session.admit(&request) else { panic!() };
                assert_eq!(payload, 0);
                assert_eq!(refusal(&session, request), ErrorCode::Inval);
            }
        }
    }
}

#[test]
fn misaligned_requests_are_refused_if_the_client_asked_for_block_sizes() {
    let mut geometry = disk(MIB);
    geometry.block_sizes = BlockSizes { minimum: 4096, preferred: 4096, maximum: 1 << 20 };
    let style = ReplyStyle::Structured;
    let strict = Session::new(
        &geometry,
        Negotiated { style, block_sizes: true, contexts: Contexts::ALLOCATION },
    );
    let lax = Session::new(
        &geometry,
        Negotiated { style, block_sizes: false, contexts: Contexts::ALLOCATION },
    );
    for command in [C::READ, C::WRITE, C::TRIM, C::CACHE, C::WRITE_ZEROES, C::BLOCK_STATUS] {
        for (offset, length) in [(2048, 4096), (0, 2048), (1, 1), (4096, 4097)] {
            let request = request(0, command, offset, length);
            assert_eq!(refusal(&strict, request), ErrorCode::Inval);
            assert!(matches!(verdict(&lax, request), Verdict::Execute(_)));
        }
        let request = request(0, command, 4096, 8192);
        assert!(matches!(verdict(&strict, request), Verdict::Execute(_)));
    }
}

#[test]
fn flags_are_only_taken_where_they_belong() {
    let session = session(&disk(MIB), ReplyStyle::Structured);
    let commands =
        [C::READ, C::WRITE, C::FLUSH, C::TRIM, C::CACHE, C::WRITE_ZEROES, C::BLOCK_STATUS];
    for command in commands {
        let allowed = flag::FUA
            | match command {
                C::READ => flag::DF,
                C::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
                C::BLOCK_STATUS => flag::REQ_ONE,
                _ => 0,
            };
        let (offset, length) = if command == C::FLUSH { (0, 0) } else { (4096, 4096) };
        for bit in 0..16 {
            let request = request(1 << bit, command, offset, length);
            match allowed & request.flags {
                0 => assert_eq!(refusal(&session, request), ErrorCode::Inval, "{request:?}"),
                _ => assert!(matches!(verdict(&session, request), Verdict::Execute(_))),
            }
        }
    }
}

#[test]
fn what_is_not_offered_is_refused() {
    let all = request(0, C::FLUSH, 0, 0);
    for (change, request) in [
        ((|c| c.flush = false) as fn(&mut Capabilities), all),
        (|c| c.trim = false, request(0, C::TRIM, 0, 4096)),
        (|c| c.cache = false, request(0, C::CACHE, 0, 4096)),
        (|c| c.zero = false, request(0, C::WRITE_ZEROES, 0, 4096)),
        (|c| c.zero = false, request(flag::FAST_ZERO, C::WRITE_ZEROES, 0, 4096)),
        (|c| c.fast_zero = false, request(flag::FAST_ZERO, C::WRITE_ZEROES, 0, 4096)),
        (|c| c.fua = false, request(flag::FUA, C::WRITE, 0, 4096)),
        (|c| c.fua = false, request(flag::FUA, C::READ, 0, 4096)),
    ] {
        let mut geometry = disk(MIB);
        let simple = session(&geometry, ReplyStyle::Simple);
        assert!(matches!(verdict(&simple, request), Verdict::Execute(_)));
        change(&mut geometry.capabilities);
        let simple = session(&geometry, ReplyStyle::Simple);
        assert_eq!(refusal(&simple, request), ErrorCode::Inval);
    }
    let simple = session(&disk(MIB), ReplyStyle::Simple);
    assert_eq!(refusal(&simple, request(flag::DF, C::READ, 0, 4096)), ErrorCode::Inval);
}

#[test]
fn read_only_disks_refuse_to_change() {
    let mut geometry = disk(MIB);
    geometry.capabilities.writable = false;
    let session = session(&geometry, ReplyStyle::Structured);
    for command in [C::WRITE, C::TRIM, C::WRITE_ZEROES] {
        for offset in [0, MIB] {
            let request = request(0, command, offset, 4096);
            assert_eq!(refusal(&session, request), ErrorCode::Perm);
            let payload = if command == C::WRITE { 4096 } else { 0 };
            assert_eq!(session.admit(&request).map(|admission| admission.payload), Ok(payload));
        }
    }
    for command in [C::READ, C::CACHE, C::BLOCK_STATUS] {
        assert!(matches!(verdict(&session, request(0, command, 0, 4096)), Verdict::Execute(_)));
    }
    assert_eq!(verdict(&session, request(1, C::FLUSH, 0, 0)), Verdict::Execute(Command::Flush));
}

#[test]
fn payloads_are_admitted_up_to_the_maximum() {
    let mut geometry = disk(1 << 40);
    for (maximum, asked, admitted) in [
        (64 << 20, false, 64 << 20),
        (64 << 20, true, 64 << 20),
        (1 << 20, true, 1 << 20),
        (1 << 20, false, 32 << 20), // nothing was advertised, so the default counts
        (u32::MAX, true, 64 << 20),
        (u32::MAX, false, 64 << 20),
    ] {
        geometry.block_sizes.maximum = maximum;
        for style in [ReplyStyle::Simple, ReplyStyle::Structured] {
            let negotiated =
                Negotiated { style, block_sizes: asked, contexts: Contexts::default() };
            let session = Session::new(&geometry, negotiated);
            let too_long = match style {
                ReplyStyle::Simple => ErrorCode::Inval,
                _ => ErrorCode::Overflow,
            };
            let read = |length| request(0, C::READ, 0, length);
            assert!(matches!(verdict(&session, read(admitted)), Verdict::Execute(_)));
            assert_eq!(refusal(&session, read(admitted + 1)), too_long);
            assert_eq!(refusal(&session, read(u32::MAX.into())), too_long);
            let write = |length| request(0, C::WRITE, 0, length);
            assert!(matches!(verdict(&session, write(admitted)), Verdict::Execute(_)));
            assert_eq!(refusal(&session, write(admitted + 1)), ErrorCode::Inval);
            assert_eq!(refusal(&session, write(2 * admitted)), ErrorCode::Inval);
            assert_eq!(refusal(&session, write(limits::MAX_DRAIN)), ErrorCode::Inval);
        }
    }
}

#[test]
fn payloads_that_nobody_wants_to_read_end_the_session() {
    let session = session(&disk(1 << 40), ReplyStyle::Simple);
    for length in [limits::MAX_DRAIN + 1, 0xffff_f000, u32::MAX.into()] {
        let error =
            ProtocolError::PayloadTooLong { command: C::WRITE, length, limit: limits::MAX_DRAIN };
        assert_eq!(session.admit(&request(0, C::WRITE, 0, length)), Err(error));
    }
}

#[test]
fn extended_payloads_above_the_maximum_end_the_session() {
    let mut geometry = disk(1 << 40);
    for (maximum, asked, cap) in [
        (64 << 20, true, 64 << 20),
        (1 << 20, true, 32 << 20), // 2^25 bytes are not called denial of service
        (1 << 20, false, 32 << 20),
    ] {
        geometry.block_sizes.maximum = maximum;
        let style = ReplyStyle::Extended;
        let negotiated = Negotiated { style, block_sizes: asked, contexts: Contexts::ALLOCATION };
        let session = Session::new(&geometry, negotiated);
        for command in [C::READ, C::WRITE, C::BLOCK_STATUS, C(0xff)] {
            let request = |length| request(flag::PAYLOAD_LEN, command, 0, length);
            assert_eq!(session.admit(&request(cap)).map(|a| a.payload), Ok(cap));
            assert!(session.admit(&request(cap + 1)).is_err());
            assert!(session.admit(&request(u64::MAX)).is_err());
        }
    }
}

#[test]
fn extents_are_limited_to_one_chunk_of_the_maximum_payload() {
    let mut geometry = disk(MIB);
    let block_status = request(0, C::BLOCK_STATUS, 0, 4096);
    let span = Span { offset: 0, length: 4096 };
    for (maximum, limit) in [(64 << 20, 1 << 14), (4096, 256), (512, 32), (1, 1)] {
        geometry.block_sizes.maximum = maximum;
        let style = ReplyStyle::Extended;
        let negotiated = Negotiated { style, block_sizes: true, contexts: Contexts::ALLOCATION };
        let session = Session::new(&geometry, negotiated);
        let extents = Verdict::Execute(Command::Extents { span, limit });
        assert_eq!(verdict(&session, block_status), extents);
        let one = Request { flags: flag::REQ_ONE, ..block_status };
        let extents = Verdict::Execute(Command::Extents { span, limit: 1 });
        assert_eq!(verdict(&session, one), extents);
    }
}

#[test]
fn block_status_of_almost_4_gib_is_admitted() {
    let session = session(&disk(8 << 30), ReplyStyle::Structured);
    let span = Span { offset: 0, length: u32::MAX.into() };
    assert_eq!(
        verdict(&session, request(0, C::BLOCK_STATUS, 0, span.length)),
        Verdict::Execute(Command::Extents { span, limit: limits::MAX_EXTENTS })
    );
}

#[test]
fn flush_takes_neither_offset_nor_length() {
    let session = session(&disk(MIB), ReplyStyle::Simple);
    assert_eq!(verdict(&session, request(0, C::FLUSH, 0, 0)), Verdict::Execute(Command::Flush));
    for (offset, length) in [(512, 0), (0, 1024), (512, 1024)] {
        assert_eq!(refusal(&session, request(0, C::FLUSH, offset, length)), ErrorCode::Inval);
    }
}
