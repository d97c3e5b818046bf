//! The combined meaning of the options: where the server listens, and how it runs. Contradictory
//! options are reported here, or earlier by clap, and so before anything starts.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Failure;
use super::args::{Args, Listening};
use super::nbdkit::Manner;

/// The port that IANA assigned to NBD. nbdkit uses it for vsock as well.
const NBD_PORT: u16 = 10809;

/// How the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life<'a> {
    /// In the foreground.
    Foreground,
    /// In the background, once it is ready.
    Background,
    /// For as long as this shell command runs.
    Captive(&'a OsStr),
}

/// Where clients come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientSource {
    /// One client, on stdin and stdout.
    Single,
    /// From sockets that this process was started with.
    Inherited,
    /// From sockets that are to be created.
    Listen(Vec<Listen>),
}

/// A socket that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) address: Address,
    /// The only export that this socket serves, or `None` for all of them.
    pub(super) export: Option<String>,
}

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// All IP addresses of a host in this family. Port 0 picks a free port.
    Tcp { host: String, port: u16, family: Family },
    /// All IP addresses of this machine in this family.
    AllInterfaces { port: u16, family: Family },
    /// A Unix domain socket at this path.
    Unix(PathBuf),
    /// A Unix domain socket in a new directory that no other user can enter.
    Private,
    /// A vsock port, for virtual machines on this machine and for the machine that this one runs
    /// on. Port 0 picks a free port.
    Vsock { port: u32 },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::AllInterfaces { port, .. } => write!(f, "port {port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Private => f.write_str("a private socket"),
            Self::Vsock { port } => write!(f, "vsock:{port}"),
        }
    }
}

/// The IP addresses of a host name to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// Returns how the server is to run.
pub(super) fn life(args: &Args, inherited: bool) -> Life<'_> {
    let life = &args.life;
    if let Some(command) = &life.run {
        return Life::Captive(command);
    }
    let stay = life.foreground || life.exit_with_parent || args.listening.single || inherited;
    let by_default = life.pidfile.is_some() || args.manner == Manner::Nbdkit;
    match life.fork || (by_default && !stay) {
        true => Life::Background,
        false => Life::Foreground,
    }
}

/// Returns where clients come from.
///
/// # Errors
///
/// Returns an error if options contradict each other, or an address is invalid.
pub(super) fn client_source(args: &Args, inherited: bool) -> Result<ClientSource, Failure> {
    let listening = &args.listening;
    if inherited {
        return match conflict_with_inherited(args) {
            Some(option) => Err(Failure::Usage(format!(
                "{option} has no place where the sockets come from whoever started the program \
                 (LISTEN_PID and LISTEN_FDS are set, see systemd.socket(5))"
            ))),
            None => Ok(ClientSource::Inherited),
        };
    }
    if listening.single {
        return Ok(ClientSource::Single);
    }
    let mut sockets = Vec::new();
    if let Some(address) = main_address(args)? {
        sockets.push(Listen { address, export: None });
    }
    for text in &listening.listen {
        let listen = listen(text, family(listening)).map_err(|problem| {
            Failure::Usage(format!("--listen {}: {problem}", text.to_string_lossy()))
        })?;
        sockets.push(listen);
    }
    Ok(ClientSource::Listen(sockets))
}

fn conflict_with_inherited(args: &Args) -> Option<&'static str> {
    let Listening { port, ipaddr, ipv4_only, ipv6_only, unix, vsock, listen, single } =
        &args.listening;
    [
        (port.is_some(), "-p"),
        (ipaddr.is_some(), "-i"),
        (*ipv4_only, "-4"),
        (*ipv6_only, "-6"),
        (unix.is_some(), "-U"),
        (*vsock, "--vsock"),
        (!listen.is_empty(), "--listen"),
        (*single, "--single"),
        (args.life.run.is_some(), "--run"),
        (args.life.fork, "--fork"),
    ]
    .into_iter()
    .find_map(|(given, option)| given.then_some(option))
}

fn family(listening: &Listening) -> Family {
    match (listening.ipv4_only, listening.ipv6_only) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        (false, false) => Family::Any,
    }
}

/// Returns the address given by the options other than --listen, or the default. Returns `None` if
/// only --listen gives addresses.
fn main_address(args: &Args) -> Result<Option<Address>, Failure> {
    let Listening { port, ipaddr, unix, vsock, listen, .. } = &args.listening;
    if let Some(path) = unix {
        return Ok(Some(match path.as_os_str() == "-" {
            true => Address::Private,
            false => Address::Unix(path.clone()),
        }));
    }
    if *vsock {
        return Ok(Some(Address::Vsock { port: port.unwrap_or(NBD_PORT.into()) }));
    }
    let family = family(&args.listening);
    if port.is_none() && ipaddr.is_none() {
        if !listen.is_empty() {
            return Ok(None);
        }
        if args.life.run.is_some() && family == Family::Any {
            return Ok(Some(Address::Private));
        }
    }
    let port = port.unwrap_or(NBD_PORT.into());
    let port = u16::try_from(port)
        .map_err(|_| Failure::Usage(format!("-p {port}: TCP has the ports 0 to 65535")))?;
    if args.manner == Manner::Nbdkit && ipaddr.is_none() {
        return Ok(Some(Address::AllInterfaces { port, family }));
    }
    // Not every machine has an IPv6 address for localhost.
    let local = if family == Family::V6 { "::1" } else { "localhost" };
    let host = ipaddr.clone().unwrap_or_else(|| local.into());
    Ok(Some(Address::Tcp { host, port, family }))
}

/// Parses the address of a socket for the disks of a tenant. Relative paths begin at a directory.
pub(super) fn listen_for(text: &OsStr, directory: &Path) -> Result<Listen, String> {
    let Listen { mut address, export } = listen(text, Family::Any)?;
    if let Address::Unix(path) = &mut address {
        *path = directory.join(&*path);
    }
    match export {
        None => Ok(Listen { address, export }),
        Some(_) => Err("the socket is for all disks of the tenant; leave out export=".into()),
    }
}

/// Parses `ADDRESS[,export=NAME]`.
fn listen(text: &OsStr, family: Family) -> Result<Listen, String> {
    let bytes = text.as_bytes();
    const EXPORT: &[u8] = b",export=";
    let found = bytes.windows(EXPORT.len()).position(|part| part == EXPORT);
    let (address, export) = match found {
        Some(at) => (&bytes[..at], Some(&bytes[at + EXPORT.len()..])),
        None => (bytes, None),
    };
    let export = export.map(|name| String::from_utf8(name.to_vec())).transpose();
    let export = export.map_err(|_| "the name of an export is UTF-8")?;
    Ok(Listen { address: address_of(OsStr::from_bytes(address), family)?, export })
}

fn address_of(text: &OsStr, family: Family) -> Result<Address, String> {
    const FORMS: &str = "it is written HOST:PORT, unix:PATH or vsock:PORT";
    if let Some(path) = text.as_bytes().strip_prefix(b"unix:") {
        return match path {
            b"" => Err("the path is missing".into()),
            b"-" => Ok(Address::Private),
            path => Ok(Address::Unix(Path::new(OsStr::from_bytes(path)).to_owned())),
        };
    }
    let text = text.to_str().ok_or(FORMS)?;
    if let Some(port) = text.strip_prefix("vsock:") {
        let port = port.parse().map_err(|_| "vsock has the ports 0 to 4294967295")?;
        return Ok(Address::Vsock { port });
    }
    let (host, port) = text.rsplit_once(':').ok_or(FORMS)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host,
        None if host.contains(':') => {
            return Err("an IPv6 address is written in brackets: [::1]:10809".into());
        }
        None => host,
    };
    if host.is_empty() {
        return Err(FORMS.into());
    }
    let port = port.parse().map_err(|_| "TCP has the ports 0 to 65535")?;
    Ok(Address::Tcp { host: host.into(), port, family })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn args(typed: &[&str]) -> Args {
        Args::try_parse_from(["memnbd-host"].iter().chain(typed)).unwrap()
    }

    fn addresses(typed: &[&str]) -> Vec<Address> {
        match client_source(&args(typed), false) {
            Ok(ClientSource::Listen(sockets)) => {
                sockets.into_iter().map(|socket| socket.address).collect()
            }
            Ok(other) => panic!("{other:?}"),
            Err(failure) => panic!("{failure}"),
        }
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port, family: Family::Any }
    }

    #[test]
    fn it_listens_where_it_is_told_and_nowhere_else() {
        assert_eq!(addresses(&[]), [tcp("localhost", 10809)]);
        assert_eq!(addresses(&["-p", "1"]), [tcp("localhost", 1)]);
        assert_eq!(addresses(&["-i", "::1"]), [tcp("::1", 10809)]);
        assert_eq!(addresses(&["-U", "s"]), [Address::Unix("s".into())]);
        assert_eq!(addresses(&["-U", "-"]), [Address::Private]);
        assert_eq!(addresses(&["--vsock"]), [Address::Vsock { port: 10809 }]);
        assert_eq!(addresses(&["--vsock", "-p", "70000"]), [Address::Vsock { port: 70000 }]);
        assert_eq!(addresses(&["--run", "true"]), [Address::Private]);
        assert_eq!(addresses(&["--run", "true", "-p", "0"]), [tcp("localhost", 0)]);
        let v6 = Address::Tcp { host: "::1".into(), port: 10809, family: Family::V6 };
        assert_eq!(addresses(&["-4", "-6"]), [v6]);
        assert_eq!(
            addresses(&["--listen", "unix:/a b", "--listen", "[::1]:2", "--listen", "vsock:3"]),
            [Address::Unix("/a b".into()), tcp("::1", 2), Address::Vsock { port: 3 }]
        );
        assert_eq!(
            addresses(&["--listen", "unix:s", "-p", "1"]),
            [tcp("localhost", 1), Address::Unix("s".into())]
        );
    }

    #[test]
    fn socket_may_be_for_one_export() {
        let source = client_source(&args(&["--listen", "unix:s,export=a,b=c"]), false);
        let Ok(ClientSource::Listen(sockets)) = source else { panic!("not understood") };
        let export = Some("a,b=c".to_owned());
        assert_eq!(sockets, [Listen { address: Address::Unix("s".into()), export }]);
    }

    #[test]
    fn addresses_that_make_no_sense_are_told() {
        for (text, words) in [
            ("localhost", "HOST:PORT"),
            (":1", "HOST:PORT"),
            ("::1:2", "brackets"),
            ("a:65536", "65535"),
            ("unix:", "path"),
            ("vsock:x", "4294967295"),
        ] {
            let failure = client_source(&args(&["--listen", text]), false).unwrap_err().to_string();
            assert!(failure.contains(words) && failure.contains(text), "{failure}");
        }
        assert!(client_source(&args(&["-p", "65536"]), false).is_err());
    }

    #[test]
    fn inherited_sockets_are_all_there_is() {
        assert!(matches!(client_source(&args(&[]), true), Ok(ClientSource::Inherited)));
        for typed in [&["-p", "1"][..], &["-U", "s"], &["-s"], &["--run", "true"], &["-4"]] {
            let failure = client_source(&args(typed), true).unwrap_err().to_string();
            assert!(failure.contains("LISTEN_FDS"), "{failure}");
        }
    }

    #[test]
    fn it_goes_to_the_background_only_when_told() {
        let lives = |typed: &[&str]| match life(&args(typed), false) {
            Life::Foreground => 'f',
            Life::Background => 'b',
            Life::Captive(_) => 'c',
        };
        assert_eq!(lives(&[]), 'f');
        assert_eq!(lives(&["-P", "p"]), 'b');
        assert_eq!(lives(&["--fork"]), 'b');
        assert_eq!(lives(&["-P", "p", "-f"]), 'f');
        assert_eq!(lives(&["-P", "p", "--exit-with-parent"]), 'f');
        assert_eq!(lives(&["-P", "p", "-s"]), 'f');
        assert_eq!(lives(&["-P", "p", "--run", "true"]), 'c');
        assert_eq!(life(&args(&["-P", "p"]), true), Life::Foreground);
    }
}
