//! Where the client of a connection comes from.

use std::fmt;
use std::net::SocketAddr;

use tokio::net::unix::UCred;
#[cfg(feature = "vsock")]
use tokio_vsock::VsockAddr;

use crate::access::{Origin, Process};

/// The client of a connection, as the socket tells.
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix(Option<UCred>),
    #[cfg(feature = "vsock")]
    Vsock(VsockAddr),
    Stdio,
    /// One whose stream the embedder provides, and what it is called.
    Given(Box<str>, Origin),
}

impl Peer {
    /// Returns where the client comes from, for the rules of who may use an export.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Tcp(address) => Origin::Ip(address.ip()),
            Self::Unix(process) => Origin::Unix(process.map(|process| Process {
                pid: process.pid(),
                uid: process.uid(),
                gid: process.gid(),
            })),
            #[cfg(feature = "vsock")]
            Self::Vsock(address) => Origin::Vsock { cid: address.cid(), port: address.port() },
            Self::Stdio => Origin::Unknown,
            Self::Given(_, origin) => *origin,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(process)) => {
                write!(f, "(Unix socket, user {}", process.uid())?;
                match process.pid() {
                    Some(pid) => write!(f, ", process {pid})"),
                    None => f.write_str(")"),
                }
            }
            Self::Unix(None) => f.write_str("(Unix socket)"),
            #[cfg(feature = "vsock")]
            Self::Vsock(address) => write!(f, "{address} (vsock)"),
            Self::Stdio => f.write_str("(stdin)"),
            Self::Given(name, _) => f.write_str(name),
        }
    }
}
