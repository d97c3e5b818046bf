//! Unix and TCP sockets alike, inside TLS or not, and the ways in which clients leave.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt;

use openssl::ssl::{Ssl, SslStream};

use crate::support::{LIMIT, Server, wait_until};

/// How long a server may take to say something: far more than it does on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing must come where nothing is expected.
const SILENCE: Duration = Duration::from_millis(40);

/// A connection to a server.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// One of the above, inside TLS.
    Tls(Box<SslStream<Stream>>),
}

impl Stream {
    /// Connects to the socket in the server's directory, else to the port of its URI.
    pub(crate) fn connect(server: &Server) -> Self {
        let stream = match UnixStream::connect(server.socket()) {
            Ok(stream) => Self::Unix(stream),
            Err(_) => {
                let stream = TcpStream::connect(("localhost", server.port()));
                let stream = stream.expect("it listens");
                stream.set_nodelay(true).expect("TCP has it");
                Self::Tcp(stream)
            }
        };
        stream.set_timeout(Some(PATIENCE));
        stream
    }

    /// Connects to a Unix socket, once somebody listens there.
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let mut stream = None;
        wait_until(LIMIT, || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        let stream = Self::Unix(stream.expect("somebody listens"));
        stream.set_timeout(Some(PATIENCE));
        stream
    }

    /// Starts TLS.
    pub(crate) fn into_tls(self, ssl: Ssl) -> Result<Self, openssl::ssl::Error> {
        let mut stream = SslStream::new(ssl, self).expect("there is memory");
        stream.connect()?;
        Ok(Self::Tls(Box::new(stream)))
    }

    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) {
        let set = match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            Self::Tls(stream) => return stream.get_ref().set_timeout(timeout),
        };
        set.expect("sockets have timeouts");
    }

    pub(crate) fn try_clone(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().expect("fds are left")),
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("fds are left")),
            Self::Tls(_) => panic!("two cannot use the same keys"),
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&mut self) {
        let done = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.shutdown().map(drop).map_err(io::Error::other),
        };
        done.expect("it is connected");
    }

    /// Goes without good-bye: over TCP the server gets a reset, whatever is on its way is lost.
    pub(crate) fn reset(self) {
        if let Self::Tcp(stream) = &self {
            sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("TCP has it");
        }
    }

    /// Reads until the server closes the connection. A reset is an end as good as any.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server did not hang up: {error}"),
        }
        rest
    }

    /// The server closes the connection without having said anything more.
    pub(crate) fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "before the end came {rest:02x?}");
    }

    /// The server says nothing, and does not close the connection either.
    pub(crate) fn expect_silence(&mut self) {
        self.set_timeout(Some(SILENCE));
        match self.read(&mut [0; 16]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => panic!("there should be nothing to read: {other:?}"),
        }
        self.set_timeout(Some(PATIENCE));
    }

    /// The next bytes.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{N} bytes: {error}"));
        bytes
    }

    pub(crate) fn take_vec(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        bytes
    }

    pub(crate) fn take_u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    pub(crate) fn take_u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(crate) fn take_u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.write_all(bytes).expect("the server is there");
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().as_fd(),
        }
    }
}
