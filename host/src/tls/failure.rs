//! Reasons for a failed handshake.

use std::fmt;
use std::io;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::x509::X509VerifyResult;

use super::keys::KeysError;

/// Why a handshake failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection was lost or closed.
    Transport(io::Error),
    /// The client presented a certificate that is not accepted.
    Certificate(X509VerifyResult),
    /// The server presented a certificate that is not accepted.
    Server(X509VerifyResult),
    /// The handshake failed before the client showed that it has a pre-shared key.
    NoKey(ErrorStack),
    /// The client sent an identity for which there is no key.
    Identity(String),
    /// The client sent a known identity, but has a different key, or something else is wrong.
    Key {
        /// The identity.
        identity: String,
        /// The errors that OpenSSL reported.
        errors: ErrorStack,
    },
    /// The key file can no longer be used.
    Keys(Arc<KeysError>),
    /// The client does not speak TLS, or not in a way that we accept, or does not trust us.
    Protocol(ErrorStack),
    /// OpenSSL could not begin the handshake.
    Internal(ErrorStack),
}

impl Failure {
    /// Returns the error of the transport, if that is what failed.
    pub(crate) fn into_transport(self) -> Result<io::Error, Self> {
        match self {
            Self::Transport(error) => Ok(error),
            other => Err(other),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => write!(f, "the connection was lost: {error}"),
            Self::Certificate(result) => {
                write!(f, "the client's certificate is not accepted: {}", result.error_string())
            }
            Self::Server(result) => {
                write!(f, "the server's certificate is not accepted: {}", result.error_string())
            }
            Self::NoKey(errors) => {
                write!(f, "the client does not show that it has a key: {}", reasons(errors))
            }
            Self::Identity(identity) => write!(f, "there is no key for {identity:?}"),
            Self::Key { identity, errors } => {
                write!(f, "the client may have another key for {identity:?}: {}", reasons(errors))
            }
            Self::Keys(error) => write!(f, "the file of keys: {error}"),
            Self::Protocol(errors) | Self::Internal(errors) => f.write_str(&reasons(errors)),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Transport(error) => Some(error),
            Self::Keys(error) => Some(&**error),
            Self::NoKey(errors)
            | Self::Key { errors, .. }
            | Self::Protocol(errors)
            | Self::Internal(errors) => Some(errors),
            Self::Certificate(_) | Self::Server(_) | Self::Identity(_) => None,
        }
    }
}

/// Converts OpenSSL's errors into a human-readable one.
pub(super) fn explain(errors: ErrorStack) -> anyhow::Error {
    anyhow::anyhow!("{}", reasons(&errors))
}

/// Returns OpenSSL's messages without its file names.
fn reasons(errors: &ErrorStack) -> String {
    let reasons: Vec<&str> = errors.errors().iter().filter_map(|error| error.reason()).collect();
    match reasons.is_empty() {
        true => "OpenSSL does not say why".into(),
        false => reasons.join(", "),
    }
}
