//! The client's side of TLS.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;

use super::pki::Pair;

/// A file of keys, and one of them.
const KEYS: &str = "alice:00112233445566778899aabbccddeeff\nbob:0123456789abcdef0123456789abcdef\n";
pub(super) const ALICE_KEY: [u8; 16] =
    *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";

thread_local! {
    /// Whether servers that are started serve inside TLS alone, and clients start it by themselves.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test of the protocol inside TLS.
pub(crate) fn inside_tls(test: impl FnOnce()) {
    struct Outside;
    impl Drop for Outside {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }
    let _outside = Outside;
    INSIDE.set(true);
    test();
}

pub(crate) fn is_inside_tls() -> bool {
    INSIDE.get()
}

/// Writes `keys.psk`, which has a key for alice and one for bob.
pub(crate) fn write_keys(directory: &Path) {
    write_secret(&directory.join("keys.psk"), KEYS);
}

/// Writes a file that nobody else can read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A client of no version but this.
pub(crate) fn builder(version: SslVersion) -> SslContextBuilder {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    // That the server says good-bye is checked.
    builder.clear_options(SslOptions::IGNORE_UNEXPECTED_EOF);
    builder
}

/// Alice.
pub(crate) fn alice(version: SslVersion) -> Ssl {
    with_key(version, "alice", &ALICE_KEY)
}

pub(crate) fn with_key(version: SslVersion, identity: &str, key: &[u8]) -> Ssl {
    let mut builder = builder(version);
    builder.set_cipher_list("PSK").unwrap();
    let (identity, key) = (format!("{identity}\0").into_bytes(), key.to_vec());
    builder.set_psk_client_callback(move |_, _, name, place| {
        name[..identity.len()].copy_from_slice(&identity);
        place[..key.len()].copy_from_slice(&key);
        Ok(key.len())
    });
    Ssl::new(&builder.build()).unwrap()
}

/// A client that trusts this authority, and perhaps has a certificate.
pub(crate) fn with_certificate(version: SslVersion, authority: &X509, own: Option<&Pair>) -> Ssl {
    let mut builder = builder(version);
    builder.cert_store_mut().add_cert(authority.clone()).unwrap();
    builder.set_verify(SslVerifyMode::PEER);
    if let Some(own) = own {
        builder.set_certificate(&own.certificate).unwrap();
        builder.set_private_key(&own.key).unwrap();
    }
    let mut ssl = Ssl::new(&builder.build()).unwrap();
    ssl.param_mut().set_host("localhost").unwrap();
    ssl
}
