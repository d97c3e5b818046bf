//! Why a client did not come in.

use std::fmt;
use std::io;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::x509::X509VerifyResult;

use super::keys::KeysError;

/// A handshake that failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection was lost, or ended.
    Transport(io::Error),
    /// The client has a certificate, but not one to let it in for.
    Certificate(X509VerifyResult),
    /// The client did not get so far as to show that it has a pre-shared key.
    NoKey(ErrorStack),
    /// The client gave a name for which there is no key.
    Identity(String),
    /// The client gave a name, but has another key than we, or something else is wrong.
    Key {
        /// The name.
        identity: String,
        /// What OpenSSL found.
        errors: ErrorStack,
    },
    /// The file of keys cannot be used any more.
    Keys(Arc<KeysError>),
    /// The client does not speak TLS, or not as we do, or does not trust us.
    Protocol(ErrorStack),
    /// OpenSSL did not even begin.
    Internal(ErrorStack),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => write!(f, "the connection was lost: {error}"),
            Self::Certificate(result) => {
                write!(f, "the client's certificate is not accepted: {}", result.error_string())
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
            Self::Certificate(_) | Self::Identity(_) => None,
        }
    }
}

/// A complaint of OpenSSL's, for people.
pub(super) fn explain(errors: ErrorStack) -> anyhow::Error {
    anyhow::anyhow!("{}", reasons(&errors))
}

/// OpenSSL's own words, without its file names.
fn reasons(errors: &ErrorStack) -> String {
    let reasons: Vec<&str> = errors.errors().iter().filter_map(|error| error.reason()).collect();
    match reasons.is_empty() {
        true => "OpenSSL does not say why".into(),
        false => reasons.join(", "),
    }
}
