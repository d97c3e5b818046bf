//! The headers of requests, and the replies to them.

use memnbd::block::{
    BlockSizes, Capabilities, Command, ErrorCode, Extents, Geometry, MAX_SIZE, Span, Status,
};
use memnbd::nbd::limits::{MAX_DRAIN, MAX_EXTENTS, MAX_PAYLOAD};
use memnbd::nbd::{Admission, Contexts, Negotiated, Piece, ReplyStyle, Request, Session, Verdict};

use super::Choices;

/// The first bytes make a disk and a session, then come headers with their payloads. Whatever is
/// admitted lies within the disk and the limits, and whatever is answered is well-formed.
pub(crate) fn transmission(data: &[u8]) {
    let mut choices = Choices(data);
    let style = [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended]
        [usize::from(choices.byte() % 3)];
    let flags = u16::from(choices.byte()) << 8 | u16::from(choices.byte());
    let bit = |index: u32| flags >> index & 1 != 0;
    let minimum = 1 << (choices.byte() % 17);
    let preferred = minimum.max(4096);
    let geometry = Geometry {
        size: choices.u64() >> 1 & !(u64::from(minimum) - 1) & MAX_SIZE,
        block_sizes: BlockSizes {
            minimum,
            preferred,
            maximum: preferred.max(1 << (choices.byte() % 27)),
        },
        capabilities: Capabilities {
            writable: bit(0),
            flush: bit(1),
            fua: bit(2),
            trim: bit(3),
            zero: bit(4),
            fast_zero: bit(5),
            cache: bit(6),
            multi_conn: bit(7),
            rotational: bit(8),
        },
        description: String::new(),
    };
    // Contexts cannot be selected where no reply could carry them.
    let contexts = match style {
        ReplyStyle::Simple => Contexts::default(),
        _ => (1..6).filter(|id| bit(9 + id)).fold(Contexts::default(), Contexts::with),
    };
    let negotiated = Negotiated { style, block_sizes: bit(9), contexts };
    let session = Session::new(&geometry, negotiated);
    while !choices.0.is_empty() {
        let Some(header) = choices.0.get(..session.header_len()) else { return };
        choices.0 = &choices.0[header.len()..];
        let Ok(request) = session.parse(header) else { return };
        let Ok(admission) = session.admit(&request) else { return };
        let Some(verdict) = judge(&session, &request, admission, &mut choices) else { return };
        match verdict {
            Verdict::Execute(command) => {
                check_command(&command, &session, &geometry, negotiated);
                answer(&session, &request, &command, &mut choices);
            }
            Verdict::Describe { span, limit, contexts } => {
                assert!(limit > 0 && limit * contexts.count() <= MAX_EXTENTS);
                check_command(&Command::Extents { span, limit }, &session, &geometry, negotiated);
                describe(&session, &request, span, contexts);
            }
            Verdict::Refuse { error, reason } => {
                let mut out = Vec::new();
                session.reply_to(&request).error(error, reason.text(), &mut out);
                check_replies(&out, style, &request, None);
            }
            Verdict::Disconnect => return,
            Verdict::Filter => panic!("a filter was judged"),
        }
    }
}

fn describe(session: &Session, request: &Request, span: Span, contexts: Contexts) {
    let mut out = Vec::new();
    let reply = session.reply_to(request);
    let ids: Vec<u32> = contexts.ids().collect();
    for id in &ids {
        let mut extents = Extents::new(span.length, 1);
        extents.push(span.length, *id);
        reply.context_status(*id, Some(id) == ids.last(), span, &extents, &mut out);
    }
    check_replies(&out, session.style(), request, None);
}

/// Takes what follows the header. None where the input ends.
fn judge(
    session: &Session,
    request: &Request,
    admission: Admission,
    choices: &mut Choices<'_>,
) -> Option<Verdict> {
    let Admission { payload, verdict } = admission;
    assert!(payload <= MAX_DRAIN);
    let filter = verdict == Verdict::Filter;
    assert!(!filter || payload <= 76, "a filter is a few bytes");
    let payload = choices.0.get(..payload as usize)?;
    choices.0 = &choices.0[payload.len()..];
    Some(if filter { session.admit_filter(request, payload) } else { verdict })
}

fn check_command(
    command: &Command,
    session: &Session,
    geometry: &Geometry,
    negotiated: Negotiated,
) {
    let (span, most) = match *command {
        Command::Read { span } => (span, session.maximum_payload().into()),
        Command::Write { span, .. } => (span, session.maximum_payload().into()),
        Command::Zero { span, .. } | Command::Trim { span, .. } => (span, u64::MAX),
        Command::Cache { span } => (span, u64::MAX),
        Command::Extents { span, limit } => {
            assert!((1..=MAX_EXTENTS).contains(&limit));
            (span, u64::MAX)
        }
        Command::Flush => return,
    };
    assert!(session.maximum_payload() <= MAX_PAYLOAD);
    assert!(span.length > 0 && span.length <= most);
    assert!(span.offset.checked_add(span.length).is_some_and(|end| end <= geometry.size));
    let changes =
        matches!(command, Command::Write { .. } | Command::Zero { .. } | Command::Trim { .. });
    assert!(!changes || geometry.capabilities.writable);
    if negotiated.block_sizes {
        let minimum = u64::from(geometry.block_sizes.minimum);
        assert_eq!((span.offset % minimum, span.length % minimum), (0, 0));
    }
}

fn answer(session: &Session, request: &Request, command: &Command, choices: &mut Choices<'_>) {
    let reply = session.reply_to(request);
    let style = session.style();
    let mut out = Vec::new();
    if choices.byte() % 8 == 7 {
        reply.error(ErrorCode::Io, "it failed", &mut out);
        return check_replies(&out, style, request, None);
    }
    match *command {
        Command::Read { span } if span.length <= 1 << 20 => {
            let mut pieces = Vec::new();
            let mut left = span.length;
            while left > 0 {
                let choice = choices.byte();
                let length = (u64::from(choice >> 1) << (choice % 13)).clamp(1, left);
                pieces.push(if choice & 1 == 0 {
                    Piece::Data(length)
                } else {
                    Piece::Hole(length)
                });
                left -= length;
            }
            for run in reply.runs(span, pieces) {
                reply.run(&run, &mut out);
                if !run.hole {
                    out.resize(out.len() + run.span.length as usize, 0xda);
                }
            }
            check_replies(&out, style, request, Some(span));
        }
        Command::Read { .. } => {}
        Command::Extents { span, limit } => {
            let mut extents = Extents::new(span.length, limit);
            for _ in 0..choices.byte() {
                let length = choices.u64() >> (choices.byte() % 64);
                let status = Status { hole: choices.bool(), zero: choices.bool() };
                if !extents.push(length, status) {
                    break;
                }
            }
            reply.block_status(span, &extents, &mut out);
            check_replies(&out, style, request, None);
        }
        _ => {
            reply.success(&mut out);
            check_replies(&out, style, request, None);
        }
    }
}

/// Whether the replies to one request are whole, in order, and end.
fn check_replies(mut out: &[u8], style: ReplyStyle, request: &Request, read: Option<Span>) {
    let mut covered = 0;
    let mut done = false;
    while !done {
        let magic = u32::from_be_bytes(out[..4].try_into().unwrap());
        if magic == 0x6744_6698 {
            assert!(style != ReplyStyle::Extended);
            assert_eq!(out[8..16], request.cookie.to_be_bytes());
            covered = out.len() as u64 - 16;
            out = &[];
            break;
        }
        done = out[5] & 1 != 0;
        let kind = u16::from_be_bytes(out[6..8].try_into().unwrap());
        assert_eq!(out[8..16], request.cookie.to_be_bytes());
        let (length, header) = match style {
            ReplyStyle::Structured => {
                assert_eq!(magic, 0x668e_33ef);
                (u64::from(u32::from_be_bytes(out[16..20].try_into().unwrap())), 20)
            }
            ReplyStyle::Extended => {
                assert_eq!(magic, 0x6e8a_278c);
                assert_eq!(out[16..24], request.offset.to_be_bytes());
                (u64::from_be_bytes(out[24..32].try_into().unwrap()), 32)
            }
            ReplyStyle::Simple => panic!("only simple replies were negotiated"),
        };
        let (data, rest) = out[header..].split_at(length as usize);
        out = rest;
        if let 1 | 2 = kind {
            let span = read.expect("content is for reads");
            assert_eq!(data[..8], (span.offset + covered).to_be_bytes());
            covered += match kind {
                1 => length - 8,
                _ => u64::from(u32::from_be_bytes(data[8..12].try_into().unwrap())),
            };
        }
    }
    assert!(out.is_empty(), "nothing follows the end of a reply");
    assert_eq!(covered, read.map_or(0, |span| span.length));
}
