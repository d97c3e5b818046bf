//! Clients by the keys that they have.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use openssl::ssl::{Ssl, SslVersion};

use super::client::{alice, with_certificate, with_key, write_keys, write_secret};
use super::handshake::with_keys;
use super::pki::{Pair, Use};
use crate::support::Server;
use crate::wire::haggle::*;
use crate::wire::numbers::*;

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

const CAROL: [u8; 16] = [0x5c; 16];

/// A client that is not let in.
pub(super) fn is_refused(server: &Server, ssl: Ssl) {
    let mut haggle = Haggle::new(server);
    haggle.accept(opt::STARTTLS, b"");
    match haggle.stream.into_tls(ssl) {
        Err(_) => {}
        // In TLS 1.3 a client with a certificate is done before it is judged.
        Ok(mut stream) => {
            let read = std::io::Read::read(&mut stream, &mut [0]);
            assert!(!matches!(read, Ok(1..)), "{read:?}");
        }
    }
}

#[test]
fn who_has_no_key_or_another_one_is_refused() {
    let mut server = with_keys(&["--tls=require", "1M"]);
    for version in VERSIONS {
        is_refused(&server, with_key(version, "mallory", &[1; 16]));
        is_refused(&server, with_key(version, "alice", &[1; 16]));
        Haggle::new(&server).start_tls(alice(version)).go("").expect_in_sync();
    }
    server.expect_log("closed: the TLS handshake failed: there is no key for \"mallory\"");
    server.expect_log("the client may have another key for \"alice\"");
}

#[test]
fn who_does_not_even_know_of_keys_is_refused() {
    let mut server = with_keys(&["--tls=require", "1M"]);
    let authority = Pair::authority("Test Authority");
    let own = authority.sign("client", Use::Client);
    for version in VERSIONS {
        is_refused(&server, with_certificate(version, &authority.certificate, None));
        is_refused(&server, with_certificate(version, &authority.certificate, Some(&own)));
    }
    server.expect_log(
        "closed: the TLS handshake failed: the client does not show that it has a key: ",
    );
}

#[test]
fn keys_are_read_again_for_each_client() {
    let mut server = with_keys(&["--tls=require", "1M"]);
    let keys = server.path("keys.psk");
    let mut early = Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("");
    let carol = |version| with_key(version, "carol", &CAROL);
    is_refused(&server, carol(SslVersion::TLS1_3));
    server.expect_log("there is no key for \"carol\"");

    write_secret(&keys, &format!("# a comment\n\n#6361726f6c:{}\r\n", "5C".repeat(16)));
    for version in VERSIONS {
        Haggle::new(&server).start_tls(carol(version)).go("").expect_in_sync();
        is_refused(&server, alice(version));
    }
    server.expect_log("there is no key for \"alice\"");
    early.expect_in_sync();

    fs::set_permissions(&keys, fs::Permissions::from_mode(0o604)).unwrap();
    is_refused(&server, carol(SslVersion::TLS1_3));
    server.expect_log("the file of keys: it holds secrets, but its mode 0604");
    fs::remove_file(&keys).unwrap();
    is_refused(&server, carol(SslVersion::TLS1_2));
    server.expect_log("the file of keys: No such file");

    write_keys(&server.path(""));
    Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("").expect_in_sync();
}

#[test]
fn keys_come_before_certificates() {
    let directory = tempfile::TempDir::new().unwrap();
    super::pki::directory(directory.path());
    write_keys(directory.path());
    let arguments = ["-U", "socket", "--tls-certificates=.", "--tls-psk=keys.psk", "1M"];
    let mut command = crate::support::memnbd(directory.path(), arguments);
    let server = Server::spawn(directory, &mut command);
    Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("").expect_in_sync();
}

#[test]
fn keys_and_identities_may_be_as_long_as_tls_has_room_for() {
    let identity = "i".repeat(128);
    for length in [1, 64] {
        let key = vec![0xab; length];
        let directory = tempfile::TempDir::new().unwrap();
        let line = format!("{identity}:{}\n", "ab".repeat(length));
        write_secret(&directory.path().join("keys.psk"), &line);
        let arguments = ["-U", "socket", "--tls-psk=keys.psk", "1M"];
        let mut command = crate::support::memnbd(directory.path(), arguments);
        let server = Server::spawn(directory, &mut command);
        for version in VERSIONS {
            let ssl = with_key(version, &identity, &key);
            Haggle::new(&server).start_tls(ssl).go("").expect_in_sync();
        }
    }
}
