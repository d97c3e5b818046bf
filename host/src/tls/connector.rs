//! The client's side: connecting to a server whose certificate is verified.

use std::path::Path;

use anyhow::Context as _;
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use tokio::io::{AsyncRead, AsyncWrite};

use super::failure::{self, Failure};
use super::stream::{HandshakeError, TlsStream};

/// Connects to servers that present a certificate for their name.
pub struct Connector(SslConnector);

impl Connector {
    /// Creates a connector that trusts the authorities in a file of certificates (PEM), or those of the system.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be used.
    pub fn new(authorities: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())
            .map_err(failure::explain)
            .context("set up TLS")?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(failure::explain)?;
        if let Some(file) = authorities {
            // In place of those of the system.
            let empty = openssl::x509::store::X509StoreBuilder::new().map_err(failure::explain)?;
            builder.set_cert_store(empty.build());
            let loaded = builder.set_ca_file(file).map_err(failure::explain);
            loaded.with_context(|| file.display().to_string())?;
        }
        Ok(Self(builder.build()))
    }

    /// Performs the handshake with a server, and returns the encrypted stream. The certificate must be for
    /// `host`, a name or an IP address.
    ///
    /// # Errors
    ///
    /// Returns the reason if the handshake fails.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let configured = self.0.configure().and_then(|it| it.into_ssl(host));
        let mut ssl = configured.map_err(Failure::Internal)?;
        ssl.set_connect_state();
        let mut stream = TlsStream::new(ssl, stream).map_err(Failure::Internal)?;
        match stream.handshake().await {
            Ok(()) => Ok(stream),
            Err(HandshakeError::Transport(error)) => Err(Failure::Transport(error)),
            Err(HandshakeError::Tls(errors)) => Err(match stream.ssl().verify_result() {
                openssl::x509::X509VerifyResult::OK => Failure::Protocol(errors),
                result => Failure::Server(result),
            }),
        }
    }
}
