//! The configuration file: the disks of a server and its grants, as TOML.
//!
//! Whoever writes the file has the rights of the server, so paths are allowed in it, as on the command
//! line. Relative ones begin at the directory of the file. The same text may come through the control
//! API, where there are no grants to give and no paths to name.
//!
//! - `parse`: from TOML to disks, with the place of every mistake.

mod parse;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::control::DiskSpec;
use super::grants::Grants;
pub(super) use parse::{Author, parse};

/// The longest configuration, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// What a configuration says.
#[derive(Debug)]
pub(super) struct Config {
    /// In the order of the text.
    pub(super) disks: Vec<Configured>,
    grants: Vec<ConfiguredGrant>,
    /// Kept to find the lines of mistakes.
    text: String,
}

/// A disk of a configuration.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) name: String,
    pub(super) spec: DiskSpec,
    /// The offset of its name in the text.
    at: usize,
}

/// A grant of a configuration.
#[derive(Debug)]
struct ConfiguredGrant {
    kind: String,
    name: String,
    path: String,
    /// The offset of its name in the text.
    at: usize,
}

impl Config {
    /// Returns what the disks are made of.
    pub(super) fn specs(&self) -> BTreeMap<String, DiskSpec> {
        let entry = |disk: &Configured| (disk.name.clone(), disk.spec.clone());
        self.disks.iter().map(entry).collect()
    }

    /// Adds the place of a disk to a message about it.
    pub(super) fn located(&self, disk: &str, message: &str) -> String {
        match self.disks.iter().find(|configured| configured.name == disk) {
            Some(configured) => parse::located(&self.text, configured.at, message),
            None => message.to_owned(),
        }
    }
}

/// Where a configuration is.
#[derive(Clone, Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    /// Creates the place of a file. It stays the same when the process changes its directory.
    pub(super) fn new(path: &Path, directory: &Path) -> Self {
        Self { path: directory.join(path) }
    }

    /// Returns the directory where relative paths begin.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Reads the file. It may block.
    ///
    /// # Errors
    ///
    /// Returns a message with the file, and the line and column of the mistake.
    pub(super) fn load(&self) -> Result<Config, String> {
        let bytes = self.read().map_err(|problem| self.of_file(&problem))?;
        let parsed = match String::from_utf8(bytes) {
            Ok(text) => parse(text, Author::Server),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(&error.as_bytes()[..at]);
                Err(parse::located(&text, at, "this is not UTF-8; a configuration is UTF-8 text"))
            }
        };
        parsed.map_err(|problem| self.of_file(&problem))
    }

    /// Gives the grants of a configuration, besides those that are there.
    ///
    /// # Errors
    ///
    /// Returns a message with the place of a grant that makes no sense.
    pub(super) fn grant(&self, config: &Config, grants: &mut Grants) -> Result<(), String> {
        for ConfiguredGrant { kind, name, path, at } in &config.grants {
            grants
                .insert(kind, name, &self.directory().join(path))
                .map_err(|problem| self.of_file(&parse::located(&config.text, *at, &problem)))?;
        }
        Ok(())
    }

    /// Adds the name of the file to a message.
    pub(super) fn of_file(&self, message: &str) -> String {
        format!("{}: {message}", self.path.display())
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        let file = self.open().map_err(|error| error.to_string())?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a regular file; a configuration is, to be read again".into());
        }
        let mut bytes = Vec::new();
        let read = file.take(MAX_CONFIG + 1).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
        match bytes.len() as u64 > MAX_CONFIG {
            true => Err(format!("it is too long; a configuration has at most {MAX_CONFIG} bytes")),
            false => Ok(bytes),
        }
    }

    /// Opens the file, without waiting for the writer of a pipe.
    fn open(&self) -> std::io::Result<File> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&self.path)
    }
}
