//! The versions and cipher suites that are offered.
//!
//! These are TLS 1.2 with authenticated encryption, and TLS 1.3. AES with 128-bit keys comes first:
//! it is no weaker in practice, and takes 10 rounds where 256-bit keys take 14.
//!
//! OpenSSL ignores cipher names that it does not know, so the lists contain nothing but names of
//! ciphers, and the tests negotiate each of them.

use openssl::error::ErrorStack;
use openssl::ssl::{
    SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVersion,
};

/// A cipher suite, and which servers offer it.
struct Suite {
    /// The name that OpenSSL uses.
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

/// The server credentials that a suite is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credentials {
    Certificates,
    Keys,
    Either,
}

/// All suites that are offered, in order of preference.
///
/// For certificates with ECDSA or RSA keys, these are the suites with forward secrecy and
/// authenticated encryption that GnuTLS and OpenSSL offer by default. Left out are CCM, which is
/// AES at a fraction of the speed, and finite-field Diffie-Hellman, with which a client makes the
/// server compute for far longer than it does itself.
///
/// In TLS 1.3 a pre-shared key is bound to a hash, which is SHA-256 unless specified otherwise, and
/// key files do not specify it. In TLS 1.2 the suites without forward secrecy come last; GnuTLS and
/// OpenSSL have only one that provides it.
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

/// Returns a context builder without credentials.
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
    // A disk's client connects once and stays: there is nothing to resume.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    // Idle connections keep no buffers.
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    Ok(builder)
}

/// Offers the suites for servers that have a certificate.
pub(super) fn for_certificates(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    offer(builder, Credentials::Certificates)
}

/// Offers the suites for servers that have pre-shared keys.
pub(super) fn for_keys(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    offer(builder, Credentials::Keys)
}

fn offer(builder: &mut SslContextBuilder, credentials: Credentials) -> Result<(), ErrorStack> {
    builder.set_ciphersuites(&names(Version::Tls13, credentials))?;
    builder.set_cipher_list(&names(Version::Tls12, credentials))
}

/// Returns the names of suites in the form that OpenSSL takes.
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
