//! A server inside a program of your own, such as a test suite: [`Server::builder`].
//!
//! ```
//! use memnbd::Server;
//!
//! # fn main() -> Result<(), memnbd::StartError> {
//! let server = Server::builder().memory("64M").tcp("127.0.0.1:0".parse().unwrap()).start()?;
//! let address = server.tcp_address().unwrap();
//! assert_eq!(server.uri(), format!("nbd://{address}/memory"));
//! # Ok(())
//! # }
//! ```
//!
//! It has threads of its own, so it can be used with or without an async runtime. Only components that
//! are built in can be served, beside devices of the program itself: components from files are
//! compiled by a child process, which the command `memnbd-host` alone can be.

mod supply;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use crate::component::{BuiltIn, Engine, LoadError};
use crate::connection::Patience;
use crate::device::{Device, LowerError};
#[cfg(doc)]
use crate::exports::Export;
use crate::exports::{DuplicateName, Exports, Failed, KnownExports, ProcessBudgets};
use crate::machine;
use crate::nbd::HandshakeConfig;
use crate::output::Outputs;
use crate::parameters::ArgumentError;
use crate::server::{Endpoint, Handle, Listener, Options, OwnedFile, Server, Socket, Unflushed};
use supply::{Backend, Layer, Maker, Supply};

/// The longest that a call of a component may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a client may take for the handshake, and may stall in the middle of a request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long flushing all disks may take in the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

impl Server {
    /// Returns the builder of a server with threads of its own.
    pub fn builder() -> Builder {
        Builder {
            exports: Vec::new(),
            address: Address::UnixPrivate,
            max_memory: machine::memory(),
            threads: 1,
        }
    }
}

/// The configuration of a server with threads of its own.
#[must_use = "a server runs only after `start`"]
pub struct Builder {
    exports: Vec<Supply>,
    address: Address,
    max_memory: u64,
    threads: usize,
}

/// Where a server listens.
enum Address {
    UnixPrivate,
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Builder {
    /// Serves a sparse disk in memory as the export "memory". The size is in bytes, or has a suffix, as
    /// in "2G"; the command's help tells which there are.
    pub fn memory(self, size: &str) -> Self {
        self.component("memory", "memory", &[("size", size)])
    }

    /// Serves a built-in component, with these parameters, as an export of this name. The first export
    /// is the one that clients get who ask for the empty name. A parameter can name another export, or a
    /// file to read or to write to, as on the command line; one that is a secret has to be the secret itself.
    pub fn component(self, export: &str, name: &str, parameters: &[(&str, &str)]) -> Self {
        self.export(export, Backend::Component(Layer::new(name, parameters)))
    }

    /// Serves a regular file or a block device as an export of this name. It is not created.
    pub fn file(self, export: &str, path: impl Into<PathBuf>) -> Self {
        self.export(export, Backend::File { path: path.into(), read_only: false })
    }

    /// Serves a device of the program as an export of this name.
    pub fn device(self, export: &str, device: Arc<dyn Device>) -> Self {
        self.export(export, Backend::Device(device))
    }

    fn export(mut self, export: &str, backend: Backend) -> Self {
        self.exports.push(Supply { export: export.to_owned(), backend, filters: Vec::new() });
        self
    }

    /// Puts a built-in filter, with these parameters, between the clients and the export that was added
    /// last. A second one is nearer to the clients than the first. [`Export::controls`] changes the
    /// parameters of some while they are in use.
    ///
    /// ```
    /// use memnbd::Server;
    ///
    /// # fn main() -> Result<(), memnbd::StartError> {
    /// let server = Server::builder()
    ///     .memory("64M")
    ///     .filter("delay", &[("rdelay", "10ms")])
    ///     .filter("error", &[("error-pwrite-rate", "1%")])
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if there is no export yet.
    pub fn filter(mut self, name: &str, parameters: &[(&str, &str)]) -> Self {
        let last = self.exports.last_mut().expect("a filter comes after the export that it is for");
        last.filters.push(Layer::new(name, parameters));
        self
    }

    /// Listens on a Unix domain socket in a new directory that only this user can enter, and that is
    /// removed when the server stops. This is the default.
    pub fn unix_private(mut self) -> Self {
        self.address = Address::UnixPrivate;
        self
    }

    /// Listens on a Unix domain socket at this path, instead of a private one. Nothing may be there yet;
    /// the socket is removed when the server stops. Who may connect is up to the permissions of the
    /// directory, and to the umask.
    pub fn unix(mut self, path: impl Into<PathBuf>) -> Self {
        self.address = Address::Unix(path.into());
        self
    }

    /// Listens on this TCP address, instead of a private Unix domain socket. Port 0 lets the system choose
    /// one. Whoever can reach the address can read and write the disks.
    pub fn tcp(mut self, address: SocketAddr) -> Self {
        self.address = Address::Tcp(address);
        self
    }

    /// Bounds the memory of all disks and requests together, in bytes; by default it is 7/8 of the
    /// machine's, or of the control group's.
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Sets the number of threads that serve requests, in addition to one for each busy connection; by
    /// default it is one.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Opens the disks and serves them.
    ///
    /// # Errors
    ///
    /// Returns an error if a disk cannot be opened, two exports have the same name, or the socket or the
    /// threads cannot be created.
    pub fn start(self) -> Result<Running, StartError> {
        let (started, starting) = mpsc::sync_channel(1);
        let serve = move || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = match builder.worker_threads(self.threads).enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(error.into()));
                    return Ok(());
                }
            };
            let served = runtime.block_on(async {
                match self.open().await {
                    Ok((server, listener, endpoint)) => {
                        // Both are waited for, so this cannot fail.
                        let _ = started.send(Ok((server.handle(), endpoint)));
                        server.run(vec![listener], std::future::pending()).await
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        Ok(())
                    }
                }
            });
            // A guest that is stuck in its last call must not keep the program waiting.
            runtime.shutdown_background();
            served
        };
        let thread = thread::Builder::new().name("memnbd".into()).spawn(serve)?;
        match starting.recv() {
            Ok(Ok((handle, endpoint))) => Ok(Running { handle, endpoint, thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the thread of the server has panicked").into()),
        }
    }

    async fn open(self) -> Result<(Server, Listener, Endpoint), StartError> {
        let engine = Engine::new(DEADLINE);
        let process = ProcessBudgets::new(self.max_memory, None, self.exports.len());
        let known = KnownExports::default();
        let maker = Maker { engine: &engine, known: &known, outputs: Outputs::default() };
        let mut list = Vec::new();
        for supply in self.exports {
            list.push(maker.export(supply, process.export()).await?);
        }
        let exports = Arc::new(Exports::new(list).map_err(StartError::DuplicateName)?);
        // Nobody else sets it.
        let _ = known.set(Arc::downgrade(&exports));
        for export in exports.list() {
            let opened = export.start(true).await;
            let name = || export.name().to_owned();
            opened.map_err(|failed| StartError::Export { name: name(), failed })?;
        }
        let (socket, endpoint) = self.address.bind().await?;
        let server = Server::new(exports, options());
        Ok((server, Listener::new(socket, None), endpoint))
    }
}

impl Address {
    async fn bind(self) -> io::Result<(Socket, Endpoint)> {
        match self {
            Self::UnixPrivate => {
                let (socket, path) = Socket::private()?;
                Ok((socket, Endpoint::Unix(path)))
            }
            Self::Unix(path) => {
                // A URI has no current directory.
                let path = std::path::absolute(path)?;
                let listener = UnixListener::bind(&path)?;
                let file = OwnedFile::new(&path)?;
                Ok((Socket::Unix(Some(file), listener), Endpoint::Unix(path)))
            }
            Self::Tcp(address) => {
                let socket = Socket::Tcp(TcpListener::bind(address).await?);
                let endpoint = Endpoint::of(&socket)?;
                Ok((socket, endpoint))
            }
        }
    }
}

fn options() -> Options {
    Options {
        handshake: HandshakeConfig::default(),
        tls: None,
        handshake_timeout: Some(HANDSHAKE_TIMEOUT),
        max_connections: None,
        max_connections_per_export: None,
        patience: Patience { stalled: Some(STALL_TIMEOUT), idle: None },
        shutdown_timeout: SHUTDOWN_TIMEOUT,
        exit_last: false,
        entrance: None,
    }
}

/// A server that runs. Dropping it stops the server, waits until it has stopped, and removes its socket.
pub struct Running {
    handle: Handle,
    endpoint: Endpoint,
    /// `None` after it was joined.
    thread: Option<JoinHandle<Result<(), Unflushed>>>,
}

impl Running {
    /// Returns the URI of the first export (the NBD project's `uri.md`).
    pub fn uri(&self) -> String {
        let default = self.handle.export("");
        self.uri_of(default.as_ref().map_or("", |export| export.name()))
    }

    /// Returns the URI of the export of this name.
    pub fn uri_of(&self, export: &str) -> String {
        self.endpoint.uri(export, None)
    }

    /// Returns the path of the Unix domain socket, unless the server listens on TCP.
    pub fn unix_socket(&self) -> Option<&Path> {
        match &self.endpoint {
            Endpoint::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Returns the TCP address of the server, if it has one, with the port that the system chose.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.endpoint {
            Endpoint::Tcp(host, port) => Some(SocketAddr::new(host.parse().ok()?, *port)),
            _ => None,
        }
    }

    /// Returns a handle to the server.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops the server: requests under way have a second to finish, then all disks are flushed.
    ///
    /// # Errors
    ///
    /// Returns an error if a disk could not be flushed.
    pub fn stop(mut self) -> Result<(), Unflushed> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Unflushed> {
        self.handle.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(stopped)) => stopped,
            // After a panic, which has been printed, it is unknown what was flushed.
            Some(Err(_)) | None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The server has logged it, and `stop` returns it.
        let _ = self.end();
    }
}

/// Why a server was not started.
#[derive(Debug)]
pub enum StartError {
    /// There is no built-in component of this name.
    UnknownComponent(String),
    /// A built-in component could not be loaded.
    Load(LoadError),
    /// The parameters of an export's component are not in order.
    Arguments {
        /// The name of the export.
        name: String,
        /// The reason.
        error: ArgumentError,
    },
    /// A component that is no filter was to be one.
    NotAFilter(String),
    /// The file of an export could not be opened.
    Device {
        /// The name of the export.
        name: String,
        /// The reason.
        error: LowerError,
    },
    /// The disk of an export could not be opened.
    Export {
        /// The name of the export.
        name: String,
        /// The reason.
        failed: Failed,
    },
    /// Two exports have the same name.
    DuplicateName(DuplicateName),
    /// The socket or the threads could not be created.
    Io(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownComponent(name) => {
                let names: Vec<_> = BuiltIn::ALL.iter().map(BuiltIn::name).collect();
                let names = names.join(", ");
                write!(f, "unknown component {name:?}; the built-in components are {names}")
            }
            Self::Load(error) => write!(f, "load a built-in component: {error}"),
            Self::Arguments { name, error } => write!(f, "export {name:?}: {error}"),
            Self::NotAFilter(name) => {
                write!(f, "{name} is not a filter: it has no parameter \"base\" of the type device")
            }
            Self::Device { name, error } => write!(f, "export {name:?}: {}", error.message),
            Self::Export { name, failed } => write!(f, "export {name:?}: {failed}"),
            Self::DuplicateName(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::num::NonZeroU64;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;
    use crate::rate::{Rates, Scope};

    /// The size of an export, as a client learns it that asks for nothing else.
    fn size(server: &Running, export: &str) -> u64 {
        let mut client = UnixStream::connect(server.unix_socket().unwrap()).unwrap();
        let mut request = [&[0, 0, 0, 3], &b"IHAVEOPT"[..], &[0, 0, 0, 1]].concat();
        request.extend((export.len() as u32).to_be_bytes());
        request.extend(export.as_bytes());
        client.write_all(&request).unwrap();
        let mut reply = [0; 28];
        client.read_exact(&mut reply).unwrap();
        u64::from_be_bytes(reply[18..26].try_into().unwrap())
    }

    #[test]
    fn disks_are_served_until_the_server_is_dropped() {
        let server = Server::builder()
            .memory("2G")
            .component("of numbers", "pattern", &[("size", "1M")])
            .start()
            .unwrap();
        assert_eq!(size(&server, ""), 2 << 30);
        assert_eq!(size(&server, "of numbers"), 1 << 20);
        assert!(server.uri_of("of numbers").starts_with("nbd+unix:///of%20numbers?socket=/"));
        let socket = server.unix_socket().unwrap().to_owned();
        drop(server);
        assert!(!socket.exists() && !socket.parent().unwrap().exists());
    }

    #[tokio::test]
    async fn disks_come_and_go_while_it_runs() {
        let server = Server::builder().memory("1M").start().unwrap();
        let other =
            Server::builder().component("new", "memory", &[("size", "3M")]).start().unwrap();
        let handle = server.handle();
        handle.add(other.handle().export("new").unwrap()).unwrap();
        assert_eq!([size(&server, "memory"), size(&server, "new")], [1 << 20, 3 << 20]);
        let limit = Duration::from_secs(10);
        handle.remove("memory", limit).await.unwrap();
        assert!(handle.export("").is_none(), "the default has no successor");
        assert_eq!(size(&server, "new"), 3 << 20);
        let names: Vec<_> = handle.exports().iter().map(|e| e.name().to_owned()).collect();
        assert_eq!(names, ["new"]);
    }

    #[test]
    fn a_server_listens_where_it_was_told_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a socket");
        let server = Server::builder().memory("1M").unix(&path).start().unwrap();
        assert_eq!(size(&server, "memory"), 1 << 20);
        assert!(server.uri().ends_with("/a%20socket") && server.tcp_address().is_none());
        let taken = Server::builder().memory("1M").unix(&path).start();
        assert!(matches!(taken, Err(StartError::Io(_))));
        assert!(path.exists(), "the socket of another server is left alone");
        drop(server);
        assert!(!path.exists());

        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::builder().memory("1M").tcp(address).unix_private().start().unwrap();
        assert!(server.unix_socket().is_some(), "the last address counts");
    }

    #[tokio::test]
    async fn a_program_with_a_runtime_of_its_own_can_have_several() {
        let servers = [1, 2].map(|_| Server::builder().memory("1M").threads(2).start().unwrap());
        assert_ne!(servers[0].uri(), servers[1].uri());
        for server in servers {
            assert_eq!(size(&server, "memory"), 1 << 20);
            assert_eq!(server.stop(), Ok(()));
        }
    }

    #[tokio::test]
    async fn filters_stand_between_an_export_and_its_clients() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, [0; 8192]).unwrap();
        let server = Server::builder()
            .component("view", "offset", &[("base", "disk"), ("range", "4k")])
            .memory("64k")
            .filter("offset", &[("range", "32k")])
            .filter("error", &[("error-rate", "0")])
            .file("disk", &path)
            .start()
            .unwrap();
        assert_eq!(size(&server, "view"), 4096);
        assert_eq!(size(&server, "memory"), 32768);
        assert_eq!(size(&server, "disk"), 8192);
        let controls = server.handle().export("memory").unwrap().controls();
        let [error] = &controls[..] else { panic!("one takes commands") };
        assert_eq!(error.execute("set", &["error-rate=1%".into()]).await.unwrap(), "");
        assert!(error.execute("set", &["error-rate=2".into()]).await.is_err());
    }

    #[test]
    fn limits_of_an_export_can_be_changed_while_it_is_used() {
        let server = Server::builder().memory("1M").start().unwrap();
        let export = server.handle().export("memory").unwrap();
        let mut client = UnixStream::connect(server.unix_socket().unwrap()).unwrap();
        // The client's flags, and EXPORT_NAME.
        client.write_all(&[0, 0, 0, 3]).unwrap();
        client.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
        client.read_exact(&mut [0; 28]).unwrap();
        let rates = |requests| Rates {
            bits: None,
            requests: NonZeroU64::new(requests),
            burst: Duration::ZERO,
        };
        // NBD_CMD_FLUSH.
        let flush = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0, 0, 3], &[0; 20]].concat();
        let mut time = |count: usize| {
            let start = Instant::now();
            client.write_all(&flush.repeat(count)).unwrap();
            client.read_exact(&mut vec![0; 16 * count]).unwrap();
            start.elapsed()
        };
        export.limits().set(Scope::Export, rates(100));
        assert!(time(21) >= Duration::from_millis(190));
        export.limits().set(Scope::Export, Rates::default());
        assert!(!export.limits().rates(Scope::Export).burst.is_zero());
        assert!(time(1000) < Duration::from_secs(9), "1000 would take 10 s");
    }

    #[test]
    fn allocators_of_memory_can_be_chosen() {
        for allocator in ["sparse", "zstd", "malloc"] {
            let parameters = [("size", "1M"), ("allocator", allocator)];
            let builder = Server::builder().component("a", "memory", &parameters);
            assert_eq!(size(&builder.start().unwrap(), "a"), 1 << 20, "{allocator}");
        }
    }

    #[test]
    fn mistakes_are_reported() {
        let error = |builder: Builder| builder.start().err().unwrap().to_string();
        assert!(error(Server::builder().memory("2Q")).contains("2Q"));
        let unknown = error(Server::builder().component("a", "memroy", &[]));
        assert!(
            unknown.contains("\"memroy\"") && unknown.contains("memory, memory-zstd"),
            "{unknown}"
        );
        let no_filter = error(Server::builder().memory("1M").filter("memory", &[]));
        assert!(no_filter.starts_with("memory is not a filter"), "{no_filter}");
        let no_file = error(Server::builder().file("disk", "/nonexistent/file"));
        assert!(no_file.contains("\"disk\": /nonexistent/file: "), "{no_file}");
        let twice = error(Server::builder().memory("1M").memory("2M"));
        assert_eq!(twice, "two exports have the name \"memory\"");
    }
}
