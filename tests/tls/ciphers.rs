//! The ciphers that are offered, each by a handshake of its own, and no others.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use openssl::rsa::Rsa;
use openssl::ssl::{Ssl, SslCipherRef, SslContext, SslMethod, SslStream, SslVersion};
use tempfile::TempDir;

use super::client::{ALICE_KEY, builder};
use super::handshake::{expect_service, with_certificates, with_keys};
use super::hello::{Answer, offer};
use super::pki::directory;
use crate::support::{Server, memnbd};
use crate::wire::haggle::Haggle;
use crate::wire::numbers::opt;

/// A suite: OpenSSL's name and its number.
type Suite = (&'static str, u16);

const TLS_13: [Suite; 3] = [
    ("TLS_AES_128_GCM_SHA256", 0x1301),
    ("TLS_AES_256_GCM_SHA384", 0x1302),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x1303),
];

const ECDSA: [Suite; 3] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", 0xc02b),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", 0xc02c),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", 0xcca9),
];

const RSA: [Suite; 3] = [
    ("ECDHE-RSA-AES128-GCM-SHA256", 0xc02f),
    ("ECDHE-RSA-AES256-GCM-SHA384", 0xc030),
    ("ECDHE-RSA-CHACHA20-POLY1305", 0xcca8),
];

/// With keys, there is none of TLS 1.3 for SHA-384.
const KEYS_13: [Suite; 2] = [TLS_13[0], TLS_13[2]];

const KEYS: [Suite; 4] = [
    ("ECDHE-PSK-CHACHA20-POLY1305", 0xccac),
    ("PSK-AES128-GCM-SHA256", 0x00a8),
    ("PSK-AES256-GCM-SHA384", 0x00a9),
    ("PSK-CHACHA20-POLY1305", 0xccab),
];

/// The suites of TLS 1.3 that there are.
const ALL_13: &str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:\
                      TLS_AES_128_CCM_SHA256:TLS_AES_128_CCM_8_SHA256";

/// Numbers that are no suites but have a meaning of their own (RFC 5746 and RFC 7507).
const SIGNALS: [u16; 2] = [0x00ff, 0x5600];

/// The alert of a server that has no suite in common with the client.
const HANDSHAKE_FAILURE: u8 = 40;

fn with_rsa() -> Server {
    let path = TempDir::new().unwrap();
    let authority = directory(path.path());
    authority.sign_key("localhost", Rsa::generate(2048).unwrap()).write(path.path(), "server");
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls-certificates=.", "1M"]);
    Server::spawn(path, &mut command)
}

/// A client that offers this suite alone, has alice's key and believes every server.
fn only(version: SslVersion, suite: &str) -> Ssl {
    let mut builder = builder(version);
    match version {
        SslVersion::TLS1_3 => builder.set_ciphersuites(suite).unwrap(),
        _ => builder.set_cipher_list(&format!("{suite}:@SECLEVEL=0")).unwrap(),
    }
    builder.set_psk_client_callback(|_, _, identity, key| {
        identity[..6].copy_from_slice(b"alice\0");
        key[..ALICE_KEY.len()].copy_from_slice(&ALICE_KEY);
        Ok(ALICE_KEY.len())
    });
    Ssl::new(&builder.build()).unwrap()
}

/// The suites by which a client that offers nothing else gets in, of all that OpenSSL has.
fn accepted(server: &Server) -> BTreeSet<String> {
    let mut accepted = BTreeSet::new();
    for (name, version) in all() {
        let mut haggle = Haggle::new(server);
        haggle.accept(opt::STARTTLS, b"");
        if haggle.stream.into_tls(only(version, &name)).is_ok() {
            accepted.insert(name);
        }
    }
    accepted
}

/// Everything that OpenSSL's clients can be told to offer, each with a version that has it.
fn all() -> Vec<(String, SslVersion)> {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_cipher_list("ALL:COMPLEMENTOFALL:@SECLEVEL=0").unwrap();
    builder.set_ciphersuites(ALL_13).unwrap();
    builder.set_psk_client_callback(|_, _, _, _| Ok(0));
    let mut stream = SslStream::new(Ssl::new(&builder.build()).unwrap(), Sink::default()).unwrap();
    stream.connect().expect_err("nobody answers");
    // The header of the record, that of the message, the version, 32 random bytes; then the session
    // and the suites, each with its length.
    let hello = stream.get_ref().0.clone();
    let suites = &hello[44 + usize::from(hello[43])..];
    let length = usize::from(u16::from_be_bytes([suites[0], suites[1]]));
    let listed = stream.ssl().bytes_to_cipher_list(&suites[2..2 + length], false).unwrap();
    let version = |cipher: &SslCipherRef| match cipher.version() {
        "TLSv1.3" => SslVersion::TLS1_3,
        _ => SslVersion::TLS1_2,
    };
    let all = listed.suites.iter().map(|cipher| (cipher.name().to_owned(), version(cipher)));
    let all: Vec<_> = all.collect();
    assert!(all.len() > 100, "OpenSSL offers no more than {}", all.len());
    all
}

/// A stream to nowhere that keeps what is written.
#[derive(Default)]
struct Sink(Vec<u8>);

impl Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Each of the suites serves a disk, and no other is accepted of those that OpenSSL has.
fn offers(server: &mut Server, tls_13: &[Suite], tls_12: &[Suite]) {
    for (version, suites) in [(SslVersion::TLS1_3, tls_13), (SslVersion::TLS1_2, tls_12)] {
        for (name, _) in suites {
            expect_service(Haggle::new(server).start_tls(only(version, name)).extended("").go(""));
        }
    }
    let meant = tls_13.iter().chain(tls_12).map(|(name, _)| (*name).to_owned());
    assert_eq!(accepted(server), meant.collect());
    server.expect_log("no shared cipher");
    server.allow_log("more warnings about clients were not logged");
}

/// Of all 65536 numbers that a suite could have, these are accepted and no others.
fn offers_by_number(server: &Server, is_tls_13: bool, suites: &[Suite]) {
    let meant: Vec<u16> = suites.iter().map(|(_, number)| *number).collect();
    let others =
        (0..=u16::MAX).filter(|number| !meant.contains(number) && !SIGNALS.contains(number));
    let others: Vec<u16> = others.collect();
    // One message has room for half of them.
    for some in others.chunks(others.len().div_ceil(3)) {
        let answer = offer(server, is_tls_13, some);
        assert_eq!(answer, Answer::Alert(HANDSHAKE_FAILURE), "TLS 1.3: {is_tls_13}");
        for &number in &meant {
            let answer = offer(server, is_tls_13, &[some, &[number]].concat());
            assert_eq!(answer, Answer::Hello(number), "TLS 1.3: {is_tls_13}");
        }
    }
}

#[test]
fn ecdsa_certificates_have_these_ciphers_and_no_others() {
    let (mut server, _) = with_certificates(&["--tls=require", "1M"]);
    offers(&mut server, &TLS_13, &ECDSA);
    offers_by_number(&server, true, &TLS_13);
    offers_by_number(&server, false, &ECDSA);
}

#[test]
fn rsa_certificates_have_these_ciphers_and_no_others() {
    let mut server = with_rsa();
    offers(&mut server, &TLS_13, &RSA);
    offers_by_number(&server, true, &TLS_13);
    offers_by_number(&server, false, &RSA);
}

#[test]
fn keys_have_these_ciphers_and_no_others() {
    let mut server = with_keys(&["--tls=require", "1M"]);
    offers(&mut server, &KEYS_13, &KEYS);
    offers_by_number(&server, false, &KEYS);
}

/// AES is faster than ChaCha20 on machines that have instructions for it, which is nearly all.
#[test]
fn aes_is_preferred_but_by_clients_that_put_chacha_first() {
    let (server, _) = with_certificates(&["--tls=require", "1M"]);
    for (is_tls_13, suites) in [(true, TLS_13), (false, ECDSA)] {
        let [aes_128, aes_256, chacha] = suites.map(|(_, number)| number);
        for offered in [&[aes_256, aes_128, chacha], &[aes_256, chacha, aes_128]] {
            assert_eq!(offer(&server, is_tls_13, offered), Answer::Hello(aes_128));
        }
        let offered = [chacha, aes_256, aes_128];
        assert_eq!(offer(&server, is_tls_13, &offered), Answer::Hello(chacha));
    }
}
