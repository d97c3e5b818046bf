//! Files that are small, and some of which others must not see.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// More than any file of certificates or keys has, in bytes.
const MAX: u64 = 4 << 20;

/// Why a file is not read.
#[derive(Debug)]
pub enum FileError {
    /// The system does not let us.
    Io(io::Error),
    /// It is a pipe, a directory, a device.
    NotRegular,
    /// It is far too long.
    TooLong,
    /// It holds secrets, and everybody may read or write it.
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
        // An io::Error is shown by ourselves.
        None
    }
}

/// The content of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    read_if(path, |_| Ok(()))
}

/// The content of a file that others can neither read nor change.
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
    // Before it is opened, which could wait for whoever writes into a pipe.
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
