//! The client against the server of this library, and against servers that violate the protocol.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;

use super::*;
use crate::block::{Extent, Status};
use crate::device::{Cancelled, copy};
use crate::embed::Running;
use crate::nbd::codes::magic;
use crate::server::Server;

const MIB: u64 = 1 << 20;

async fn connected(server: &Running, name: &str) -> Result<Arc<Remote>, ConnectError> {
    let stream = UnixStream::connect(server.unix_socket().unwrap()).await.unwrap();
    let (reader, writer) = stream.into_split();
    Remote::connect(reader, writer, name).await
}

async fn run(disk: &Arc<Remote>, command: Command, payload: &[u8]) -> Outcome {
    let payload = Bytes::copy_from_slice(payload);
    disk.clone().execute(Order::new(command, payload, Cancelled::default()), None).await
}

fn bytes(answer: Answer) -> Vec<u8> {
    let Answer::Read(Content::Copied(parts)) = answer else { panic!("not a read") };
    let parts = parts.into_iter().map(|part| match part {
        Part::Data(bytes) => bytes,
        Part::Shared(bytes) => bytes.to_vec(),
        Part::Hole(length) => vec![0; length as usize],
    });
    parts.collect::<Vec<_>>().concat()
}

fn span(offset: u64, length: u64) -> Span {
    Span { offset, length }
}

#[tokio::test]
async fn commands_do_what_they_do_on_a_local_disk() {
    let server = Server::builder().memory("8G").start().unwrap();
    let disk = connected(&server, "memory").await.unwrap();
    assert_eq!(disk.geometry().size, 8 << 30);
    let offers = disk.geometry().capabilities;
    assert!(offers.writable && offers.flush && offers.zero && offers.fast_zero && offers.trim);
    let data: Vec<u8> = (0..3 * MIB).map(|n| (n / 1000 % 255) as u8 + 1).collect();
    let place = span(MIB + 3, data.len() as u64);
    run(&disk, Command::Write { span: place, fua: true }, &data).await.unwrap();
    let read = run(&disk, Command::Read { span: place }, &[]).await.unwrap();
    assert!(bytes(read) == data);
    let around = span(MIB, 4 * MIB);
    let read = bytes(run(&disk, Command::Read { span: around }, &[]).await.unwrap());
    assert!(read[..3] == [0; 3] && read[3..3 + data.len()] == data[..]);
    let extents = Command::Extents { span: span(0, 8 << 30), limit: 2 };
    let Answer::Extents(extents) = run(&disk, extents, &[]).await.unwrap() else { panic!() };
    assert_eq!(extents.as_slice()[0], Extent { length: MIB, status: Status::HOLE });
    assert_eq!(extents.as_slice()[1].status, Status::DATA);
    assert_eq!(extents.as_slice().len(), 2, "no more than asked for");
    // Longer than a request can be.
    let zero =
        Command::Zero { span: span(0, 8 << 30), fua: false, keep_allocated: false, fast: true };
    run(&disk, zero, &[]).await.unwrap();
    let read = bytes(run(&disk, Command::Read { span: around }, &[]).await.unwrap());
    assert!(read.iter().all(|&byte| byte == 0));
    run(&disk, Command::Trim { span: span(0, 5 << 30), fua: false }, &[]).await.unwrap();
    run(&disk, Command::Flush, &[]).await.unwrap();
    disk.disconnect().await;
    let error = run(&disk, Command::Flush, &[]).await.err().unwrap();
    assert!(error.message.unwrap().contains("ended"));
}

#[tokio::test]
async fn errors_of_the_server_are_told() {
    let server = Server::builder().component("a", "full", &[("size", "1M")]).start().unwrap();
    let disk = connected(&server, "a").await.unwrap();
    let write = Command::Write { span: span(0, 512), fua: false };
    assert_eq!(run(&disk, write, &[1; 512]).await.err().unwrap().code, ErrorCode::NoSpc);
    let read = run(&disk, Command::Read { span: span(0, 512) }, &[]).await.unwrap();
    assert_eq!(bytes(read), [0; 512]);
    let unknown = connected(&server, "b").await.err().unwrap().to_string();
    assert_eq!(unknown, "there is no such export");
}

#[tokio::test]
async fn copies_between_disks_of_servers_are_complete() {
    let server = Server::builder()
        .component("numbers", "pattern", &[("size", "40M")])
        .component("copy", "memory", &[("size", "41M")])
        .start()
        .unwrap();
    let source = connected(&server, "numbers").await.unwrap();
    let destination = connected(&server, "copy").await.unwrap();
    copy(source.clone(), destination.clone(), Cancelled::default(), |_| ()).await.unwrap();
    for offset in (0..40 * MIB).step_by(MIB as usize) {
        let read = Command::Read { span: span(offset, MIB) };
        let pair = [&source, &destination].map(|disk| run(disk, read, &[]));
        let [left, right] = futures_util::future::join_all(pair).await.try_into().ok().unwrap();
        assert!(bytes(left.unwrap()) == bytes(right.unwrap()), "{offset}");
    }
}

#[tokio::test]
async fn commands_fail_when_the_server_stops() {
    let server = Server::builder().memory("1M").start().unwrap();
    let disk = connected(&server, "memory").await.unwrap();
    server.stop().unwrap();
    for _ in 0..2 {
        let error = run(&disk, Command::Flush, &[]).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::Io);
        assert!(error.message.unwrap().contains("the server closed the connection"));
    }
}

/// The greeting, and what is sent for each of the three options.
fn handshake(size: u64, flags: u16) -> Vec<Vec<u8>> {
    let reply = |option: u32, kind: u32, data: &[u8]| {
        let numbers = [option, kind, data.len() as u32].map(u32::to_be_bytes);
        [&magic::OPTION_REPLY.to_be_bytes(), numbers.as_flattened(), data].concat()
    };
    let ack = |option| reply(option, 1, &[]);
    let context = [&[0, 0, 0, 9], &b"base:allocation"[..]].concat();
    let export = [&[0, 0], &size.to_be_bytes()[..], &flags.to_be_bytes()].concat();
    vec![
        [&magic::INIT.to_be_bytes()[..], &magic::OPTION.to_be_bytes(), &[0, 3]].concat(),
        ack(8),
        [reply(10, 4, &context), ack(10)].concat(),
        [reply(7, 3, &export), ack(7)].concat(),
    ]
}

/// A server that sends this, whatever the client says, and then nothing more.
async fn scripted(messages: Vec<Vec<u8>>) -> (Result<Arc<Remote>, ConnectError>, DuplexStream) {
    let (client, mut server) = tokio::io::duplex(1 << 20);
    server.write_all(&messages.concat()).await.unwrap();
    let (reader, writer) = tokio::io::split(client);
    let limit = Duration::from_secs(10);
    let connecting = tokio::time::timeout(limit, Remote::connect(reader, writer, "x"));
    (connecting.await.expect("it does not wait for more"), server)
}

#[tokio::test]
async fn wrong_handshakes_are_refused() {
    let usual = || handshake(MIB, 0);
    let with = |index: usize, message: Vec<u8>| {
        let mut messages = usual();
        messages[index] = message;
        messages
    };
    let changed = |index: usize, at: usize, byte: u8| {
        let mut messages = usual();
        messages[index][at] = byte;
        messages
    };
    let cases = [
        (with(0, vec![b'x'; 18]), "greeting"),
        (changed(0, 17, 0), "fixed newstyle"),
        (changed(1, 0, 1), "begins with"),
        (changed(1, 11, 5), "the option STARTTLS"),
        (changed(1, 15, 2), "the reply SERVER"),
        (changed(1, 16, 0xff), "has 4278190080 bytes"),
        (changed(2, 19, 3), "OptionReply"),
        (handshake(1 << 63, 0), "at most"),
        (
            with(3, usual()[1].iter().map(|&byte| if byte == 8 { 7 } else { byte }).collect()),
            "size",
        ),
    ];
    for (messages, words) in cases {
        let (connected, _server) = scripted(messages).await;
        let error = connected.err().unwrap_or_else(|| panic!("{words}: it was accepted"));
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let endless = usual()[3][..40].repeat(1000);
    let (connected, _server) = scripted(with(3, endless)).await;
    let error = connected.err().unwrap();
    assert!(matches!(error, ConnectError::Violation(_)), "{error:?}");
}

/// A chunk of a structured reply.
fn chunk(done: bool, kind: u16, cookie: u64, length: u32, payload: &[u8]) -> Vec<u8> {
    let flags = u16::from(done);
    let mut bytes = magic::STRUCTURED_REPLY.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Sends a reply to a command, which has the cookie 0.
async fn answered(command: Command, reply: Vec<u8>) -> Outcome {
    let (connected, mut server) = scripted(handshake(64 * MIB, 0)).await;
    let disk = connected.unwrap();
    let serving = async {
        // The header.
        let mut skipped = vec![0; 4 + 16 + 16 + 31 + 16 + 7 + 28 + 3];
        let _ = server.read(&mut skipped).await;
        let _ = server.write_all(&reply).await;
        server
    };
    let limit = Duration::from_secs(10);
    let both = async { tokio::join!(run(&disk, command, &[]), serving) };
    let (outcome, _server) = tokio::time::timeout(limit, both).await.expect("it is answered");
    outcome
}

#[tokio::test]
async fn wrong_replies_end_the_connection_and_cost_little() {
    let read = Command::Read { span: span(4096, 1024) };
    let extents = Command::Extents { span: span(0, 4096), limit: 10 };
    let data = |offset: u64, length: usize| [&offset.to_be_bytes()[..], &vec![7; length]].concat();
    let simple = |error: u32| {
        let start = [magic::SIMPLE_REPLY, error].map(u32::to_be_bytes);
        [start.as_flattened(), &[0; 8], &[1; 1024]].concat()
    };
    let cases = [
        (read, vec![0xab; 64], "begins with 0xabababab"),
        (read, chunk(true, 1, 77, 8 + 1024, &data(4096, 1024)), "request 77"),
        (read, chunk(true, 1, 0, u32::MAX, &data(4096, 1024)), "not within"),
        (read, chunk(true, 1, 0, 8 + 1024, &data(4097, 1024)), "not within"),
        (read, chunk(true, 1, 0, 8 + 1024, &data(0, 1024)), "not within"),
        (read, chunk(true, 1, 0, 8, &data(4096, 0)), "has 8 bytes"),
        (read, chunk(true, 1, 0, 8 + 1000, &data(4096, 1000)), "not as long"),
        (read, chunk(true, 0, 0, 0, &[]), "not as long"),
        (read, chunk(true, 0, 0, 1 << 31, &[]), "does not belong"),
        (read, chunk(false, 1, 0, 8 + 600, &data(4096, 600)).repeat(2), "not as long"),
        (read, chunk(false, 2, 0, 12, &[0; 12]), "not within"),
        (read, chunk(true, 5, 0, 12, &[0; 12]), "does not belong"),
        (read, chunk(true, 77, 0, 0, &[]), "does not belong"),
        (read, chunk(true, 0x8001, 0, u32::MAX, &[]), "has 4294967295 bytes"),
        (read, chunk(true, 0x8001, 0, 6, &[0, 0, 0, 5, 0, 9]), "has 6 bytes"),
        (read, simple(0), "not structured"),
        (extents, simple(0), "no extents"),
        (extents, chunk(true, 0, 0, 0, &[]), "no extents"),
        (extents, chunk(true, 5, 0, 4, &[0, 0, 0, 9]), "no extents"),
        (extents, chunk(true, 5, 0, 12, &[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]), "belong"),
        (extents, chunk(true, 5, 0, 12, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]), "empty"),
        (extents, chunk(true, 5, 0, 0xffff_fffc, &[0, 0, 0, 9]), "bytes"),
    ];
    for (command, reply, words) in cases {
        let error = answered(command, reply).await.err().unwrap_or_else(|| panic!("{words}"));
        let message = error.message.unwrap_or_default();
        assert!(message.contains("violated the protocol"), "{words}: {message}");
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[tokio::test]
async fn replies_may_be_divided_and_come_in_any_order() {
    let read = Command::Read { span: span(4096, 1024) };
    let data = [&4608_u64.to_be_bytes()[..], &[7; 512]].concat();
    let hole = [&4096_u64.to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
    let reply = [chunk(false, 1, 0, 520, &data), chunk(false, 2, 0, 12, &hole)].concat();
    let reply = [reply, chunk(true, 0, 0, 0, &[])].concat();
    let answer = bytes(answered(read, reply).await.unwrap());
    assert!(answer[..512] == [0; 512] && answer[512..] == [7; 512]);
    let error = chunk(true, 0x8001, 0, 12, b"\0\0\0\x1c\0\x06no\x1bway");
    let error = answered(read, error).await.err().unwrap();
    assert_eq!((error.code, error.message.as_deref()), (ErrorCode::NoSpc, Some("no?way")));
    let many: Vec<u8> = (0..1000).flat_map(|n| [0, 0, 0, 4, 0, 0, 0, n as u8 % 2]).collect();
    let reply = chunk(true, 5, 0, 4 + 8000, &[&[0, 0, 0, 9], &many[..]].concat());
    let extents = Command::Extents { span: span(0, 4096), limit: 10 };
    let Answer::Extents(extents) = answered(extents, reply).await.unwrap() else { panic!() };
    assert_eq!(extents.as_slice().len(), 10);
}

/// Answers a command after a usual handshake with these bytes, and closes the connection.
async fn answered_and_closed(messages: Vec<u8>, command: Command) -> Option<Outcome> {
    let (client, mut server) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(client);
    let serving = async move {
        let _ = server.write_all(&messages).await;
        let _ = server.shutdown().await;
        let _ = server.read_to_end(&mut Vec::new()).await;
    };
    let serving = tokio::spawn(serving);
    let outcome = match Remote::connect(reader, writer, "x").await {
        Ok(disk) => Some(run(&disk, command, &[]).await),
        Err(_) => None,
    };
    serving.abort();
    outcome
}

#[tokio::test]
async fn damaged_conversations_end() {
    let mut random = fastrand::Rng::with_seed(1);
    let data = [&4096_u64.to_be_bytes()[..], &[7; 512]].concat();
    let hole = [&4608_u64.to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
    let read = [chunk(false, 1, 0, 520, &data), chunk(true, 2, 0, 12, &hole)].concat();
    let extents = chunk(true, 5, 0, 12, &[0, 0, 0, 9, 0, 0, 16, 0, 0, 0, 0, 3]);
    let error = chunk(true, 0x8001, 0, 10, b"\0\0\0\x1c\0\x04no.1");
    let read_command = Command::Read { span: span(4096, 1024) };
    let extents_command = Command::Extents { span: span(0, 4096), limit: 10 };
    let (mut failed, mut answered) = (0, 0);
    for (command, reply) in
        [(read_command, read), (extents_command, extents), (Command::Flush, error)]
    {
        let whole = [handshake(64 * MIB, 0).concat(), reply].concat();
        for _ in 0..500 {
            let mut damaged = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..damaged.len());
                damaged[at] = random.u8(..);
            }
            damaged.truncate(random.usize(damaged.len() / 2..=damaged.len()));
            let limit = Duration::from_secs(10);
            let ending = tokio::time::timeout(limit, answered_and_closed(damaged, command));
            match ending.await.expect("it does not hang") {
                None | Some(Err(_)) => failed += 1,
                Some(Ok(_)) => answered += 1,
            }
        }
    }
    assert!(failed > 1000 && answered > 0, "{failed} {answered}");
}
