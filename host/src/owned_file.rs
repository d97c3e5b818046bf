//! Files that the process removes when it ends, if they are still the ones that it created.
//!
//! The module does not know what the files are for.
//!
//! The crate tempfile removes files that it has created itself, whatever is at their paths by then.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

/// A file owned by this process. Dropping it removes the file, unless it is kept or another file is
/// at its path by then.
#[derive(Debug)]
pub struct OwnedFile {
    path: PathBuf,
    /// Device and inode number: by the time of removal, the path may refer to another file.
    identity: (u64, u64),
    /// The directory to remove after the file.
    directory: Mutex<Option<TempDir>>,
    kept: AtomicBool,
}

impl OwnedFile {
    /// Takes ownership of a file that was just created.
    ///
    /// # Errors
    ///
    /// Returns an error if the file does not exist.
    pub fn new(path: &Path) -> io::Result<Arc<Self>> {
        Self::within(None, path)
    }

    /// Takes ownership of a file that was just created, and of its directory if that is to be
    /// removed too.
    ///
    /// # Errors
    ///
    /// Returns an error if the file does not exist.
    pub fn within(directory: Option<TempDir>, path: &Path) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            path: path.to_owned(),
            identity: identity(path)?,
            directory: Mutex::new(directory),
            kept: AtomicBool::new(false),
        }))
    }

    /// Keeps the file when this is dropped.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Removes the file unless it is to be kept, was already removed, or was replaced by another.
    /// Failure to remove it is ignored.
    pub fn remove(&self) {
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
        drop(self.directory.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Returns the identity of a file, which distinguishes it from others at the same path. Symbolic
/// links are not followed.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn file_is_removed_unless_it_was_replaced_or_is_kept() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        let make = || {
            fs::write(&path, "").unwrap();
            OwnedFile::new(&path).unwrap()
        };
        drop(make());
        assert!(!path.exists());

        let file = make();
        fs::rename(&path, directory.path().join("old")).unwrap();
        fs::write(&path, "another").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");

        let file = make();
        file.keep();
        drop(file);
        assert!(path.exists());
        assert!(OwnedFile::new(&directory.path().join("missing")).is_err());
    }

    #[test]
    fn directory_is_removed_with_its_file() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().to_owned();
        fs::write(path.join("file"), "").unwrap();
        let file = OwnedFile::within(Some(directory), &path.join("file")).unwrap();
        file.remove();
        assert!(!path.exists());
        file.remove();
    }
}
