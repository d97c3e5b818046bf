//! Streams over streams that take and give few bytes at a time.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openssl::ssl::{Ssl, SslContext, SslMethod, SslVersion};
use tempfile::TempDir;
use tokio::io::{
    AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split,
};

use super::super::{Acceptor, Failure, TlsStream};
use super::secret;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

fn client(version: SslVersion, key: u8) -> Ssl {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    builder.set_cipher_list("PSK").unwrap();
    builder.set_psk_client_callback(move |_, _, identity, place| {
        identity[..2].copy_from_slice(b"a\0");
        place[..16].fill(key);
        Ok(16)
    });
    let mut ssl = Ssl::new(&builder.build()).unwrap();
    ssl.set_connect_state();
    ssl
}

/// A server's side, and the directory of its keys.
fn acceptor() -> (Acceptor, TempDir) {
    let (directory, path) = secret(&format!("a:{}", "11".repeat(16)));
    (Acceptor::with_keys(&path).unwrap(), directory)
}

/// Both ends of a connection over a stream that holds so much.
async fn pair(
    version: SslVersion,
    window: usize,
) -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
    let (near, far) = duplex(window);
    let mut ours = TlsStream::new(client(version, 0x11), near).unwrap();
    let (acceptor, _directory) = acceptor();
    let (shaken, accepted) = tokio::join!(ours.handshake(), acceptor.accept(far));
    assert!(shaken.is_ok());
    (ours, accepted.unwrap())
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

/// Writes in slices of many lengths.
async fn write_pieces(mut writer: WriteHalf<TlsStream<DuplexStream>>, data: &[u8]) {
    const LENGTHS: [usize; 9] = [1, 16, 0, 16384, 20, 40_000, 16383, 5, 100_000];
    let mut rest = data;
    let mut turn = 0;
    while !rest.is_empty() {
        let mut slices = Vec::new();
        let mut left = rest;
        for index in 0..7 {
            let length = LENGTHS[(turn + index) % LENGTHS.len()].min(left.len());
            slices.push(IoSlice::new(&left[..length]));
            left = &left[length..];
        }
        turn += 1;
        if slices.iter().all(|slice| slice.is_empty()) {
            continue;
        }
        let n = writer.write_vectored(&slices).await.unwrap();
        assert!(n > 0);
        rest = &rest[n..];
    }
    writer.shutdown().await.unwrap();
}

async fn read_all(mut reader: ReadHalf<TlsStream<DuplexStream>>) -> Vec<u8> {
    let mut read = Vec::new();
    reader.read_to_end(&mut read).await.unwrap();
    read
}

#[tokio::test]
async fn bytes_arrive_both_ways_whatever_the_window() {
    let data = bytes(1_000_000);
    for version in VERSIONS {
        for window in [1, 29, 1000, 20_000, 300_000] {
            let data = &data[..data.len().min(window * 10_000)];
            let (near, far) = pair(version, window).await;
            let (near_reader, near_writer) = split(near);
            let (far_reader, far_writer) = split(far);
            let all = async {
                tokio::join!(
                    read_all(near_reader),
                    read_all(far_reader),
                    write_pieces(near_writer, data),
                    write_pieces(far_writer, data),
                )
            };
            let (near_read, far_read, ..) = tokio::time::timeout(PATIENCE, all).await.unwrap();
            assert!(near_read == data && far_read == data, "{version:?} {window}");
        }
    }
}

#[tokio::test]
async fn what_was_written_goes_out_before_a_read_waits() {
    let (mut near, mut far) = pair(SslVersion::TLS1_3, 1000).await;
    let asking = async {
        near.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        near.read_exact(&mut answer).await.unwrap();
        answer
    };
    let answering = async {
        let mut question = [0; 4];
        far.read_exact(&mut question).await.unwrap();
        far.write_all(&question).await.unwrap();
        // It reads on, and never flushes.
        let _ = far.read(&mut question).await;
    };
    tokio::select! {
        answer = asking => assert_eq!(&answer, b"ping"),
        () = answering => panic!("the other end is still there"),
        () = tokio::time::sleep(PATIENCE) => panic!("nothing was sent"),
    }
}

#[tokio::test]
async fn writer_waits_for_a_reader() {
    let (mut near, far) = pair(SslVersion::TLS1_3, 1000).await;
    let data = bytes(100_000);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut taken = 0;
    while let Poll::Ready(n) = Pin::new(&mut near).poll_write(cx, &data) {
        taken += n.unwrap();
        assert!(taken < 300_000, "it takes {taken} bytes that nobody reads");
    }
    assert!(Pin::new(&mut near).poll_flush(cx).is_pending());
    drop(far);
}

#[tokio::test]
async fn small_pieces_share_a_record_and_large_ones_have_their_own() {
    for (pieces, records) in [(vec![20; 500], 1), (vec![20, 16384, 16384], 3), (vec![9000; 4], 4)] {
        let (mut near, mut far) = pair(SslVersion::TLS1_3, 1 << 20).await;
        let data = bytes(pieces.iter().sum());
        let mut rest = &data[..];
        let slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .map(|&length| {
                let (piece, after) = rest.split_at(length);
                rest = after;
                IoSlice::new(piece)
            })
            .collect();
        assert_eq!(near.write_vectored(&slices).await.unwrap(), data.len());
        // Of each record OpenSSL tells its header, a byte for its type, and a tag.
        assert_eq!(near.waiting(), data.len() + records * (5 + 1 + 16));
        near.flush().await.unwrap();
        let mut read = vec![0; data.len()];
        far.read_exact(&mut read).await.unwrap();
        assert!(read == data);
    }
}

#[tokio::test]
async fn end_without_good_bye_is_an_error() {
    for version in VERSIONS {
        let (near, mut far) = pair(version, 1000).await;
        drop(near);
        let error = far.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        let (mut near, mut far) = pair(version, 1000).await;
        near.shutdown().await.unwrap();
        assert_eq!(far.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        // The other direction is still open.
        far.write_all(b"and?").await.unwrap();
        far.shutdown().await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"and?");
    }
}

#[tokio::test]
async fn client_with_another_key_is_told_and_dropped() {
    for version in VERSIONS {
        let (near, far) = duplex(1000);
        let mut ours = TlsStream::new(client(version, 0x22), near).unwrap();
        let (acceptor, _directory) = acceptor();
        let (shaken, accepted) = tokio::join!(ours.handshake(), acceptor.accept(far));
        assert!(shaken.is_err());
        assert!(matches!(accepted, Err(Failure::Key { identity, .. }) if identity == "a"));
    }
}

#[tokio::test]
async fn client_that_hangs_up_is_no_failure_of_tls() {
    let (near, far) = duplex(1000);
    drop(near);
    let accepted = acceptor().0.accept(far).await;
    assert!(matches!(accepted, Err(Failure::Transport(_))), "{:?}", accepted.err());
}
