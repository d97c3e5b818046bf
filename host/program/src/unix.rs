//! Unix domain sockets, and their files.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use tokio::net::UnixListener;

use super::leftovers::Leftovers;
use super::privileges::Identity;
use super::sandbox;
use memnbd::server::{OwnedFile, Socket};

/// How long to wait for other servers that are creating sockets in the same directory.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// Listens at a path. A stale socket there, on which no server listens, is replaced.
pub(super) fn bind(
    path: &Path,
    identity: &Identity,
    leftovers: &Leftovers,
) -> anyhow::Result<Socket> {
    let bound = bind_with(path, identity, leftovers, || UnixListener::bind(path));
    bound.map(|(listener, file)| Socket::Unix(Some(file), listener))
}

/// Listens at a path in a way of the caller's. A stale socket there is replaced.
pub(super) fn bind_with(
    path: &Path,
    identity: &Identity,
    leftovers: &Leftovers,
    listen: impl FnOnce() -> io::Result<UnixListener>,
) -> anyhow::Result<(UnixListener, Arc<OwnedFile>)> {
    let lock = lock_directory_of(path);
    replace_stale(path)?;
    let directory = path.parent().unwrap_or(path);
    let bound = leftovers.create(|| {
        let listener = listen().map_err(|error| sandbox::explained_socket(directory, error))?;
        let file = OwnedFile::new(path)?;
        Ok(((listener, file.clone()), Some(file)))
    })?;
    drop(lock);
    identity.own(path)?;
    Ok(bound)
}

/// Listens in a new directory that only the user who serves can enter, and that is removed with the
/// socket.
pub(super) fn bind_private(
    identity: &Identity,
    leftovers: &Leftovers,
) -> anyhow::Result<(Socket, PathBuf)> {
    let (socket, path) = leftovers.create(|| {
        let (socket, path) = Socket::private()?;
        let file = match &socket {
            Socket::Unix(file, _) => file.clone(),
            _ => None,
        };
        Ok(((socket, path), file))
    })?;
    if let Some(directory) = path.parent() {
        identity.own(directory)?;
    }
    identity.own(&path)?;
    Ok((socket, path))
}

/// Locks the directory of `path`, to keep other servers from replacing a socket that is bound but
/// not listening yet, or that was bound after they found a stale one. Returns `None` if the lock
/// cannot be acquired, since another user may hold it; the caller then goes on without.
fn lock_directory_of(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path.parent()?, flags, Mode::empty()).ok()?;
    let end = Instant::now() + LOCK_LIMIT;
    while flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Some(directory)
}

/// Removes the socket at `path` if no server listens on it any more.
fn replace_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        bail!("the file exists and is not a socket");
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another server listens there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(error.into()),
    }
    let now = std::fs::symlink_metadata(path).context("the stale socket")?;
    if (now.dev(), now.ino()) != (found.dev(), found.ino()) {
        bail!("another server replaced the stale socket");
    }
    std::fs::remove_file(path).context("remove the stale socket")
}
