//! Replies that a stream takes in pieces.

use std::task::{Context, Poll, Waker};

use fastrand::Rng;

use super::decode::{Reads, decode};
use super::streams::{Gathering, Scripted};
use super::*;
use crate::block::{ErrorCode, Span};
use crate::connection::output::{Output, Read, Unsent};
use crate::device::{Content, Part};
use crate::nbd::codes::{CommandCode, command_flag};
use crate::nbd::{ReplyTo, Request};

const SCRIPTS: [&[usize]; 9] = [
    &[1],
    &[1, 0],
    &[7, 0, 13, 0, 0],
    &[4096],
    &[65536, 0],
    &[65535, 65537, 0, 1],
    &[usize::MAX],
    &[usize::MAX, 0],
    &[0, 0, 0, 100_000, 1, 0],
];

/// What a disk could give for a read of `length` bytes.
fn content(random: &mut Rng, length: usize) -> (Content, Vec<u8>) {
    let (mut parts, mut bytes) = (Vec::new(), Vec::new());
    while bytes.len() < length {
        let unit = [1, 512, 4096, 40_000, 200_000][random.u64(..5) as usize];
        let part = (unit * (1 + random.u64(..3)) as usize).min(length - bytes.len());
        if random.u64(..3) == 0 {
            bytes.resize(bytes.len() + part, 0);
            parts.push(Part::Hole(part as u32));
        } else {
            let fill = random.u8(..);
            let data: Vec<u8> = (0..part).map(|at| (at as u8).wrapping_mul(31) ^ fill).collect();
            bytes.extend_from_slice(&data);
            parts.push(Part::Data(data));
        }
    }
    (Content::Copied(parts), bytes)
}

/// Answers a read as a whole, however much of it has to wait.
fn answer(
    output: &mut Output,
    stream: &mut Scripted,
    cx: &mut Context<'_>,
    reply: ReplyTo,
    span: Span,
    content: &Content,
) {
    let read = Read { reply, span, content, ends: true, room: usize::MAX };
    assert_eq!(output.read(stream, cx, &read).unwrap(), None);
}

/// Answers random requests on a stream, and sees that all of it arrives.
fn converse(random: &mut Rng, style: ReplyStyle, script: &[usize], gathering: Gathering) {
    let session = session(style);
    let mut stream = Scripted::new(script, gathering);
    let mut output = Output::default();
    let cx = &mut Context::from_waker(Waker::noop());
    // A stream that takes bytes one by one needs no megabytes to show what it does.
    let largest = if script.contains(&usize::MAX) { 2_000_000 } else { 150_000 };
    let mut reads = Reads::new();
    let mut expected = Vec::new();
    for cookie in 0..12 {
        let length = match random.u64(..4) {
            0 => 1 + random.u64(..5000),
            1 => (32 << 10) - 1 + random.u64(..3),
            _ => 1 + random.u64(..largest),
        };
        let offset = random.u64(..1 << 20);
        let df = style != ReplyStyle::Simple && random.u64(..3) == 0;
        let flags = if df { command_flag::DF } else { 0 };
        let request = Request { flags, command: CommandCode::READ, cookie, offset, length };
        let reply = session.reply_to(&request);
        match random.u64(..4) {
            0 => reply.error(ErrorCode::Io, "it failed", output.batch()),
            _ => {
                let (content, bytes) = content(random, length as usize);
                let span = Span { offset, length };
                answer(&mut output, &mut stream, cx, reply, span, &content);
                expected.push((cookie, df, bytes));
            }
        }
        reads.insert(cookie, (offset, length as usize));
        if random.u64(..2) == 0 {
            let _ = output.poll_send(&mut stream, cx).map(Result::unwrap);
        }
    }
    while output.poll_send(&mut stream, cx).map(Result::unwrap).is_pending() {}
    assert_eq!(output.waiting(), 0);
    let mut replies = decode(&stream.taken, style, &reads);
    for (cookie, df, bytes) in expected {
        let reply = replies.remove(&cookie).expect("it was answered");
        assert!(reply.done && reply.error == 0);
        assert!(reply.data == bytes, "the read {cookie} arrived intact");
        assert!(!df || reply.chunks == 1);
    }
    assert!(replies.values().all(|reply| reply.done && reply.error == 5));
    assert!(replies.values().all(|reply| reply.data.is_empty()));
}

#[test]
fn reads_arrive_intact_however_a_stream_takes_them() {
    let mut random = Rng::with_seed(1);
    for style in STYLES {
        for script in SCRIPTS {
            for gathering in [Gathering::All, Gathering::First] {
                (0..4).for_each(|_| converse(&mut random, style, script, gathering));
            }
        }
    }
}

#[test]
fn reads_arrive_intact_through_random_windows() {
    let mut random = Rng::with_seed(2);
    for _ in 0..150 {
        let style = STYLES[random.u64(..3) as usize];
        let mut script: Vec<usize> = (0..1 + random.u64(..20))
            .map(|_| match random.u64(..4) {
                0 => 0,
                1 => 1 + random.u64(..100) as usize,
                2 => 60_000 + random.u64(..10_000) as usize,
                _ => 1 << random.u64(..24),
            })
            .collect();
        script.push(5000);
        let gathering = [Gathering::All, Gathering::First][random.u64(..2) as usize];
        converse(&mut random, style, &script, gathering);
    }
}

/// Cut at every byte: what came before is what a client gets, wherever the stream stops for a
/// while.
#[test]
fn a_stream_may_stop_at_every_byte() {
    let session = session(ReplyStyle::Structured);
    let cx = &mut Context::from_waker(Waker::noop());
    let span = Span { offset: 0, length: 33_000 };
    let request =
        Request { flags: 0, command: CommandCode::READ, cookie: 1, offset: 0, length: 33_000 };
    let reads = Reads::from([(1, (0, 33_000))]);
    let data: Vec<u8> = (0..33_000).map(|at| (at % 251) as u8).collect();
    let parts = data.chunks(300).map(|part| Part::Data(part.to_vec())).collect();
    let content = Content::Copied(parts);
    for window in (1..33_100).step_by(23).chain(32_990..33_030) {
        let mut stream = Scripted::new(&[window, 0, usize::MAX], Gathering::All);
        let mut output = Output::default();
        session.reply_to(&request).error(ErrorCode::Io, "before", output.batch());
        let reply = session.reply_to(&Request { cookie: 1, ..request });
        let before = output.waiting();
        answer(&mut output, &mut stream, cx, reply, span, &content);
        while output.poll_send(&mut stream, cx).map(Result::unwrap).is_pending() {}
        let replies = decode(&stream.taken[before..], ReplyStyle::Structured, &reads);
        assert!(replies[&1].data == data, "stopped after {window}");
    }
}

/// What has no room stays where it is, and the reply goes on where it stopped.
#[test]
fn no_more_waits_than_there_is_room_for() {
    const ROOM: usize = 64 << 10;
    let mut random = Rng::with_seed(3);
    for turn in 0..60 {
        let style = STYLES[turn % 3];
        let script = [1 + random.usize(..200_000), 0, 1 + random.usize(..50_000), 0];
        let mut stream = Scripted::new(&script, Gathering::All);
        let mut output = Output::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let length = 1 + random.u64(..2_000_000);
        let (whole, bytes) = content(&mut random, length as usize);
        let span = Span { offset: 4096, length };
        let request =
            Request { flags: 0, command: CommandCode::READ, cookie: 1, offset: 4096, length };
        let reply = session(style).reply_to(&request);
        let part = |of: Span| {
            let at = (of.offset - 4096) as usize;
            Content::Copied(vec![Part::Data(bytes[at..at + of.length as usize].to_vec())])
        };
        let read = Read { reply, span, content: &whole, ends: true, room: ROOM };
        let mut unsent = output.read(&mut stream, cx, &read).unwrap();
        while let Some(Unsent { mut owed, rest }) = unsent {
            // A run below 32 KiB may come on top, and headers.
            assert!(output.waiting() <= ROOM + (33 << 10), "{} bytes wait", output.waiting());
            let _ = output.poll_send(&mut stream, cx).map(Result::unwrap);
            unsent = if owed.length > 0 {
                let now = Span { length: owed.length.min(300_000), ..owed };
                let left = output.go_on(&mut stream, cx, now.length, &part(now), ROOM).unwrap();
                owed = owed.after(now.length - left);
                Some(Unsent { owed, rest })
            } else if rest.length > 0 {
                let content = part(rest);
                let read = Read { span: rest, content: &content, ..read };
                output.read(&mut stream, cx, &read).unwrap()
            } else {
                None
            };
        }
        while output.poll_send(&mut stream, cx).map(Result::unwrap).is_pending() {}
        assert_eq!(output.total(), stream.taken.len() as u64);
        let replies = decode(&stream.taken, style, &Reads::from([(1, (4096, length as usize))]));
        assert!(replies[&1].done && replies[&1].data == bytes, "{style}");
    }
}

#[test]
fn buffer_does_not_grow_with_what_was_sent() {
    let session = session(ReplyStyle::Simple);
    let cx = &mut Context::from_waker(Waker::noop());
    let request =
        Request { flags: 0, command: CommandCode::READ, cookie: 1, offset: 0, length: 4096 };
    let content = Content::Copied(vec![Part::Data(vec![1; 4096])]);
    let span = Span { offset: 0, length: 4096 };
    // It takes less than is asked for, so that something always waits.
    let mut stream = Scripted::new(&[8192, 0], Gathering::All);
    let mut output = Output::default();
    for _ in 0..2000 {
        while output.waiting() < 64 << 10 {
            let reply = session.reply_to(&request);
            answer(&mut output, &mut stream, cx, reply, span, &content);
        }
        assert!(output.poll_send(&mut stream, cx).is_pending());
        let capacity = output.batch().capacity();
        assert!(capacity < 512 << 10, "{capacity} bytes for 64 KiB that wait");
    }
}

#[test]
fn large_buffers_are_given_back() {
    let session = session(ReplyStyle::Simple);
    let cx = &mut Context::from_waker(Waker::noop());
    let length = 16 << 20;
    let request = Request { flags: 0, command: CommandCode::READ, cookie: 1, offset: 0, length };
    let content = Content::Copied(vec![Part::Data(vec![1; length as usize])]);
    let mut stream = Scripted::new(&[0, 4096, 0, 1 << 20], Gathering::All);
    let mut output = Output::default();
    let span = Span { offset: 0, length };
    let reply = session.reply_to(&request);
    answer(&mut output, &mut stream, cx, reply, span, &content);
    assert!(output.batch().capacity() >= length as usize - 4096, "it waits");
    while output.poll_send(&mut stream, cx).map(Result::unwrap).is_pending() {}
    assert!(output.batch().capacity() <= 1 << 20);
    assert_eq!(stream.taken.len() as u64, length + 16);
}

#[test]
fn a_stream_that_takes_nothing_at_all_is_an_error() {
    struct Full;
    impl tokio::io::AsyncWrite for Full {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Ok(0))
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let cx = &mut Context::from_waker(Waker::noop());
    let mut output = Output::default();
    output.batch().push(1);
    let Poll::Ready(Err(error)) = output.poll_send(&mut Full, cx) else { panic!("no error") };
    assert_eq!(error.kind(), std::io::ErrorKind::WriteZero);
}
