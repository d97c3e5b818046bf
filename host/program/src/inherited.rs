//! Sockets that the process inherits: by systemd socket activation (sd_listen_fds(3)), and as stdin
//! and stdout.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use rustix::fs::FileType;
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use memnbd::server::Socket;
use memnbd::transport::{self, Stream, StreamSocket};

/// The first inherited file descriptor (SD_LISTEN_FDS_START).
const FIRST: usize = 3;

/// The maximum number of inherited sockets, more than anyone passes in practice.
const MAX: usize = 1024;

/// Returns the number of sockets that this process was started with.
///
/// # Errors
///
/// Returns an error if LISTEN_FDS is not a number from 1 to `MAX`.
pub(super) fn count() -> anyhow::Result<usize> {
    let pid = env::var("LISTEN_PID").ok();
    if pid.is_none_or(|pid| pid != std::process::id().to_string()) {
        return Ok(0);
    }
    let Ok(count) = env::var("LISTEN_FDS") else { return Ok(0) };
    match count.parse() {
        Ok(count @ 1..=MAX) => Ok(count),
        _ => bail!("LISTEN_FDS={count}: it is the number of sockets, 1 to {MAX}"),
    }
}

/// Takes the inherited sockets, each with its name (LISTEN_FDNAMES). systemd makes up a name where
/// none is configured.
pub(super) fn sockets() -> anyhow::Result<Vec<(Socket, String)>> {
    let count = count()?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut fds = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..count {
        let number = FIRST + index;
        let socket = socket(&mut fds, index)
            .with_context(|| format!("file descriptor {number} (LISTEN_FDS={count})"))?;
        sockets.push((socket, names.next().unwrap_or_default().to_owned()));
    }
    Ok(sockets)
}

fn socket(fds: &mut ListenFd, index: usize) -> anyhow::Result<Socket> {
    const EXPECTED: &str = "it is not a listening TCP or Unix domain stream socket";
    if let Ok(Some(listener)) = fds.take_unix_listener(index) {
        if !socket_acceptconn(&listener)? {
            bail!(EXPECTED);
        }
        listener.set_nonblocking(true)?;
        // The process that created the file removes it.
        return Ok(Socket::Unix(None, UnixListener::from_std(listener)?));
    }
    let Ok(Some(listener)) = fds.take_tcp_listener(index) else { bail!(EXPECTED) };
    if !socket_acceptconn(&listener)? {
        bail!(EXPECTED);
    }
    listener.set_nonblocking(true)?;
    Ok(Socket::Tcp(TcpListener::from_std(listener)?))
}

/// Returns the stream of the client on stdin and stdout. These may be a single socket, as with
/// inetd and libnbd, two pipes, or anything else.
pub(super) fn stdio() -> io::Result<Box<dyn Stream>> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let (first, second) = (rustix::fs::fstat(&input)?, rustix::fs::fstat(&output)?);
    let same = (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino);
    if FileType::from_raw_mode(first.st_mode) == FileType::Socket && same {
        return Ok(Box::new(socket_stream(input)?));
    }
    let reader: Box<dyn AsyncRead + Send + Unpin> = match FileType::from_raw_mode(first.st_mode) {
        FileType::Fifo => Box::new(pipe::Receiver::from_owned_fd(input)?),
        FileType::Socket => Box::new(socket_stream(input)?),
        _ => Box::new(tokio::io::stdin()),
    };
    let writer: Box<dyn AsyncWrite + Send + Unpin> = match FileType::from_raw_mode(second.st_mode) {
        FileType::Fifo => Box::new(pipe::Sender::from_owned_fd(output)?),
        FileType::Socket => Box::new(socket_stream(output)?),
        _ => Box::new(tokio::io::stdout()),
    };
    Ok(Box::new(tokio::io::join(reader, writer)))
}

fn socket_stream(fd: OwnedFd) -> io::Result<StreamSocket> {
    if socket_domain(&fd)? == AddressFamily::UNIX {
        let stream = std::os::unix::net::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        return Ok(UnixStream::from_std(stream)?.into());
    }
    let stream = std::net::TcpStream::from(fd);
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    if let Err(error) = transport::set_options(&stream) {
        tracing::debug!("client on stdin: socket options: {error}");
    }
    Ok(stream.into())
}
