//! Which versions and ciphers are good enough.
//!
//! TLS 1.2 with authenticated encryption, and TLS 1.3. AES with 128 bits comes first, which is no
//! weaker in practice and takes 10 rounds where 256 bits take 14.

use openssl::error::ErrorStack;
use openssl::ssl::{
    SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVersion,
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

/// For servers that have a certificate: with forward secrecy only.
pub(super) fn for_certificates(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_ciphersuites(
        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256",
    )?;
    builder.set_cipher_list("ECDHE+AES128GCM:ECDHE+AES256GCM:ECDHE+CHACHA20:!PSK")
}

/// For pre-shared keys. In TLS 1.3 such a key belongs to a hash, which is SHA-256 where nothing
/// else is said. In 1.2 clients have various ciphers, of which those without forward secrecy come
/// last.
pub(super) fn for_keys(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_ciphersuites("TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256")?;
    builder.set_cipher_list(
        "ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:\
         PSK-CHACHA20-POLY1305",
    )
}
