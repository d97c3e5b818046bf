//! Connections to disks that are slow, fail, or have blocks.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::client::*;
use super::*;
use crate::component::Engine;
use crate::component::tests::guest::{Guest, can};
use crate::component::tests::messages::fail_with;
use crate::connection::{Context, End, Phase, serve};

const MIB: u64 = 1 << 20;

/// Counts to so many million, as code in a function's body: tens of milliseconds for a hundred.
fn slow(millions: u32) -> String {
    let end = millions * 1_000_000;
    format!(
        "(block $enough (loop $count
           (global.set $free (i32.add (global.get $free) (i32.const 1)))
           (br_if $enough (i32.ge_u (global.get $free) (i32.const {end})))
           (br $count)))
         (global.set $free (i32.const 0x110000))"
    )
}

/// A server of one guest.
pub(super) async fn context(guest: &Guest) -> (Context, tokio::sync::watch::Sender<Phase>) {
    let engine = Engine::new(Duration::from_secs(60));
    context_of(vec![config("disk", engine.load("guest", &guest.wasm()).await.unwrap())])
}

/// Reads of the second half are slow, and each instance is as good as any.
pub(super) fn slow_half() -> Guest {
    let read = format!(
        "(if (i64.ge_u (local.get $offset) (i64.const 0x80000)) (then {}))
         (call $hole (i32.const 0x1000) (local.get $length))
         (call $list (i32.const 0x1000) (i32.const 1))",
        slow(3000)
    );
    Guest::new().with("read", read).opened(|disk| disk.capabilities |= can::INTERCHANGEABLE)
}

/// One after the other, all are slow.
fn slow_reads_and_writes() -> Guest {
    let read = format!(
        "{}
         (call $hole (i32.const 0x1000) (local.get $length))
         (call $list (i32.const 0x1000) (i32.const 1))",
        slow(100)
    );
    slow_writes().with("read", read)
}

/// Writes are slow.
pub(super) fn slow_writes() -> Guest {
    let write = format!(
        "{}
         (memory.copy (call $address (local.get $offset)) (local.get $data) (local.get $length))
         (call $done)",
        slow(100)
    );
    Guest::new().with("write", write)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_holds_up_no_others() {
    for style in STYLES {
        let (context, _phase) = context(&slow_half()).await;
        let mut client = Client::new(&context, style).await;
        let slow = client.send(READ, 0x80000, 4096).await;
        let mut quick = Vec::new();
        for at in 0..10 {
            quick.push(client.send(READ, at * 4096, 4096).await);
        }
        let replies = client.replies(10).await;
        assert!(quick.iter().all(|cookie| replies[cookie].done));
        assert!(!replies.contains_key(&slow), "it is slow");
        // Nor on other connections.
        let mut other = Client::new(&context, style).await;
        assert_eq!(other.call(READ, 0, 4096).await.error, 0);
        let replies = client.replies(11).await;
        assert_eq!(replies[&slow].data, [0; 4096]);
    }
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    // So many requests are read, and a buffer of others, and what the stream itself holds.
    for (command, length, most) in [(READ, 1, 96 << 10), (WRITE, MIB, 80 << 20)] {
        let (context, _phase) = context(&slow_reads_and_writes()).await;
        let mut client = Client::new(&context, ReplyStyle::Simple).await;
        let (mut bytes, _) = client.bytes(command, 0, length);
        bytes.resize(bytes.len() + if command == WRITE { length as usize } else { 0 }, 1);
        let mut sent = 0;
        let sending = async {
            loop {
                sent += client.stream.write(&bytes[sent % bytes.len()..]).await.unwrap();
            }
        };
        let _: Result<(), _> = tokio::time::timeout(Duration::from_millis(300), sending).await;
        assert!(sent < most, "{sent} bytes of requests for {command} were taken");
        client.serving.abort();
    }
}

#[tokio::test]
async fn writes_before_disc_take_effect_although_nobody_waits_for_replies() {
    let (context, _phase) = context(&slow_writes()).await;
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    for at in 0..4 {
        client.send(WRITE, at * 4096, 4096).await;
    }
    client.send(DISC, 0, 0).await;
    let Client { stream, serving, .. } = client;
    drop(stream);
    let end = serving.await.unwrap();
    assert!(matches!(end, End::Disconnected | End::Transport(_)), "{end}");
    let mut later = Client::new(&context, ReplyStyle::Simple).await;
    assert_eq!(later.call(READ, 0, 16384).await.data, [0x77; 16384]);
}

/// A striped disk takes a write in parts as its data comes; here each part is slow.
#[tokio::test]
async fn a_write_in_parts_to_a_slow_disk_is_one_write() {
    let guest = slow_writes().opened(|disk| disk.stripe = MIB);
    for (at, length) in [(1000, 300_000), (0, 100 << 10), (65_535, 66_000)] {
        let (context, _phase) = context(&guest).await;
        let mut client = Client::new(&context, ReplyStyle::Structured).await;
        let first = client.send(WRITE, at, length).await;
        let second = client.send(WRITE, at + length, 70_000).await;
        let replies = client.replies(2).await;
        assert_eq!([first, second].map(|cookie| replies[&cookie].error), [0, 0]);
        let read = client.call(READ, 0, at + length + 70_001).await;
        let mut expected = vec![0; at as usize];
        expected.resize((at + length + 70_000) as usize, 0x77);
        expected.push(0);
        assert!(read.data == expected, "{at}+{length}");
    }
}

#[tokio::test]
async fn a_write_in_parts_fails_once_and_leaves_the_stream_aligned() {
    for slowly in ["", &slow(100)] {
        let write = format!(
            "{slowly}
             (if (i64.ge_u (local.get $offset) (i64.const 0x10000))
               (then (return (call $fail (i32.const 4)))))
             (memory.copy (call $address (local.get $offset)) (local.get $data)
               (local.get $length))
             (call $done)"
        );
        let guest = Guest::new().with("write", write).opened(|disk| disk.stripe = 1 << 16);
        let (context, _phase) = context(&guest).await;
        for style in STYLES {
            let mut client = Client::new(&context, style).await;
            for (at, length) in [(0, 400_000), (1 << 16, 400_000), (100, 70_000)] {
                assert_eq!(client.call(WRITE, at, length).await.error, 28, "{at}+{length}");
                assert_eq!(client.call(WRITE, 0, 4096).await.error, 0);
            }
        }
    }
}

#[tokio::test]
async fn who_only_stops_sending_gets_slow_replies() {
    let (context, _phase) = context(&slow_writes()).await;
    let mut client = Client::new(&context, ReplyStyle::Structured).await;
    let cookie = client.send(WRITE, 0, 4096).await;
    client.stream.shutdown().await.unwrap();
    let replies = client.replies(1).await;
    assert!(replies[&cookie].done && replies[&cookie].error == 0);
    assert_eq!(client.stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(matches!(client.serving.await.unwrap(), End::Disconnected));
}

#[tokio::test]
async fn requests_in_flight_are_finished_when_the_server_stops() {
    let (context, phase) = context(&slow_writes()).await;
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    let slow = client.send(WRITE, 0, 4096).await;
    // It has begun once a later request was looked at.
    let refused = client.send(READ, MIB, 1).await;
    client.replies(1).await;
    phase.send(Phase::Draining).unwrap();
    tokio::task::yield_now().await;
    let late = client.send(READ, 0, 4096).await;
    let replies = client.replies(3).await;
    let errors = [slow, refused, late].map(|cookie| replies[&cookie].error);
    assert_eq!(errors, [0, 22, 108]);
    client.send(DISC, 0, 0).await;
    assert!(matches!(client.serving.await.unwrap(), End::Disconnected));
}

#[tokio::test]
async fn errors_of_a_component_are_told_as_they_are() {
    // In the order of the contract's `error-code`.
    let codes = [1, 5, 12, 22, 28, 75, 95, 108];
    for (index, code) in codes.into_iter().enumerate() {
        let mut guest = Guest::new();
        for function in ["read", "write", "zero", "trim", "flush", "cache"] {
            guest = guest.with(function, format!("(call $fail (i32.const {index}))"));
        }
        let (context, _phase) = context(&guest).await;
        for style in STYLES {
            let mut client = Client::new(&context, style).await;
            for command in [READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES] {
                let length = if command == FLUSH { 0 } else { 4096 };
                let reply = client.call(command, 0, length).await;
                // ENOTSUP is for fast zeroes alone.
                let expected = if code == 95 { 22 } else { code };
                assert_eq!((reply.error, reply.data.len()), (expected, 0), "command {command}");
            }
            let fast = request(style, 0x10, WRITE_ZEROES, 99, 0, 4096);
            client.stream.write_all(&fast).await.unwrap();
            assert_eq!(client.replies(2).await[&99].error, code);
        }
    }
}

#[tokio::test]
async fn a_read_that_fails_late_has_no_content() {
    let read = "(if (i64.ge_u (local.get $offset) (i64.const 8192))
          (then (return (call $fail (i32.const 1)))))
        (call $data (i32.const 0x1000) (i32.const 0x10000) (local.get $length))
        (call $list (i32.const 0x1000) (i32.const 1))";
    let guest = Guest::new().with("read", read).opened(|disk| disk.maximum_transfer = 4096);
    let (context, _phase) = context(&guest).await;
    for style in STYLES {
        let mut client = Client::new(&context, style).await;
        let reply = client.call(READ, 0, 65536).await;
        assert_eq!((reply.error, reply.data.len(), reply.chunks), (5, 0, 0));
        assert_eq!(client.call(READ, 0, 8192).await.data.len(), 8192);
    }
}

/// Reads longer than what may wait are read in pieces, each when there is room for it; the disk has
/// 32 MiB, of which the first 6 can be read. What is requested after them is answered after them.
fn long_reads() -> Guest {
    let read = "(if (i64.ge_u (local.get $offset) (i64.const 0x600000))
          (then (return (call $fail (i32.const 1)))))
        (call $hole (i32.const 0x1000) (local.get $length))
        (call $list (i32.const 0x1000) (i32.const 1))";
    Guest::new().with("read", read).opened(|disk| {
        disk.size = 32 * MIB;
        disk.maximum_transfer = MIB as u32;
    })
}

#[tokio::test]
async fn long_reads_are_answered_in_order_and_whole() {
    let (context, _phase) = context(&long_reads()).await;
    for style in STYLES {
        let mut client = Client::new(&context, style).await;
        let length = 5 * MIB + 4097;
        let first = client.send(READ, 512, length).await;
        let second = client.send(READ, 0, 4096).await;
        let replies = client.replies(2).await;
        assert!(replies[&first].done && replies[&first].error == 0);
        assert!(replies[&first].data == vec![0; length as usize]);
        assert_eq!(replies[&second].data, [0; 4096]);
    }
}

/// Who has the memory may be the replies that come after it.
#[tokio::test]
async fn a_long_read_waits_for_nobodys_memory() {
    let engine = Engine::new(Duration::from_secs(60));
    let config = config("disk", engine.load("guest", &long_reads().wasm()).await.unwrap());
    let _all = config.budgets.buffers.try_take(u64::MAX).unwrap();
    let (context, _phase) = context_of(vec![config]);
    let mut client = Client::new(&context, ReplyStyle::Structured).await;
    let reply = client.call(READ, 0, 5 * MIB).await;
    assert!(reply.error == 0 && reply.data == vec![0; 5 << 20]);
}

#[tokio::test]
async fn a_long_read_that_fails_in_the_middle_is_told_or_ends_the_connection() {
    let (context, _phase) = context(&long_reads()).await;
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut client = Client::new(&context, style).await;
        let reply = client.call(READ, 0, 9 * MIB).await;
        assert_eq!((reply.error, reply.done), (5, true));
        assert_eq!(client.call(READ, 0, 4096).await.data, [0; 4096], "and it goes on");
        let reply = client.call(READ, 6 * MIB, 9 * MIB).await;
        assert_eq!((reply.error, reply.data.len()), (5, 0));
    }
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    assert_eq!(client.call(READ, 6 * MIB, 9 * MIB).await.error, 5, "nothing was sent yet");
    client.send(READ, 0, 9 * MIB).await;
    let Client { mut stream, serving, .. } = client;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(matches!(serving.await.unwrap(), End::Unanswerable));
    // What waited to be sent is lost with the connection.
    assert!((16..=16 + 4 * MIB).contains(&(rest.len() as u64)), "{}", rest.len());
}

#[tokio::test]
async fn a_component_that_failed_is_answered_for_and_the_connection_goes_on() {
    let guest = Guest::new().with("trim", "(unreachable)");
    let (context, _phase) = context(&guest).await;
    for style in STYLES {
        let mut client = Client::new(&context, style).await;
        for command in [TRIM, READ, WRITE, FLUSH] {
            let length = if command == FLUSH { 0 } else { 4096 };
            assert_eq!(client.call(command, 0, length).await.error, 5);
        }
        assert_eq!(client.call(0xff, 0, 0).await.error, 22, "it is still the same server");
    }
}

/// Haggles as far as transmission on a disk with blocks of 4 KiB.
async fn on_blocks(context: &Context, requests: &[u16]) -> tokio::io::DuplexStream {
    let (mut stream, server) = duplex(64 << 10);
    tokio::spawn(serve(server, context.clone()));
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(option(7, &info("disk", requests)));
    stream.write_all(&bytes).await.unwrap();
    let sizes = if requests.contains(&3) { 20 + 14 } else { 0 };
    let mut answer = vec![0; 18 + (20 + 12) + sizes + 20];
    stream.read_exact(&mut answer).await.unwrap();
    if sizes > 0 {
        let told = &answer[18 + 32 + 20..][..10];
        assert_eq!(told, [0, 3, 0, 0, 0x10, 0, 0, 0, 0x10, 0], "minimum and preferred");
    }
    stream
}

#[tokio::test]
async fn blocks_are_enforced_for_who_asked_and_hidden_from_the_others() {
    let guest = Guest::new().opened(|disk| {
        disk.minimum_block = 4096;
        disk.capabilities = can::EVERYTHING;
    });
    let (context, _phase) = context(&guest).await;
    for (requests, expected) in [(&[3][..], 22), (&[], 0)] {
        let mut stream = on_blocks(&context, requests).await;
        for (command, at, length) in [
            (READ, 2048, 4096),
            (READ, 4096, 100),
            (WRITE, 6000, 3000),
            (TRIM, 2048, 4096),
            (CACHE, 1, 1),
            (WRITE_ZEROES, 5000, 100),
            (WRITE_ZEROES, 100, 20_000),
        ] {
            let mut bytes = request(ReplyStyle::Simple, 0, command, 1, at, length);
            bytes.resize(bytes.len() + if command == WRITE { length as usize } else { 0 }, 9);
            stream.write_all(&bytes).await.unwrap();
            let mut reply = [0; 16];
            stream.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply[4..8], u32::to_be_bytes(expected), "{command} {at}+{length}");
            if command == READ && expected == 0 {
                stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn several_exports_are_listed_and_found_by_name() {
    let engine = Engine::new(Duration::from_secs(60));
    let mut configs = Vec::new();
    for (name, size) in [("first", 1 << 16), ("second", 1 << 17), ("höchst/third", 1 << 18)] {
        let guest = Guest::new().opened(|disk| {
            disk.size = size;
            disk.description = format!("the {name} disk").into_bytes();
        });
        configs.push(config(name, engine.load("guest", &guest.wasm()).await.unwrap()));
    }
    let (context, _phase) = context_of(configs);
    let (mut stream, server) = duplex(64 << 10);
    tokio::spawn(serve(server, context.clone()));
    let mut bytes = vec![0, 0, 0, 3];
    let names = ["second", "", "höchst/third", "first", "no", "Second"];
    bytes.extend(names.iter().flat_map(|name| option(6, &info(name, &[1, 2]))));
    bytes.extend(option(3, b""));
    bytes.extend(option(2, b""));
    stream.write_all(&bytes).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    let contains = |part: &[u8]| said.windows(part.len()).filter(|window| *window == part).count();
    // Sizes, by INFO: the default export is the first one.
    for (size, times) in [(1_u64 << 16, 2), (1 << 17, 1), (1 << 18, 1)] {
        let info = [&[0, 0][..], &size.to_be_bytes()].concat();
        assert_eq!(contains(&info), times, "{size}");
    }
    for name in ["first", "second", "höchst/third"] {
        let entry = [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat();
        assert_eq!(contains(&entry), 1, "LIST names {name} once");
        // By INFO and by LIST.
        let described = contains(format!("the {name} disk").as_bytes());
        assert_eq!(described, if name == "first" { 3 } else { 2 });
    }
    assert_eq!(contains(&0x8000_0006_u32.to_be_bytes()), 2, "two names are unknown");
}

#[tokio::test]
async fn the_message_of_an_error_reaches_the_client() {
    for style in STYLES {
        let guest =
            Guest::new().with("read", fail_with(b'x', 3)).with("flush", fail_with(b'y', 1 << 20));
        let (context, _phase) = context(&guest).await;
        let mut client = Client::new(&context, style).await;
        for (command, length, text) in [(READ, 512, "xxx".into()), (FLUSH, 0, "y".repeat(256))] {
            let reply = client.call(command, 0, length).await;
            assert_eq!(reply.error, 5);
            let expected = if style == ReplyStyle::Simple { String::new() } else { text };
            assert_eq!(reply.text, expected);
        }
    }
}
