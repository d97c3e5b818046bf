//! TLS: authentication of clients, and encrypted streams.
//!
//! An [`Acceptor`] is created once from the files that the user names, and any mistake in them is
//! reported then. It turns a stream into a [`TlsStream`] by a handshake with the client. OpenSSL
//! does the work without access to sockets: it reads and writes memory, and the stream moves the
//! bytes. This module knows nothing of what is sent over the stream.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | `certificates` | loads and validates a directory of certificates |
//! | `connector` | the same for a client, which verifies the server |
//! | `keys` | reads a file of pre-shared keys |
//! | `files` | reads files, and checks the permissions of those that hold secrets |
//! | `policy` | the versions and ciphers that are offered |
//! | `failure` | why a handshake failed |
//! | `stream`, `pipe` | the stream, and the buffers between it and OpenSSL |

mod certificates;
mod connector;
mod failure;
mod files;
mod keys;
mod pipe;
mod policy;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslRef};
use openssl::x509::X509VerifyResult;
use tokio::io::{AsyncRead, AsyncWrite};

pub use certificates::FILES;
pub use connector::Connector;
pub use failure::Failure;
pub use files::FileError;
pub use keys::{KeysError, Problem};
pub use stream::TlsStream;

use crate::access::TlsIdentity;
use certificates::Certificates;
use keys::{Keys, Lookup};
use stream::HandshakeError;

/// Encrypts the streams of clients, and authenticates the clients if they need credentials.
pub struct Acceptor {
    context: SslContext,
    /// The index under which a connection stores the result of its key lookup.
    lookup: Index<Ssl, Lookup>,
    /// The first identity that has a pre-shared key; `None` with certificates.
    first_identity: Option<Vec<u8>>,
    /// Clients must present a certificate.
    verifies: bool,
}

impl Acceptor {
    /// Creates an acceptor that presents the certificate in `directory`. With `verify_peer`,
    /// clients must present one as well, which the directory's authority has signed and not
    /// revoked.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file and what is wrong with it.
    pub fn with_certificates(directory: &Path, verify_peer: bool) -> anyhow::Result<Self> {
        let certificates = Certificates::load(directory, verify_peer)?;
        Self::new(None, verify_peer, |builder, _| {
            policy::for_certificates(builder)?;
            certificates.install(builder)
        })
    }

    /// Creates an acceptor that authenticates server and client by a pre-shared key in `file`,
    /// which is read again for each client.
    ///
    /// # Errors
    ///
    /// Returns an error that says what is wrong with the file.
    pub fn with_keys(file: &Path) -> anyhow::Result<Self> {
        let keys = Keys::new(file).with_context(|| file.display().to_string())?;
        Self::new(Some(keys.first.clone()), false, |builder, index| {
            policy::for_keys(builder)?;
            builder.set_psk_server_callback(move |ssl: &mut SslRef, identity, key| {
                let lookup = keys.look_up(identity.unwrap_or_default(), key);
                let length = lookup.key_length();
                ssl.set_ex_data(index, lookup);
                Ok(length)
            });
            Ok(())
        })
    }

    /// Returns the first identity that has a pre-shared key, as an example, since the clients are
    /// not known in advance. Returns `None` with certificates.
    pub fn first_identity(&self) -> Option<&[u8]> {
        self.first_identity.as_deref()
    }

    fn new(
        first_identity: Option<Vec<u8>>,
        verifies: bool,
        install: impl FnOnce(&mut SslContextBuilder, Index<Ssl, Lookup>) -> Result<(), ErrorStack>,
    ) -> anyhow::Result<Self> {
        let make = || {
            let lookup = Ssl::new_ex_index()?;
            let mut builder = policy::builder()?;
            install(&mut builder, lookup)?;
            Ok(Self { context: builder.build(), lookup, first_identity, verifies })
        };
        make().map_err(failure::explain).context("set up TLS")
    }

    /// Performs the handshake with a client and returns the encrypted stream. Whatever the client
    /// sends from now on must be TLS. If the handshake fails, the client is sent a TLS alert where
    /// there is one for the cause, and the stream is closed.
    ///
    /// # Errors
    ///
    /// Returns the reason if the handshake fails.
    pub async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut ssl = Ssl::new(&self.context).map_err(Failure::Internal)?;
        ssl.set_accept_state();
        let mut stream = TlsStream::new(ssl, stream).map_err(Failure::Internal)?;
        match stream.handshake().await {
            Ok(()) => Ok(stream),
            Err(error) => {
                let failure = self.failure(error, stream.ssl());
                stream.abandon().await;
                Err(failure)
            }
        }
    }

    fn failure(&self, error: HandshakeError, ssl: &SslRef) -> Failure {
        let errors = match error {
            HandshakeError::Transport(error) => return Failure::Transport(error),
            HandshakeError::Tls(errors) => errors,
        };
        match ssl.ex_data(self.lookup) {
            Some(Lookup::Unknown { identity }) => Failure::Identity(identity.clone()),
            Some(Lookup::Failed(error)) => Failure::Keys(error.clone()),
            Some(Lookup::Found { identity, .. }) => {
                Failure::Key { identity: identity.clone(), errors }
            }
            None if self.first_identity.is_some() => Failure::NoKey(errors),
            None => match ssl.verify_result() {
                X509VerifyResult::OK => Failure::Protocol(errors),
                result => Failure::Certificate(result),
            },
        }
    }

    /// Returns who the client is by the credentials that it presented, and that were verified.
    pub fn identity<S>(&self, stream: &TlsStream<S>) -> TlsIdentity {
        let ssl = stream.ssl();
        if let Some(Lookup::Found { identity, .. }) = ssl.ex_data(self.lookup)
            // Stands for bytes that are not UTF-8.
            && !identity.contains(char::REPLACEMENT_CHARACTER)
        {
            return TlsIdentity::Key(identity.clone());
        }
        let certificate = ssl.peer_certificate();
        certificate
            .filter(|_| self.verifies && ssl.verify_result() == X509VerifyResult::OK)
            .and_then(|certificate| certificates::distinct_subject(&certificate))
            .map_or(TlsIdentity::Nobody, TlsIdentity::Certificate)
    }

    /// Returns a human-readable line with what was negotiated and who the client is.
    pub fn describe<S>(&self, stream: &TlsStream<S>) -> String {
        let ssl = stream.ssl();
        let cipher = ssl.current_cipher().map_or("no cipher", |cipher| cipher.name());
        let mut text = format!("{}, {cipher}", ssl.version_str());
        if let Some(Lookup::Found { identity, .. }) = ssl.ex_data(self.lookup) {
            text += &format!(", identity {identity:?}");
        }
        if let Some(certificate) = ssl.peer_certificate() {
            text += &format!(", certificate of {}", certificates::subject(&certificate));
        }
        text
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The fields hold secrets.
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}
