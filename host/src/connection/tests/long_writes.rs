//! Long writes to a file, of which a part may be written before the rest has arrived.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::client::*;
use super::file::device_of;
use super::*;
use crate::block::MAX_TRANSFER;
use crate::connection::{Context, End, Phase};
use crate::device::file::PageCache;
use crate::exports::Export;

const MIB: usize = 1 << 20;

/// Where the write is.
const AT: u64 = 4097;

const FUA: u16 = 1;

/// A file of 8 MiB in memory, or on disk if there is one, and a server of it.
fn served(in_memory: bool) -> (File, Context, watch::Sender<Phase>) {
    let file: File = match in_memory {
        true => {
            memfd_create("disk", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap().into()
        }
        false => tempfile::tempfile().unwrap(),
    };
    file.set_len(8 << 20).unwrap();
    let device = device_of(file.try_clone().unwrap(), PageCache::Default, MAX_TRANSFER.into());
    let export = Export::of_device("disk", device);
    let (context, phase) = context_of_exports(vec![export]);
    (file, context, phase)
}

fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; 8 << 20];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn payload(seed: u8) -> Vec<u8> {
    (0..3 * MIB).map(|at| (at % 251) as u8 ^ seed | 1).collect()
}

/// Waits until bytes of a write have come to the file, and returns how many. They are the first ones of
/// the payload, and no others have changed.
async fn wait_for_part(file: &File, payload: &[u8]) -> usize {
    let start = Instant::now();
    loop {
        let content = content(file);
        let (before, rest) = content.split_at(AT as usize);
        assert!(before.iter().all(|&byte| byte == 0));
        let length = rest.iter().position(|&byte| byte == 0).unwrap();
        assert!(rest[..length] == payload[..length]);
        assert!(rest[length..].iter().all(|&byte| byte == 0));
        if length > 0 {
            return length;
        }
        assert!(start.elapsed() < PATIENCE, "nothing is written");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn long_durable_write_is_answered_when_all_of_it_is_written() {
    for in_memory in [true, false] {
        for (seed, style) in (0..).zip(STYLES) {
            let (file, context, _phase) = served(in_memory);
            let mut client = Client::over_socket(&context, style).await;
            let payload = payload(seed);
            let header = request(style, FUA, WRITE, 1000, AT, payload.len() as u64);
            let (first, rest) = payload.split_at(2 * MIB);
            client.stream.write_all(&[&header, first].concat()).await.unwrap();
            if in_memory {
                let length = wait_for_part(&file, &payload).await;
                assert!(length <= first.len());
            }
            let early = client.stream.read_u8();
            let early = tokio::time::timeout(Duration::from_millis(100), early).await;
            assert!(early.is_err(), "it is answered before all of it came");
            client.stream.write_all(rest).await.unwrap();
            let reply = client.replies(1).await.remove(&1000).unwrap();
            assert_eq!((reply.error, reply.done), (0, true));
            assert!(content(&file)[AT as usize..][..payload.len()] == payload);
            assert_eq!(client.call(READ, AT, 8192).await.data, payload[..8192]);
        }
    }
}

/// The write fails as a whole, and the rest of its payload is not taken for requests.
#[tokio::test]
async fn part_that_fails_fails_the_write_and_leaves_the_stream_aligned() {
    for flags in [0, FUA] {
        for style in STYLES {
            let (file, context, _phase) = served(true);
            let mut client = Client::over_socket(&context, style).await;
            let payload = payload(0);
            let header = request(style, flags, WRITE, 1000, AT, payload.len() as u64);
            let (first, rest) = payload.split_at(MIB);
            client.stream.write_all(&[&header, first].concat()).await.unwrap();
            wait_for_part(&file, &payload).await;
            fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
            client.stream.write_all(rest).await.unwrap();
            let reply = client.replies(1).await.remove(&1000).unwrap();
            assert_eq!((reply.error, reply.done), (1, true), "EPERM");
            assert_eq!(client.call(READ, AT, 4096).await.data, payload[..4096]);
        }
    }
}

#[tokio::test]
async fn client_that_leaves_in_the_middle_of_a_write_has_written_a_first_part_or_nothing() {
    for in_memory in [true, false] {
        for flags in [0, FUA] {
            for style in STYLES {
                let (file, context, _phase) = served(in_memory);
                let mut client = Client::over_socket(&context, style).await;
                let payload = payload(0);
                let header = request(style, flags, WRITE, 1000, AT, payload.len() as u64);
                let sent = [&header, &payload[..MIB + 1]].concat();
                client.stream.write_all(&sent).await.unwrap();
                if in_memory {
                    wait_for_part(&file, &payload).await;
                }
                drop(client.stream);
                let end = client.serving.await.unwrap();
                assert!(matches!(end, End::Transport(_)), "{end}");
                let length = match in_memory {
                    true => wait_for_part(&file, &payload).await,
                    false => content(&file).iter().filter(|&&byte| byte != 0).count(),
                };
                assert!(length <= MIB + 1 && (in_memory || length == 0), "{length} bytes");

                let mut other = Client::over_socket(&context, style).await;
                let read = other.call(READ, AT, 4 << 20).await;
                assert!(read.data == content(&file)[AT as usize..][..4 << 20]);
                assert_eq!(other.call(WRITE, AT, MIB as u64).await.error, 0);
                assert!(other.call(READ, AT, MIB as u64).await.data == [0x77; MIB]);
            }
        }
    }
}
