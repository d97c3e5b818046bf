//! Creating the listening sockets, and what is announced of them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpSocket};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use super::background::Ready;
use super::leftovers::Leftovers;
use super::plan::{Address, Family, Listen};
use super::privileges::Identity;
use super::tls::{Credentials, Tls};
use super::unix;
use memnbd::exports::Exports;
use memnbd::nbd::TlsMode;
use memnbd::server::{Endpoint, Listener, Socket, UriTls};

/// The number of attempts to find a port that is free on all addresses of a host.
const FREE_PORT_TRIES: usize = 16;

/// The listen backlog: the maximum number of connections that are not accepted yet. The kernel has
/// a limit of its own. A client beyond the backlog retries after a second, and a short burst
/// exceeds tokio's default of 128.
const BACKLOG: u32 = 4096;

/// The vsock port that stands for a free one (vsock(7)).
const VMADDR_PORT_ANY: u32 = u32::MAX;

/// Bound sockets, and what clients need to find them.
#[derive(Default)]
pub(super) struct Bound {
    pub(super) listeners: Vec<Listener>,
    /// The addresses of the sockets, each with the name of the export to ask for there.
    endpoints: Vec<(Endpoint, String)>,
    /// For each of `endpoints`, whether all exports are served there.
    for_all: Vec<bool>,
    port: Option<u32>,
    unix: Option<PathBuf>,
    private: Vec<PathBuf>,
}

impl Bound {
    /// Listens on all of `sockets`. Their files are given to the user that the process will become.
    pub(super) async fn listen(
        sockets: &[Listen],
        exports: &Exports,
        identity: &Identity,
        leftovers: &Leftovers,
    ) -> anyhow::Result<Self> {
        let mut bound = Self::default();
        for Listen { address, export } in sockets {
            let (view, name) = view(exports, export.as_deref())?;
            let (sockets, endpoint) = bind(address, identity, leftovers).await?;
            if let (Address::Private, Endpoint::Unix(path)) = (address, &endpoint) {
                bound.private.push(path.clone());
            }
            bound.add(sockets, view, endpoint, name);
        }
        Ok(bound)
    }

    /// Takes over inherited sockets. A socket named like an export serves that export alone.
    pub(super) fn inherit(
        sockets: Vec<(Socket, String)>,
        exports: &Exports,
    ) -> anyhow::Result<Self> {
        let mut bound = Self::default();
        for (socket, name) in sockets {
            let named = exports.list().iter().any(|export| export.name() == name);
            let only = (named && !name.is_empty()).then_some(name.as_str());
            let (view, name) = view(exports, only)?;
            let endpoint = Endpoint::of(&socket).context("find the address of a socket")?;
            bound.add(vec![socket], view, endpoint, name);
        }
        Ok(bound)
    }

    /// Makes the URIs of sockets for all exports name this one.
    pub(super) fn ask_for(&mut self, export: &str) {
        let for_all = self.for_all.iter().copied();
        self.endpoints
            .iter_mut()
            .zip(for_all)
            .filter(|(_, for_all)| *for_all)
            .for_each(|((_, name), _)| *name = export.to_owned());
    }

    fn add(
        &mut self,
        sockets: Vec<Socket>,
        exports: Option<Arc<Exports>>,
        endpoint: Endpoint,
        name: String,
    ) {
        let listener = |socket| Listener::new(socket, exports.clone());
        self.listeners.extend(sockets.into_iter().map(listener));
        match &endpoint {
            Endpoint::Tcp(_, port) => _ = self.port.get_or_insert(u32::from(*port)),
            Endpoint::Vsock(port) => _ = self.port.get_or_insert(*port),
            Endpoint::Unix(path) => _ = self.unix.get_or_insert_with(|| path.clone()),
        }
        self.for_all.push(exports.is_none());
        self.endpoints.push((endpoint, name));
    }

    /// Returns the message that announces these sockets when the server is ready.
    pub(super) fn ready(&self, tls: &Tls) -> Ready {
        let in_uris = tls_of_uris(tls);
        let uri = |(endpoint, name): &(Endpoint, String)| endpoint.uri(name, in_uris.as_ref());
        let uris = self.endpoints.iter().map(uri).collect();
        Ready::new(uris, self.port, self.unix.as_deref(), &self.private, tls)
    }
}

/// Listens on a socket for these exports. It is not announced: those whose it is know it. A host may have
/// several addresses, each with a listener of its own.
pub(super) async fn listen_for(
    listen: &Listen,
    exports: &Arc<Exports>,
    identity: &Identity,
    leftovers: &Leftovers,
) -> anyhow::Result<Vec<Listener>> {
    let (sockets, _) = bind(&listen.address, identity, leftovers).await?;
    let listener = |socket| Listener::new(socket, Some(exports.clone()));
    Ok(sockets.into_iter().map(listener).collect())
}

/// Binds a socket. A host may have several addresses.
async fn bind(
    address: &Address,
    identity: &Identity,
    leftovers: &Leftovers,
) -> anyhow::Result<(Vec<Socket>, Endpoint)> {
    Ok(match address {
        Address::Tcp { host, port, family } => bind_tcp(host, *port, *family)
            .await
            .with_context(|| format!("listen on {host} port {port}"))?,
        Address::AllInterfaces { port, family } => {
            let (sockets, port) = bind_port(&every_interface(*port), *family, true)
                .with_context(|| format!("listen on port {port}"))?;
            (sockets, Endpoint::Tcp("localhost".into(), port))
        }
        Address::Unix(path) => {
            let path = std::path::absolute(path).context("find the current directory")?;
            let socket = unix::bind(&path, identity, leftovers)
                .with_context(|| format!("listen on {}", path.display()))?;
            (vec![socket], Endpoint::Unix(path))
        }
        Address::Private => {
            let (socket, path) =
                unix::bind_private(identity, leftovers).context("listen on a private socket")?;
            (vec![socket], Endpoint::Unix(path))
        }
        Address::Vsock { port } => {
            bind_vsock(*port).with_context(|| format!("listen on vsock port {port}"))?
        }
    })
}

/// Returns the exports that a socket serves, `None` for all of them, and the export name for its
/// URI.
fn view(exports: &Exports, export: Option<&str>) -> anyhow::Result<(Option<Arc<Exports>>, String)> {
    let Some(name) = export else {
        let first = exports.find("");
        return Ok((None, first.map_or_else(String::new, |export| export.name().to_owned())));
    };
    match exports.find(name) {
        Some(export) => Ok((Some(Arc::new(exports.narrowed(export))), name.to_owned())),
        None => {
            let exports = exports.list();
            let names: Vec<&str> = exports.iter().map(|export| export.name()).collect();
            bail!("--listen: there is no export {name:?}, only {names:?}")
        }
    }
}

/// Returns what the URIs say of TLS: nothing if it is optional, because not all clients support it.
fn tls_of_uris(tls: &Tls) -> Option<UriTls<'_>> {
    let parameter = match &tls.credentials {
        _ if tls.mode != TlsMode::Require => return None,
        Credentials::Certificates(directory) => Some(("tls-certificates", directory.as_path())),
        Credentials::Keys(file) => Some(("tls-psk-file", file.as_path())),
        _ => None,
    };
    let user = tls.acceptor.as_ref().and_then(|acceptor| acceptor.first_identity());
    Some(UriTls { user, parameter })
}

/// Listens on all addresses of a host on the same port.
async fn bind_tcp(
    host: &str,
    port: u16,
    family: Family,
) -> anyhow::Result<(Vec<Socket>, Endpoint)> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let (sockets, port) = bind_port(&addresses, family, family == Family::V6)?;
    Ok((sockets, Endpoint::Tcp(host.to_owned(), port)))
}

/// Returns the addresses that stand for all interfaces.
fn every_interface(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// Listens on those of the addresses that are in this family. With `separate`, the sockets for IPv6
/// do not accept IPv4.
fn bind_port(
    addresses: &[SocketAddr],
    family: Family,
    separate: bool,
) -> anyhow::Result<(Vec<Socket>, u16)> {
    let wanted = |address: &&SocketAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let addresses: Vec<SocketAddr> = addresses.iter().filter(wanted).copied().collect();
    let port = addresses.first().map_or(0, SocketAddr::port);
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_all(&addresses, separate) {
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

fn bind_all(addresses: &[SocketAddr], separate: bool) -> io::Result<(Vec<Socket>, u16)> {
    let mut sockets: Vec<Socket> = Vec::new();
    let mut seen: Vec<SocketAddr> = Vec::new();
    let mut port = None;
    let mut skipped = None;
    for &address in addresses {
        let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
        if seen.contains(&address) {
            continue;
        }
        match listen_tcp(address, separate) {
            Ok(listener) => {
                let bound = listener.local_addr()?;
                port = Some(bound.port());
                seen.push(bound);
                sockets.push(Socket::Tcp(listener));
            }
            // A machine without IPv6 still has ::1 in its list of hosts.
            Err(error) if is_missing_family(&error) => skipped = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (port, skipped) {
        (Some(port), _) => Ok((sockets, port)),
        (None, Some(error)) => Err(error),
        (None, None) => Err(io::Error::other("the host has no such address")),
    }
}

fn listen_tcp(address: SocketAddr, separate: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if separate && address.is_ipv6() {
        // A socket bound to :: would otherwise accept IPv4 as well.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_missing_family(error: &io::Error) -> bool {
    let missing = [rustix::io::Errno::ADDRNOTAVAIL, rustix::io::Errno::AFNOSUPPORT];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn bind_vsock(port: u32) -> io::Result<(Vec<Socket>, Endpoint)> {
    let port = if port == 0 { VMADDR_PORT_ANY } else { port };
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))?;
    let endpoint = Endpoint::Vsock(listener.local_addr()?.port());
    Ok((vec![Socket::Vsock(listener)], endpoint))
}
