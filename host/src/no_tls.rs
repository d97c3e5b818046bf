//! Takes the place of `tls` where that feature is off: an acceptor that cannot exist.

use std::fmt;
use std::io;

use crate::access::TlsIdentity;

/// There is none.
#[derive(Debug)]
pub enum Acceptor {}

impl Acceptor {
    /// Never called.
    ///
    /// # Errors
    ///
    /// None.
    pub async fn accept<S>(&self, _: S) -> Result<S, Failure> {
        match *self {}
    }

    /// Never called.
    pub fn identity<S>(&self, _: &S) -> TlsIdentity {
        match *self {}
    }

    /// Never called.
    pub fn describe<S>(&self, _: &S) -> String {
        match *self {}
    }
}

/// Why a handshake failed, which none does.
#[derive(Debug)]
pub enum Failure {}

impl Failure {
    pub(crate) fn into_transport(self) -> Result<io::Error, Self> {
        match self {}
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Failure {}
