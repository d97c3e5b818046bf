//! Whole connections, from greeting to end, over streams in memory that hold little.

use std::sync::OnceLock;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};
use tokio::sync::watch;

use super::client::{Client, PATIENCE, READ, WRITE, config, context_of, hello, request};
use super::decode::{Reads, decode};
use super::streams::Narrow;
use super::*;
use crate::component::{BuiltIn, Component, Engine};
use crate::connection::{Context, End, Phase, serve};
use crate::device::guest::DiskConfig;
use crate::parameters::{Argument, Value};
use crate::transport::Stream;

/// A server of one disk of 16 MiB, and the end of its life.
pub(super) async fn context() -> (Context, watch::Sender<Phase>) {
    static MEMORY: OnceLock<Component> = OnceLock::new();
    if MEMORY.get().is_none() {
        let engine = Engine::new(Duration::from_secs(60));
        let memory = BuiltIn::find("memory").unwrap();
        let _ = MEMORY.set(engine.load_built_in(memory).await.unwrap());
    }
    let component = MEMORY.get().unwrap().clone();
    let arguments = vec![Argument { name: "size".into(), value: Value::Size(16 << 20) }];
    context_of(vec![DiskConfig { arguments, ..config("disk", component) }])
}

/// What is written first: every other 64 KiB of the first half of the disk, with holes in between.
fn prepared() -> Vec<u8> {
    let mut disk = vec![0; 8 << 20];
    for (index, stretch) in disk.chunks_mut(64 << 10).enumerate().step_by(2) {
        stretch.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + index) as u8);
    }
    disk
}

/// Writes what is prepared.
pub(super) async fn prepare(context: &Context) {
    let style = ReplyStyle::Simple;
    let mut bytes = hello(style).0;
    let disk = prepared();
    for (index, stretch) in disk.chunks(64 << 10).enumerate().step_by(2) {
        let at = (index * (64 << 10)) as u64;
        bytes.extend(request(style, 0, 1, at, at, stretch.len() as u64));
        bytes.extend_from_slice(stretch);
    }
    bytes.extend(request(style, 0, 2, 0, 0, 0));
    let (client, server) = duplex(1 << 20);
    let (end, _) = hold(server, client, context, &bytes, 1 << 20).await;
    assert!(matches!(end, End::Disconnected), "{end}");
}

/// A conversation with reads of what is prepared and writes elsewhere, of lengths up to `largest`.
/// What the reads are to give comes with it.
pub(super) fn conversation(style: ReplyStyle, count: u64, largest: usize) -> (Vec<u8>, Reads) {
    let mut bytes = hello(style).0;
    let mut reads = Reads::new();
    let mut random = Rng::with_seed(7);
    for cookie in 0..count {
        let at = random.u64(..7 << 20);
        let lengths = [1, 511, 4096, 32_768, 70_001, 300_000];
        let length = lengths[random.u64(..6) as usize].min(largest);
        match random.u64(..3) {
            0 => {
                bytes.extend(request(style, 0, 1, cookie, (8 << 20) + at, length as u64));
                bytes.resize(bytes.len() + length, cookie as u8);
                bytes.extend(request(style, 0, 3, cookie + 1000, 0, 0));
            }
            kind => {
                let df = if kind == 2 && style != ReplyStyle::Simple { 4 } else { 0 };
                bytes.extend(request(style, df, 0, cookie, at, length as u64));
                reads.insert(cookie, (at, length));
            }
        }
    }
    bytes.extend(request(style, 0, 2, 99, 0, 0));
    (bytes, reads)
}

/// Holds a conversation: `segment` bytes are sent at once.
pub(super) async fn hold<S>(
    server: S,
    client: impl AsyncRead + AsyncWrite,
    context: &Context,
    bytes: &[u8],
    segment: usize,
) -> (End, Vec<u8>)
where
    S: Stream,
{
    let serving = tokio::spawn(serve(server, context.clone()));
    let (mut reader, mut writer) = tokio::io::split(client);
    let mut said = Vec::new();
    let sending = async {
        for piece in bytes.chunks(segment) {
            if writer.write_all(piece).await.is_err() {
                break;
            }
        }
    };
    let (_, read) = tokio::join!(sending, reader.read_to_end(&mut said));
    read.unwrap();
    (serving.await.unwrap(), said)
}

#[tokio::test]
async fn conversations_do_not_depend_on_windows() {
    let (context, _phase) = context().await;
    prepare(&context).await;
    for style in STYLES {
        let (bytes, reads) = conversation(style, 12, 5000);
        for (window, segment) in [(1, 4096), (7, 1), (97, 97)] {
            let (client, server) = duplex(window);
            let (end, said) = hold(server, client, &context, &bytes, segment).await;
            check(end, &said, style, &reads);
        }
        let (bytes, reads) = conversation(style, 60, 300_000);
        for (window, segment) in [(4096, 65536), (50_000, 42_001), (1 << 20, 1 << 20)] {
            let (client, server) = duplex(window);
            let (end, said) = hold(server, client, &context, &bytes, segment).await;
            check(end, &said, style, &reads);
        }
        for narrow in [1000, usize::MAX] {
            let (client, server) = duplex(64 << 10);
            let server = Narrow(server, narrow);
            let (end, said) = hold(server, client, &context, &bytes, 65536).await;
            check(end, &said, style, &reads);
        }
    }
}

pub(super) fn check(end: End, said: &[u8], style: ReplyStyle, reads: &Reads) {
    assert!(matches!(end, End::Disconnected), "{end}");
    let replies = decode(&said[hello(style).1..], style, reads);
    assert!(replies.values().all(|reply| reply.done && reply.error == 0));
    let disk = prepared();
    for (cookie, &(at, length)) in reads {
        assert!(replies[cookie].data == disk[at as usize..][..length], "{cookie} is intact");
    }
}

#[tokio::test]
async fn connections_that_are_cut_at_any_byte_end() {
    let (context, _phase) = context().await;
    for style in STYLES {
        let (bytes, _) = conversation(style, 40, 300_000);
        for length in (0..400).chain((400..bytes.len()).step_by(40_009)) {
            let (mut client, server) = duplex(1 << 20);
            let serving = tokio::spawn(serve(server, context.clone()));
            client.write_all(&bytes[..length]).await.unwrap();
            drop(client);
            let end = serving.await.unwrap();
            assert!(matches!(end, End::Disconnected | End::Transport(_)), "{length}: {end}");
        }
    }
    // What they asked for is finished or given up, and holds the disk no longer.
    prepare(&context).await;
}

/// The client takes so much at once that nothing waits any more, and sends nothing that would wake
/// the server another time.
#[tokio::test]
async fn requests_that_are_here_already_are_taken_up_once_there_is_room() {
    let (context, _phase) = context().await;
    prepare(&context).await;
    let style = ReplyStyle::Simple;
    let (mut client, server) = duplex(700_000);
    let serving = tokio::spawn(serve(server, context.clone()));
    let (mut bytes, answer) = hello(style);
    let lengths = [500_000, 500_000, 1, 500_000, 100];
    for (cookie, &length) in lengths.iter().enumerate() {
        bytes.extend(request(style, 0, READ, cookie as u64, 0, length));
    }
    client.write_all(&bytes).await.unwrap();
    let expected = answer as u64 + lengths.iter().map(|length| 16 + length).sum::<u64>();
    let mut said = Vec::with_capacity(4 << 20);
    while (said.len() as u64) < expected {
        // The server goes as far as it can get.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let read = tokio::time::timeout(PATIENCE, client.read_buf(&mut said)).await;
        assert!(read.expect("more comes").unwrap() > 0);
    }
    drop(client);
    serving.await.unwrap();
}

#[tokio::test]
async fn the_server_ends_a_connection_that_does_not_read() {
    let (context, phase) = context().await;
    let (mut client, server) = duplex(4096);
    let serving = tokio::spawn(serve(server, context));
    client.write_all(&hello(ReplyStyle::Simple).0).await.unwrap();
    for cookie in 0..20 {
        let read = request(ReplyStyle::Simple, 0, 0, cookie, 0, 1 << 20);
        client.write_all(&read).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    phase.send(Phase::Draining).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!serving.is_finished(), "it is given time");
    phase.send(Phase::Closing).unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), serving).await;
    assert!(matches!(end, Ok(Ok(End::Stopped))), "{end:?}");
}

/// A client that gets an answer to what it has not sent yet takes it for one that belongs to
/// nothing.
#[tokio::test]
async fn refused_write_is_answered_when_all_of_it_is_here() {
    let (context, _phase) = context().await;
    for style in STYLES {
        let mut client = Client::new(&context, style).await;
        let (mut bytes, cookie) = client.bytes(WRITE, 1 << 40, 300_000);
        bytes.resize(bytes.len() + 300_000, 1);
        let (all_but_one, last) = bytes.split_at(bytes.len() - 1);
        client.stream.write_all(all_but_one).await.unwrap();
        let early = client.stream.read_u8();
        let early = tokio::time::timeout(Duration::from_millis(20), early).await;
        assert!(early.is_err(), "{style}: an answer before its time");
        client.stream.write_all(last).await.unwrap();
        assert_ne!(client.replies(1).await[&cookie].error, 0);
    }
}
