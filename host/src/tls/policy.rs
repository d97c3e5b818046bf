//! Which versions and ciphers are good enough.
//!
//! TLS 1.2 with authenticated encryption, and TLS 1.3. AES with 128 bits comes first, which is no
//! weaker in practice and takes 10 rounds where 256 bits take 14.
//!
//! OpenSSL ignores a name of a cipher that it does not know, so nothing else is written here than
//! names of ciphers, and the tests negotiate each of them.

use openssl::error::ErrorStack;
use openssl::ssl::{
    SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVersion,
};

/// A cipher suite that servers of a kind offer.
struct Suite {
    /// OpenSSL's name.
    name: &'static str,
    version: Version,
    credentials: Credentials,
}

/// The version of TLS that a suite belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Tls12,
    Tls13,
}

/// The credentials of the server that a suite is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credentials {
    Certificates,
    Keys,
    Either,
}

/// All suites that are offered, the preferred ones first.
///
/// For certificates, of ECDSA and of RSA keys, these are the suites with forward secrecy and
/// authenticated encryption that GnuTLS and OpenSSL offer by default. CCM is left out, which is AES
/// at a fraction of the speed, and so is Diffie-Hellman over integers, by which a client makes the
/// server compute for far longer than it does itself.
///
/// In TLS 1.3 a pre-shared key belongs to a hash, which is SHA-256 where nothing else is said, and
/// files of keys say nothing. In 1.2 the suites without forward secrecy come last; with it there is
/// but one in GnuTLS and OpenSSL.
const SUITES: [Suite; 13] = {
    use Credentials::{Certificates, Either, Keys};
    use Version::{Tls12, Tls13};
    const fn suite(name: &'static str, version: Version, credentials: Credentials) -> Suite {
        Suite { name, version, credentials }
    }
    [
        suite("TLS_AES_128_GCM_SHA256", Tls13, Either),
        suite("TLS_AES_256_GCM_SHA384", Tls13, Certificates),
        suite("TLS_CHACHA20_POLY1305_SHA256", Tls13, Either),
        suite("ECDHE-ECDSA-AES128-GCM-SHA256", Tls12, Certificates),
        suite("ECDHE-RSA-AES128-GCM-SHA256", Tls12, Certificates),
        suite("ECDHE-ECDSA-AES256-GCM-SHA384", Tls12, Certificates),
        suite("ECDHE-RSA-AES256-GCM-SHA384", Tls12, Certificates),
        suite("ECDHE-ECDSA-CHACHA20-POLY1305", Tls12, Certificates),
        suite("ECDHE-RSA-CHACHA20-POLY1305", Tls12, Certificates),
        suite("ECDHE-PSK-CHACHA20-POLY1305", Tls12, Keys),
        suite("PSK-AES128-GCM-SHA256", Tls12, Keys),
        suite("PSK-AES256-GCM-SHA384", Tls12, Keys),
        suite("PSK-CHACHA20-POLY1305", Tls12, Keys),
    ]
};

/// A context without credentials.
pub(super) fn builder() -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_options(
        SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::PRIORITIZE_CHACHA
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_TICKET,
    );
    // A client of a disk comes once and stays: there is nothing to resume.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    // An idle connection keeps no buffers.
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    Ok(builder)
}

/// Offers what servers that have a certificate offer.
pub(super) fn for_certificates(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    offer(builder, Credentials::Certificates)
}

/// Offers what servers that have pre-shared keys offer.
pub(super) fn for_keys(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    offer(builder, Credentials::Keys)
}

fn offer(builder: &mut SslContextBuilder, credentials: Credentials) -> Result<(), ErrorStack> {
    builder.set_ciphersuites(&names(Version::Tls13, credentials))?;
    builder.set_cipher_list(&names(Version::Tls12, credentials))
}

/// The names of suites as OpenSSL takes them.
fn names(version: Version, credentials: Credentials) -> String {
    let suites = SUITES.iter().filter(|suite| {
        let is_for = [credentials, Credentials::Either].contains(&suite.credentials);
        suite.version == version && is_for
    });
    suites.map(|suite| suite.name).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_knows_every_suite() {
        for Suite { name, version, .. } in &SUITES {
            let mut builder = builder().unwrap();
            let set = match version {
                Version::Tls12 => builder.set_cipher_list(name),
                Version::Tls13 => builder.set_ciphersuites(name),
            };
            assert!(set.is_ok(), "{name}: {set:?}");
        }
    }
}
