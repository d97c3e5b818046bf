//! TLS: who may come, and streams that encrypt.
//!
//! An [`Acceptor`] is made once, of the files that a person names, and every mistake in them is
//! told then. It turns a stream into a [`TlsStream`] by a handshake with the client. The work is
//! OpenSSL's, which sees no sockets: it reads and writes memory, and the stream moves the bytes.
//! What is said over the stream is not known here.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | `certificates` | reads a directory of certificates and judges it |
//! | `keys` | reads a file of pre-shared keys |
//! | `files` | reads what others must not see |
//! | `policy` | the versions and ciphers that are good enough |
//! | `failure` | why a handshake failed |
//! | `stream`, `pipe` | the stream, and the memory between it and OpenSSL |

mod certificates;
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
pub use failure::Failure;
pub use files::FileError;
pub use keys::{KeysError, Problem};
pub use stream::TlsStream;

use certificates::Certificates;
use keys::{Keys, Lookup};
use stream::HandshakeError;

/// Makes streams of clients encrypted ones, if the clients are who they should be.
pub struct Acceptor {
    context: SslContext,
    /// Where a connection keeps how its pre-shared key was found.
    lookup: Index<Ssl, Lookup>,
    /// The first identity that has such a key; none where clients need none.
    first_identity: Option<Vec<u8>>,
}

impl Acceptor {
    /// The server shows the certificate of this directory. With `verify_peer`, clients must have
    /// one as well, which the directory's authority has signed and not revoked.
    ///
    /// # Errors
    ///
    /// What is wrong with which file.
    pub fn with_certificates(directory: &Path, verify_peer: bool) -> anyhow::Result<Self> {
        let certificates = Certificates::load(directory, verify_peer)?;
        Self::new(None, |builder, _| {
            policy::for_certificates(builder)?;
            certificates.install(builder)
        })
    }

    /// Server and client know each other by a key of this file, which is read again for each
    /// client.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn with_keys(file: &Path) -> anyhow::Result<Self> {
        let keys = Keys::new(file).with_context(|| file.display().to_string())?;
        Self::new(Some(keys.first.clone()), |builder, index| {
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

    /// The first identity that has a pre-shared key, for want of knowing who will come; none with
    /// certificates.
    pub fn first_identity(&self) -> Option<&[u8]> {
        self.first_identity.as_deref()
    }

    fn new(
        first_identity: Option<Vec<u8>>,
        install: impl FnOnce(&mut SslContextBuilder, Index<Ssl, Lookup>) -> Result<(), ErrorStack>,
    ) -> anyhow::Result<Self> {
        let make = || {
            let lookup = Ssl::new_ex_index()?;
            let mut builder = policy::builder()?;
            install(&mut builder, lookup)?;
            Ok(Self { context: builder.build(), lookup, first_identity })
        };
        make().map_err(failure::explain).context("set up TLS")
    }

    /// Makes the stream of a client an encrypted one. What it sends from now on must be TLS. When
    /// that fails, the client is told why as far as TLS has words for it, and the stream is closed.
    ///
    /// # Errors
    ///
    /// Why it failed.
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

    /// What was agreed on, and who the client is, in a line for people.
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
        // What it holds is secret.
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}
