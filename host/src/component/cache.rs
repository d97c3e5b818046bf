//! The cache of compiled components, kept for the next start in a directory of the user's own.
//!
//! Anyone who can write to the directory could run code in this process, so the directory and each
//! file are checked before anything is read ([`directory`]). Files are written under a temporary
//! name and then renamed: processes that share the cache see whole files or none, without locks.
//! The cache is only an optimization: if anything is wrong with it, components are compiled
//! instead.

mod directory;

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};

use super::artifact::{Artifact, Damage, Key, MAX_FRAME};

/// The limit on the total size of the files, in bytes.
const MAX_TOTAL: u64 = 1 << 30;

/// The suffix of the names of cache entries.
const SUFFIX: &str = ".code";

/// The prefix of the names of files that are being written.
const TEMPORARY: &str = "new-";

/// How long writing a file can take. An older temporary file was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(600);

/// A directory of compiled components.
pub(super) struct Cache {
    directory: OwnedFd,
    max_total: u64,
}

impl Cache {
    /// Makes the directory of a cache if it is not there.
    pub(super) fn make(path: &Path) {
        // Whoever opens it later finds out what is wrong with it.
        let _ = directory::open(path);
    }

    /// Opens the cache in a directory, creating it if needed. Returns `None` if the directory
    /// cannot be used, and logs a warning if using it would be dangerous.
    pub(super) fn open(path: &Path) -> Option<Self> {
        match directory::open(path) {
            Ok(directory) => Some(Self { directory, max_total: MAX_TOTAL }),
            Err(refusal) if refusal.is_danger() => {
                tracing::warn!(
                    "compiled components are not cached, and none are loaded from {}: {refusal}",
                    path.display()
                );
                None
            }
            Err(refusal) => {
                tracing::info!("compiled components are not cached: {refusal}");
                None
            }
        }
    }

    /// Returns the code of a component, if there is a valid cache entry. An invalid one is removed.
    pub(super) fn read(&self, key: &Key) -> Option<Artifact> {
        let name = name(key);
        match self.read_file(&name, key) {
            Ok(artifact) => Some(artifact),
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(unusable) => {
                let text = "a compiled component is not loaded from the cache but made again";
                match &unusable {
                    Unusable::Damaged(_) | Unusable::Io(_) => {
                        tracing::info!("{text}: {name}: {unusable}");
                    }
                    _ => tracing::warn!("{text}: {name}: {unusable}"),
                }
                self.remove(key);
                None
            }
        }
    }

    fn read_file(&self, name: &str, key: &Key) -> Result<Artifact, Unusable> {
        // O_NONBLOCK: if this is a pipe, do not wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(&self.directory, name, flags, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        judge(&stat)?;
        let mut frame = Vec::new();
        // Read no more than the size checked above, plus one byte: the file could be growing.
        frame.reserve_exact(stat.st_size as usize + 1);
        let file = File::from(file);
        (&file).take(stat.st_size as u64 + 1).read_to_end(&mut frame)?;
        let artifact = Artifact::parse(frame, key).map_err(Unusable::Damaged)?;
        // Mark the entry as used: the least recently used ones are removed first.
        let now = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
        let _ = fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
        Ok(artifact)
    }

    /// Stores the code of a component.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written. Nothing of it is left behind then.
    pub(super) fn store(&self, key: &Key, artifact: &Artifact) -> io::Result<()> {
        let frame = artifact.frame();
        if frame.len() as u64 > self.max_total {
            return Ok(());
        }
        self.make_room(frame.len() as u64)?;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY}{}-{number}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = fs::openat(&self.directory, &temporary, flags | OFlags::CLOEXEC, mode)?;
        let written = fs::fchmod(&file, mode).map_err(io::Error::from).and_then(|()| {
            File::from(file).write_all(frame)?;
            fs::renameat(&self.directory, &temporary, &self.directory, name(key))?;
            Ok(())
        });
        if written.is_err() {
            let _ = fs::unlinkat(&self.directory, &temporary, AtFlags::empty());
        }
        written
    }

    /// Removes the code of a component.
    pub(super) fn remove(&self, key: &Key) {
        // If it cannot be removed, it is not loaded either, and the next one stored replaces it.
        let _ = fs::unlinkat(&self.directory, name(key), AtFlags::empty());
    }

    /// Removes the least recently used entries until there is room, and abandoned temporary files.
    fn make_room(&self, wanted: u64) -> io::Result<()> {
        let mut total = wanted;
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = |text: &str| text.ends_with(SUFFIX) || text.starts_with(TEMPORARY);
            if !name.to_str().is_ok_and(is_ours) {
                continue;
            }
            // Another process may have removed it.
            let stat = fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
            let Ok(stat) = stat else { continue };
            let abandoned = name.to_bytes().starts_with(TEMPORARY.as_bytes())
                && age(&stat).is_some_and(|age| age > ABANDONED);
            if abandoned {
                let _ = fs::unlinkat(&self.directory, name, AtFlags::empty());
                continue;
            }
            total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            files.push((stat.st_mtime, stat.st_mtime_nsec, CString::from(name), stat.st_size));
        }
        files.sort();
        for (_, _, name, size) in files {
            if total <= self.max_total {
                break;
            }
            if fs::unlinkat(&self.directory, &name, AtFlags::empty()).is_ok() {
                total = total.saturating_sub(u64::try_from(size).unwrap_or(0));
            }
        }
        match total <= self.max_total {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

fn name(key: &Key) -> String {
    key.hex() + SUFFIX
}

fn age(stat: &Stat) -> Option<Duration> {
    let seconds = u64::try_from(stat.st_mtime).ok()?;
    SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(seconds)).ok()
}

/// Checks that only this user, or root, can have written a file.
fn judge(stat: &Stat) -> Result<(), Unusable> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Unusable::NotRegular);
    }
    if !directory::is_trusted(stat) {
        return Err(Unusable::Owner(stat.st_uid));
    }
    if stat.st_mode & directory::WRITABLE_BY_OTHERS != 0 {
        return Err(Unusable::Writable(stat.st_mode));
    }
    // The count is 0 if another process has just replaced the file.
    if stat.st_nlink > 1 {
        return Err(Unusable::Links);
    }
    if !u64::try_from(stat.st_size).is_ok_and(|size| size <= MAX_FRAME) {
        return Err(Unusable::TooLong);
    }
    Ok(())
}

/// Why a cache entry is not loaded.
#[derive(Debug)]
enum Unusable {
    NotRegular,
    Owner(u32),
    Writable(u32),
    Links,
    TooLong,
    Damaged(Damage),
    Io(io::Error),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for Unusable {
    fn from(error: rustix::io::Errno) -> Self {
        match error {
            // This is how opening a symbolic link with O_NOFOLLOW fails.
            rustix::io::Errno::LOOP => Self::NotRegular,
            error => Self::Io(error.into()),
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegular => f.write_str("it is not a regular file"),
            Self::Owner(owner) => write!(f, "it belongs to user {owner}"),
            Self::Writable(mode) => {
                write!(f, "its mode {:04o} lets others write it", mode & 0o7777)
            }
            Self::Links => f.write_str("it has other names elsewhere"),
            Self::TooLong => write!(f, "it is longer than {} MiB", MAX_FRAME >> 20),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
