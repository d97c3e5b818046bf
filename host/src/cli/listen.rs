//! Where clients will find the server.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::args::Args;
use crate::server::{Listener, SocketFile};

/// The port that IANA assigned to NBD.
const NBD_PORT: u16 = 10809;

/// How often a free port is looked for that is free on all addresses of a name.
const FREE_PORT_TRIES: usize = 16;

/// How many clients may have connected and not been accepted yet; the kernel has a limit, too. Whoever
/// comes beyond that tries again after a second: tokio's own 128 are a short burst.
const BACKLOG: u32 = 4096;

/// What stays as it is in a URI (RFC 3986, unreserved characters and the slash).
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Listens as the options say, and tells the URI of the export (the NBD project's `uri.md`).
pub(super) async fn bind(
    args: &Args,
    export_name: &str,
) -> anyhow::Result<(Vec<Listener>, String)> {
    let export = utf8_percent_encode(export_name, KEPT);
    if let Some(path) = &args.unix {
        let path = std::path::absolute(path).context("find the current directory")?;
        let listener = bind_unix(&path).with_context(|| format!("listen on {}", path.display()))?;
        let socket = path.to_string_lossy();
        let socket = utf8_percent_encode(&socket, KEPT);
        return Ok((vec![listener], format!("nbd+unix:///{export}?socket={socket}")));
    }
    let host = args.ipaddr.as_deref().unwrap_or("localhost");
    let port = args.port.unwrap_or(NBD_PORT);
    let (listeners, port) =
        bind_tcp(host, port).await.with_context(|| format!("listen on {host} port {port}"))?;
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let slash = if export_name.is_empty() { "" } else { "/" };
    Ok((listeners, format!("nbd://{host}:{port}{slash}{export}")))
}

/// Listens on all addresses of a host on the same port.
async fn bind_tcp(host: &str, port: u16) -> anyhow::Result<(Vec<Listener>, u16)> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_all(&addresses) {
            Ok(bound) => return Ok(bound),
            // The free port of the first address may be taken on the second.
            Err(error)
                if port == 0
                    && error.kind() == io::ErrorKind::AddrInUse
                    && tries < FREE_PORT_TRIES => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn bind_all(addresses: &[SocketAddr]) -> io::Result<(Vec<Listener>, u16)> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut seen: Vec<SocketAddr> = Vec::new();
    let mut port = None;
    let mut skipped = None;
    for &address in addresses {
        let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
        if seen.contains(&address) {
            continue;
        }
        match listen_tcp(address) {
            Ok(listener) => {
                let bound = listener.local_addr()?;
                port = Some(bound.port());
                seen.push(bound);
                listeners.push(Listener::Tcp(listener));
            }
            // A machine without IPv6 still has ::1 in its list of hosts.
            Err(error) if is_missing_family(&error) => skipped = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (port, skipped) {
        (Some(port), _) => Ok((listeners, port)),
        (None, Some(error)) => Err(error),
        (None, None) => Err(io::Error::other("the host has no address")),
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_missing_family(error: &io::Error) -> bool {
    let missing = [rustix::io::Errno::ADDRNOTAVAIL, rustix::io::Errno::AFNOSUPPORT];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn bind_unix(path: &Path) -> anyhow::Result<Listener> {
    replace_stale(path)?;
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix(listener, SocketFile(PathBuf::from(path))))
}

/// Removes a socket that nobody listens on any more.
fn replace_stale(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        bail!("the file exists and is not a socket");
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another server listens there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).context("remove the stale socket")
        }
        Err(error) => Err(error.into()),
    }
}
