//! Connections that are busy and get a thread, and those that were.

use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::*;
use super::guests::{self, slow_half, slow_writes};
use super::serve::{check, context, conversation, hold, prepare};
use super::*;
use crate::connection::{Context, End, Phase};

/// More requests than make a connection busy.
const MANY: u64 = 100;

/// Makes a client busy, however slow the machine is.
pub(super) async fn make_busy(client: &mut Client, context: &Context) {
    let start = Instant::now();
    while context.threads.count() == 0 {
        assert!(start.elapsed() < PATIENCE, "the connection has no thread");
        for at in 0..MANY {
            assert_eq!(client.call(READ, at * 512, 512).await.error, 0);
        }
    }
}

async fn wait_until_idle(context: &Context) {
    let idle = async {
        while context.threads.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, idle).await.expect("the thread ends");
}

#[tokio::test]
async fn a_busy_connection_has_a_thread_until_it_is_idle() {
    let (context, _phase) = context().await;
    prepare(&context).await;
    let mut client = Client::over_socket(&context, ReplyStyle::Structured).await;
    assert_eq!(client.call(READ, 0, 512).await.error, 0);
    assert_eq!(context.threads.count(), 0, "one request is not busy");
    for _ in 0..3 {
        make_busy(&mut client, &context).await;
        assert_eq!(context.threads.count(), 1);
        wait_until_idle(&context).await;
        client.call(WRITE, 9 << 20, 4096).await;
        assert_eq!(client.call(READ, 9 << 20, 4096).await.data, [0x77; 4096]);
    }
    client.send(DISC, 0, 0).await;
    assert!(matches!(client.serving.await.unwrap(), End::Disconnected));
}

#[tokio::test]
async fn a_connection_that_is_no_socket_has_no_thread() {
    let (context, _phase) = context().await;
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    for at in 0..2 * MANY {
        client.call(READ, at * 512, 512).await;
    }
    assert_eq!(context.threads.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_are_the_same_on_threads() {
    let (context, _phase) = context().await;
    prepare(&context).await;
    for style in STYLES {
        let (bytes, reads) = conversation(style, 400, 300_000);
        for segment in [1, 97, 42_001, 1 << 20] {
            // A segment of one byte would take long for all of them.
            let (bytes, reads) = match segment {
                1 => conversation(style, 30, 5000),
                _ => (bytes.clone(), reads.clone()),
            };
            let (client, server) = sockets();
            let (end, said) = hold(server, client, &context, &bytes, segment).await;
            check(end, &said, style, &reads);
        }
    }
}

#[tokio::test]
async fn a_busy_connection_that_is_cut_ends() {
    let (context, _phase) = context().await;
    for with_request in [false, true] {
        let mut client = Client::over_socket(&context, ReplyStyle::Simple).await;
        make_busy(&mut client, &context).await;
        if with_request {
            let (bytes, _) = client.bytes(WRITE, 0, 4096);
            client.stream.write_all(&bytes).await.unwrap();
        }
        let Client { stream, serving, .. } = client;
        drop(stream);
        let end = tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
        assert!(matches!(end, End::Disconnected | End::Transport(_)), "{end}");
        wait_until_idle(&context).await;
    }
}

#[tokio::test]
async fn a_busy_connection_is_drained_and_stopped() {
    let (context, phase) = context().await;
    let mut client = Client::over_socket(&context, ReplyStyle::Simple).await;
    make_busy(&mut client, &context).await;
    phase.send(Phase::Draining).unwrap();
    let drained = async { while client.call(READ, 0, 512).await.error != 108 {} };
    tokio::time::timeout(PATIENCE, drained).await.expect("later requests are refused");
    phase.send(Phase::Closing).unwrap();
    let end = tokio::time::timeout(PATIENCE, client.serving).await.unwrap().unwrap();
    assert!(matches!(end, End::Stopped), "{end}");
    assert_eq!(client.stream.read(&mut [0; 1]).await.unwrap(), 0, "in the orderly way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_holds_up_no_others_on_its_thread() {
    let (context, _phase) = guests::context(&slow_half()).await;
    let mut client = Client::over_socket(&context, ReplyStyle::Structured).await;
    make_busy(&mut client, &context).await;
    client.forget();
    let slow = client.send(READ, 0x80000, 4096).await;
    for at in 0..10 {
        client.send(READ, at * 4096, 4096).await;
    }
    let replies = client.replies(10).await;
    assert!(!replies.contains_key(&slow), "it is slow");
    let replies = client.replies(11).await;
    assert_eq!(replies[&slow].data, [0; 4096]);
}

/// The client is idle then, and the reply comes all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_take_longer_than_a_connection_is_busy() {
    let (context, _phase) = guests::context(&slow_writes()).await;
    let mut client = Client::over_socket(&context, ReplyStyle::Simple).await;
    make_busy(&mut client, &context).await;
    let cookies = [0, 1, 2, 3].map(|at| (at, client.bytes(WRITE, at * 4096, 4096)));
    for (_, (mut bytes, _)) in cookies.clone() {
        bytes.resize(bytes.len() + 4096, 0x77);
        client.stream.write_all(&bytes).await.unwrap();
    }
    client.forget();
    let replies = client.replies(4).await;
    assert!(cookies.iter().all(|(_, (_, cookie))| replies[cookie].error == 0));
    assert_eq!(client.call(READ, 0, 16384).await.data, [0x77; 16384]);
}

/// Their data is received to where it belongs, if the disk has a place for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_writes_of_a_busy_connection_go_where_they_belong() {
    const SIZE: usize = 8 << 20;
    let mut random = Rng::with_seed(11);
    for style in STYLES {
        let (context, _phase) = context().await;
        let mut client = Client::over_socket(&context, style).await;
        make_busy(&mut client, &context).await;
        let mut disk = vec![0; SIZE];
        // The first ones find no pages, the later ones some.
        for round in 0..200 {
            let length = [1, 5000, 32 << 10, 100_001, 256 << 10, 700_000][random.usize(..6)];
            let at = match random.bool() {
                true => random.usize(..(SIZE - length) >> 15) << 15,
                false => random.usize(..SIZE - length),
            };
            let zeroes = random.u8(..8) == 0;
            let command = if zeroes { WRITE_ZEROES } else { WRITE };
            let (mut request, _) = client.bytes(command, at as u64, length as u64);
            let place = &mut disk[at..at + length];
            match zeroes {
                true => place.fill(0),
                false => {
                    random.fill(place);
                    request.extend_from_slice(place);
                }
            }
            send_in_pieces(&mut client, &request, &mut random).await;
            if round % 50 == 49 {
                for at in (0..SIZE).step_by(1 << 20) {
                    let read = client.call(READ, at as u64, 1 << 20).await;
                    assert!(read.data == disk[at..at + (1 << 20)], "{style}: round {round}, {at}");
                }
            }
        }
    }
}

/// Sends a request with its data in pieces, and takes the reply.
async fn send_in_pieces(client: &mut Client, request: &[u8], random: &mut Rng) {
    let segment = [97, 4096, 32 << 10, 1 << 20][random.usize(..4)];
    for piece in request.chunks(segment.max(request.len() / 50)) {
        client.stream.write_all(piece).await.unwrap();
        if random.u8(..8) == 0 {
            tokio::task::yield_now().await;
        }
    }
    client.forget();
    let replies = client.replies(1).await;
    assert!(replies.values().all(|reply| reply.error == 0));
}

/// Large writes that are sent together are told from each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_large_write_is_the_next_request() {
    let (context, _phase) = context().await;
    for style in STYLES {
        let mut client = Client::over_socket(&context, style).await;
        make_busy(&mut client, &context).await;
        for round in 1..4_u8 {
            let mut sent = Vec::new();
            for at in 0..16_u8 {
                let (header, _) = client.bytes(WRITE, u64::from(at) * 300_000, 300_000);
                sent.extend(header);
                sent.resize(sent.len() + 300_000, 16 * round + at);
            }
            client.forget();
            let Client { stream, .. } = &mut client;
            stream.write_all(&sent).await.unwrap();
            client.replies(16).await;
            for at in 0..16_u8 {
                let read = client.call(READ, u64::from(at) * 300_000, 300_000).await;
                assert!(read.data == [16 * round + at; 300_000], "{style}: {round}, {at}");
            }
        }
    }
}

/// What came of it may have been written, as the specification permits; nothing else is.
#[tokio::test]
async fn a_large_write_that_is_cut_changes_nothing_else() {
    let (context, _phase) = context().await;
    let mut other = Client::over_socket(&context, ReplyStyle::Simple).await;
    other.call(WRITE, 0, 1 << 20).await;
    for length in [1, 100, 32_768, 200_000, (512 << 10) - 1] {
        let mut client = Client::over_socket(&context, ReplyStyle::Simple).await;
        make_busy(&mut client, &context).await;
        let (mut bytes, _) = client.bytes(WRITE, 1000, 512 << 10);
        bytes.resize(bytes.len() + length, 0x11);
        client.stream.write_all(&bytes).await.unwrap();
        let Client { stream, serving, .. } = client;
        drop(stream);
        let end = tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
        assert!(matches!(end, End::Transport(_)), "{end}");
        let read = other.call(READ, 0, 1 << 20).await.data;
        let (written, rest) = read[1000..].split_at(length);
        assert!(read[..1000].iter().chain(rest).all(|&byte| byte == 0x77));
        assert!(written.iter().all(|&byte| byte == 0x77 || byte == 0x11));
        other.call(WRITE, 0, 1 << 20).await;
    }
}
