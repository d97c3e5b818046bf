//! Clients that stall, talk nonsense or vanish while TLS starts.

use std::io::Write;
use std::time::Duration;

use openssl::ssl::SslVersion;

use super::client::alice;
use super::handshake::with_keys;
use crate::support::{LIMIT, Server, wait_until};
use crate::wire::haggle::*;
use crate::wire::numbers::*;
use crate::wire::stream::Stream;

/// A client that was told to start TLS.
fn started(server: &Server) -> Stream {
    let mut haggle = Haggle::new(server);
    haggle.accept(opt::STARTTLS, b"");
    haggle.stream
}

/// The first message of a client.
fn hello() -> Vec<u8> {
    #[derive(Debug)]
    struct Sink(Vec<u8>);
    impl std::io::Read for Sink {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut stream =
        openssl::ssl::SslStream::new(alice(SslVersion::TLS1_3), Sink(Vec::new())).unwrap();
    stream.connect().unwrap_err();
    stream.get_ref().0.clone()
}

#[test]
fn who_stalls_while_tls_starts_is_dropped_in_time() {
    let mut server = with_keys(&["--handshake-timeout", "1", "1M"]);
    let mut good = Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("");
    let before = server.fds().len();
    let hello = hello();
    let mut stalled: Vec<Stream> = (0..50).map(|_| started(&server)).collect();
    for (index, stream) in stalled.iter_mut().enumerate() {
        stream.put(&hello[..hello.len() * index / 50]);
    }
    // Inside TLS the time goes on from where it was.
    let inside = Haggle::new(&server).start_tls(alice(SslVersion::TLS1_2));
    good.expect_in_sync();
    assert!(wait_until(LIMIT, || server.fds().len() <= before));
    drop((stalled, inside));
    good.expect_in_sync();
    server.allow_log("more warnings about clients were not logged");
    server.expect_log("closed: the handshake timed out");
}

#[test]
fn who_talks_nonsense_while_tls_starts_is_dropped() {
    let mut server = with_keys(&["--handshake-timeout", "0", "1M"]);
    let mut good = Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("");
    let before = server.fds().len();
    let hello = hello();
    let mut broken = hello.clone();
    broken[60..].fill(0xff);
    let http = b"GET / HTTP/1.0\r\n\r\n".to_vec();
    let noise: Vec<u8> =
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let long = [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 70_000]].concat();
    // A hello of 16 MiB, of which the first records come.
    let announced: Vec<u8> = [0x16, 3, 3, 0x40, 0, 1, 0xff, 0xff, 0xff]
        .into_iter()
        .chain(std::iter::repeat_n(0, 16384 - 4))
        .chain([0x16, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat_n(0, 16384)).cycle())
        .take(400_000)
        .collect();
    let alert = vec![0x15, 3, 3, 0, 2, 2, 40];
    for bytes in [broken, http, noise, long, announced, alert, vec![0; 64], hello.repeat(3)] {
        let mut stream = started(&server);
        // It may be closed before all of this is sent.
        let _ = stream.write_all(&bytes);
        let _ = stream.rest();
    }
    assert!(wait_until(LIMIT, || server.fds().len() <= before));
    good.expect_in_sync();
    server.expect_log("closed: the TLS handshake failed: ");
}

#[test]
fn who_vanishes_while_tls_starts_harms_nobody() {
    let server = with_keys(&["1M"]);
    let mut good = Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("");
    let before = server.fds().len();
    let hello = hello();
    for length in (0..=hello.len()).step_by(7) {
        started(&server).put(&hello[..length]);
    }
    assert!(wait_until(LIMIT, || server.fds().len() <= before));
    good.expect_in_sync();
}

#[test]
fn many_start_tls_at_once() {
    let server = with_keys(&["1M"]);
    std::thread::scope(|scope| {
        for index in 0..16 {
            let server = &server;
            scope.spawn(move || {
                let version = [SslVersion::TLS1_2, SslVersion::TLS1_3][index % 2];
                for _ in 0..8 {
                    Haggle::new(server).start_tls(alice(version)).go("").expect_in_sync();
                }
            });
        }
    });
}

/// A record whose bytes were changed on the way.
#[test]
fn broken_records_end_the_connection() {
    let server = with_keys(&["1M"]);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let session = Haggle::new(&server).start_tls(alice(version)).go("");
        let Stream::Tls(mut stream) = session.stream else { panic!("it is inside TLS") };
        let outside = stream.get_mut();
        outside.set_timeout(Some(Duration::from_secs(30)));
        outside.put(&[&[0x17, 3, 3, 0, 64][..], &[0x5a; 64]].concat());
        outside.rest();
    }
    Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("").expect_in_sync();
}
