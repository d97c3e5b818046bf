//! Long reads of a file over sockets, whose content goes through pipes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::client::*;
use super::dedicated::make_busy;
use super::file::device_of;
use super::*;
use crate::block::MAX_TRANSFER;
use crate::connection::{Context, End, Patience, Phase};
use crate::device::file::PageCache;
use crate::exports::Export;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;

/// A pause that is longer than a connection has a thread without doing anything.
const IDLE: Duration = Duration::from_millis(300);

/// A file in which every 4 bytes are their own number, and a server of it.
struct Served {
    file: File,
    content: Vec<u8>,
    context: Context,
    _phase: watch::Sender<Phase>,
}

impl Served {
    fn new(buffers: u64) -> Self {
        let content: Vec<u8> = (0..SIZE / 4).flat_map(|at| (at as u32).to_be_bytes()).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        let device = device_of(file.try_clone().unwrap(), PageCache::Default, buffers);
        let export = Export::of_device("disk", device);
        let (context, _phase) = context_of_exports(vec![export]);
        Self { file, content, context, _phase }
    }

    fn part(&self, at: u64, length: u64) -> &[u8] {
        &self.content[at as usize..][..length as usize]
    }
}

#[tokio::test]
async fn long_reads_return_the_content_of_the_file() {
    let served = Served::new(MAX_TRANSFER.into());
    for style in STYLES {
        for is_socket in [true, false] {
            let mut client = match is_socket {
                true => Client::over_socket(&served.context, style).await,
                false => Client::new(&served.context, style).await,
            };
            for is_busy in [false, true] {
                if is_busy && is_socket {
                    make_busy(&mut client, &served.context).await;
                }
                for length in [128 << 10, (256 << 10) + 1, MIB, 4 * MIB, 9 * MIB + 3] {
                    for at in [0, 4095, SIZE - length] {
                        let read = client.call(READ, at, length).await;
                        assert_eq!(read.error, 0);
                        assert!(read.data == served.part(at, length), "{style} {length} at {at}");
                    }
                }
            }
        }
    }
}

/// The requests between them are answered, too, and see what was written before.
#[tokio::test]
async fn many_long_reads_under_way_are_all_answered() {
    let served = Served::new(MAX_TRANSFER.into());
    for style in STYLES {
        let mut client = Client::over_socket(&served.context, style).await;
        let mut sent = Vec::new();
        for turn in 0..24 {
            let (at, length) = (turn * 300_001, 200_000 + turn * 100_000);
            sent.push((client.send(READ, at, length).await, at, length));
            sent.push((client.send(READ, at, 10).await, at, 10));
        }
        // Longer than the connection keeps a thread.
        tokio::time::sleep(IDLE).await;
        let replies = client.replies(sent.len()).await;
        for (cookie, at, length) in sent {
            assert!(replies[&cookie].data == served.part(at, length), "{style} {length} at {at}");
        }
    }
}

#[tokio::test]
async fn client_that_pauses_gets_the_rest_of_its_read() {
    let served = Served::new(MAX_TRANSFER.into());
    for style in STYLES {
        let mut client = Client::over_socket(&served.context, style).await;
        make_busy(&mut client, &served.context).await;
        client.forget();
        let cookie = client.send(READ, 5, 9 * MIB).await;
        for _ in 0..3 {
            tokio::time::sleep(IDLE).await;
            let mut some = vec![0; 500_000];
            client.stream.read_exact(&mut some).await.unwrap();
            client.take(&some);
        }
        assert!(client.replies(1).await[&cookie].data == served.part(5, 9 * MIB), "{style}");
    }
}

#[tokio::test]
async fn client_that_does_not_read_stalls() {
    let served = Served::new(MAX_TRANSFER.into());
    let patience = Patience { stalled: Some(Duration::from_millis(400)), idle: None };
    let peers = served.context.peers.clone();
    let watching = tokio::spawn(async move { peers.watch(patience).await });
    for is_busy in [false, true] {
        let mut client = Client::over_socket(&served.context, ReplyStyle::Structured).await;
        if is_busy {
            make_busy(&mut client, &served.context).await;
        }
        client.send(READ, 0, 2 * MIB).await;
        let end = tokio::time::timeout(PATIENCE, client.serving).await.expect("it ends").unwrap();
        assert!(matches!(end, End::Stalled), "{end}");
    }
    watching.abort();
}

/// What is in pipes is sent, and the pieces after it fail.
#[tokio::test]
async fn file_that_is_cut_in_the_middle_of_a_read_ends_the_reply_with_an_error() {
    for style in STYLES {
        let served = Served::new(MAX_TRANSFER.into());
        let mut client = Client::over_socket(&served.context, style).await;
        let cookie = client.send(READ, 0, 12 * MIB).await;
        // The first piece has been read when there is a header, and the second one has not before this
        // client takes more.
        let mut header = [0; 16];
        client.stream.read_exact(&mut header).await.unwrap();
        client.take(&header);
        served.file.set_len(6 * MIB).unwrap();
        if style == ReplyStyle::Simple {
            // Nothing can follow but the bytes that were announced.
            let mut rest = Vec::new();
            client.stream.read_to_end(&mut rest).await.unwrap();
            assert!(rest == served.part(0, 4 * MIB));
            let end = client.serving.await.unwrap();
            assert!(matches!(end, End::Unanswerable), "{end}");
            continue;
        }
        let reply = client.replies(1).await.remove(&cookie).unwrap();
        assert_eq!(reply.error, 5, "EIO");
        assert!(reply.data[..4 << 20] == *served.part(0, 4 * MIB));
        let next = client.call(READ, 1, MIB).await;
        assert!(next.data == served.part(1, MIB), "the stream is aligned");
    }
}

/// The pages that the file has lost are still those of the reply.
#[tokio::test]
async fn file_that_is_cut_below_what_is_being_sent_leaves_the_stream_aligned() {
    for style in STYLES {
        let served = Served::new(MAX_TRANSFER.into());
        let mut client = Client::over_socket(&served.context, style).await;
        let cookie = client.send(READ, 0, 2 * MIB).await;
        let mut header = [0; 16];
        client.stream.read_exact(&mut header).await.unwrap();
        client.take(&header);
        served.file.set_len(MIB).unwrap();
        let reply = client.replies(1).await.remove(&cookie).unwrap();
        assert_eq!((reply.error, reply.data.len() as u64), (0, 2 * MIB));
        assert!(reply.data[..1 << 20] == *served.part(0, MIB));
        assert_eq!(client.call(READ, 0, 2 * MIB).await.error, 5, "EIO, as nothing was announced");
        assert!(client.call(READ, 1, 4096).await.data == served.part(1, 4096));
    }
}

/// It waits for memory that the read before it gives back, and must not be sent in the middle of that.
#[tokio::test]
async fn read_that_waits_for_memory_does_not_interrupt_a_reply() {
    let served = Served::new(MIB);
    for style in STYLES {
        for is_socket in [true, false] {
            let mut client = match is_socket {
                true => Client::over_socket(&served.context, style).await,
                false => Client::new(&served.context, style).await,
            };
            let spans = [(0, MIB), (3, 200_000), (7, MIB), (9, 100_000), (11, 2 * MIB), (13, 4096)];
            let mut bytes = Vec::new();
            let cookies = spans.map(|(at, length)| {
                let (request, cookie) = client.bytes(READ, at, length);
                bytes.extend(request);
                cookie
            });
            client.stream.write_all(&bytes).await.unwrap();
            tokio::time::sleep(IDLE).await;
            let replies = client.replies(spans.len()).await;
            for (cookie, (at, length)) in cookies.into_iter().zip(spans) {
                assert!(replies[&cookie].data == served.part(at, length), "{style} {length}");
            }
        }
    }
}
