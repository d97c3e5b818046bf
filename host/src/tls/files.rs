//! Reads small files, some of which hold secrets.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The longest file that is read, in bytes: more than certificates or keys ever need.
const MAX: u64 = 4 << 20;

/// Why a file was not read.
#[derive(Debug)]
pub enum FileError {
    /// The system reported an error.
    Io(io::Error),
    /// It is not a regular file, but a pipe, a directory or a device.
    NotRegular,
    /// The file is far too long.
    TooLong,
    /// The file holds secrets, but its mode lets everybody read or write it.
    Exposed {
        /// Its permissions.
        mode: u32,
    },
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::NotRegular => f.write_str("it is not a regular file"),
            Self::TooLong => write!(f, "it is longer than {} MiB", MAX >> 20),
            Self::Exposed { mode } => write!(
                f,
                "it holds secrets, but its mode {mode:04o} lets everybody read or change it; \
                 chmod 600 would be right"
            ),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // `Display` already shows the `io::Error`.
        None
    }
}

/// Returns the content of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    read_if(path, |_| Ok(()))
}

/// Returns the content of a file that others can neither read nor write.
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, FileError> {
    read_if(path, |mode| match mode & 0o006 {
        0 => Ok(()),
        _ => Err(FileError::Exposed { mode: mode & 0o7777 }),
    })
}

fn read_if(
    path: &Path,
    permitted: impl FnOnce(u32) -> Result<(), FileError>,
) -> Result<Vec<u8>, FileError> {
    // Checked before opening: opening a pipe could block until somebody opens it for writing.
    if !std::fs::metadata(path)?.is_file() {
        return Err(FileError::NotRegular);
    }
    let file = File::open(path)?;
    permitted(file.metadata()?.permissions().mode())?;
    let mut content = Vec::new();
    file.take(MAX + 1).read_to_end(&mut content)?;
    match content.len() as u64 > MAX {
        true => Err(FileError::TooLong),
        false => Ok(content),
    }
}
