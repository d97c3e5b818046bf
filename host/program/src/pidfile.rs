//! The pidfile, which holds the process ID of the server once it is ready.
//!
//! Its directory may be writable by other users, as /tmp is. So links of other users are not
//! followed, and their files are not written to.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::fs::OFlags;

use super::leftovers::Leftovers;
use memnbd::server::OwnedFile;

/// A pidfile that is still to be written.
pub(super) struct Pidfile {
    path: PathBuf,
    target: Target,
}

enum Target {
    /// A new file, which is created atomically with its content.
    New,
    /// A file that was opened by the user who started the process. It is empty until the process ID
    /// is written.
    Opened(File, Arc<OwnedFile>),
    /// A pipe or a terminal, such as /dev/stdout.
    Special(File),
}

impl Pidfile {
    /// Prepares a pidfile. If the process is about to change its user, the file is opened now,
    /// because the new user may not have permission to.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened or must not be written to.
    pub(super) fn prepare(
        path: &Path,
        changes_user: bool,
        leftovers: &Leftovers,
    ) -> anyhow::Result<Self> {
        let prepared = Self::try_prepare(path, changes_user, leftovers);
        prepared.with_context(|| format!("write {}", path.display()))
    }

    fn try_prepare(path: &Path, changes_user: bool, leftovers: &Leftovers) -> io::Result<Self> {
        // The process may change its working directory later.
        let path = std::path::absolute(path)?;
        let target = match special(&path)? {
            Some(file) => Target::Special(file),
            None if changes_user => {
                let (file, owned) = leftovers.create(|| {
                    let (file, owned) = open(&path)?;
                    Ok(((file, owned.clone()), Some(owned)))
                })?;
                Target::Opened(file, owned)
            }
            None => Target::New,
        };
        Ok(Self { path, target })
    }

    /// Writes the process ID. Dropping the returned value removes the file, unless it is
    /// [kept](OwnedFile::keep). Returns `None` for a pipe or a terminal.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub(super) fn write(self) -> anyhow::Result<Option<Arc<OwnedFile>>> {
        let path = self.path.clone();
        self.try_write().with_context(|| format!("write {}", path.display()))
    }

    fn try_write(self) -> io::Result<Option<Arc<OwnedFile>>> {
        let text = format!("{}\n", std::process::id());
        match self.target {
            Target::Special(mut file) => {
                file.write_all(text.as_bytes())?;
                Ok(None)
            }
            Target::Opened(mut file, owned) => {
                file.write_all(text.as_bytes())?;
                Ok(Some(owned))
            }
            Target::New => {
                let directory = self.path.parent().unwrap_or(Path::new("/"));
                // Not to be read: the sandbox only lets files be created there.
                let create = |path: &Path| {
                    File::options().write(true).create_new(true).mode(0o644).open(path)
                };
                let mut file = tempfile::Builder::new().make_in(directory, create)?;
                file.write_all(text.as_bytes())?;
                file.persist(&self.path)?;
                OwnedFile::new(&self.path).map(Some)
            }
        }
    }
}

/// Opens the path if it is a pipe or a character device. Returns `None` for a file that is to be
/// replaced or created.
fn special(path: &Path) -> io::Result<Option<File>> {
    let Ok(link) = std::fs::symlink_metadata(path) else { return Ok(None) };
    let Ok(target) = std::fs::metadata(path) else { return Ok(None) };
    if target.is_file() {
        return Ok(None);
    }
    let trusted = link.uid() == 0 || link.uid() == rustix::process::geteuid().as_raw();
    if link.is_symlink() && !trusted {
        return Err(io::Error::other("it is a symbolic link that belongs to another user"));
    }
    if !target.file_type().is_fifo() && !target.file_type().is_char_device() {
        return Err(io::Error::other("it is neither a file nor a pipe nor a terminal"));
    }
    File::options().write(true).open(path).map(Some)
}

/// Opens or creates a regular file of the current user, and truncates it.
fn open(path: &Path) -> io::Result<(File, Arc<OwnedFile>)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = File::options();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(flags.bits().cast_signed());
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    // A hard link could refer to any other file of ours.
    if !metadata.is_file() || !ours || metadata.nlink() != 1 {
        return Err(io::Error::other("it is not a file of the user who starts the server"));
    }
    file.set_len(0)?;
    Ok((file, OwnedFile::new(path)?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn prepare(path: &Path, changes_user: bool) -> anyhow::Result<Pidfile> {
        Pidfile::prepare(path, changes_user, &Leftovers::default())
    }

    fn expected() -> String {
        format!("{}\n", std::process::id())
    }

    #[test]
    fn file_has_the_process_id_and_is_removed_unless_it_is_kept() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("pid");
        for changes_user in [false, true] {
            fs::write(&path, "1234567890 and more").unwrap();
            drop(prepare(&path, changes_user).unwrap());
            // With another user it was emptied, so that nobody takes the old number for ours.
            assert_eq!(path.exists(), !changes_user);
            let written = prepare(&path, changes_user).unwrap().write().unwrap().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected());
            drop(written);
            assert!(!path.exists());
            prepare(&path, changes_user).unwrap().write().unwrap().unwrap().keep();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let directory = TempDir::new().unwrap();
        let (path, victim) = (directory.path().join("pid"), directory.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        assert!(prepare(&path, true).is_err());
        prepare(&path, false).unwrap().write().unwrap().unwrap().keep();
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink(), "the link was replaced");
        fs::remove_file(&path).unwrap();
        fs::hard_link(&victim, &path).unwrap();
        assert!(prepare(&path, true).is_err());
        prepare(&path, false).unwrap().write().unwrap().unwrap().keep();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn neither_directories_nor_sockets_are_written_to() {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for changes_user in [false, true] {
            assert!(prepare(directory.path(), changes_user).is_err());
            assert!(prepare(&socket, changes_user).is_err());
        }
        assert!(prepare(Path::new("/dev/null"), true).unwrap().write().unwrap().is_none());
    }
}
