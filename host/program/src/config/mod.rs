//! The configuration file: the disks of a server, its exports and its grants, as TOML.
//!
//! Whoever writes the file has the rights of the server, so paths are allowed in it, as on the command
//! line. Relative ones begin at the directory of the file. The same text may come through the control
//! API, where there are no grants to give and no paths to name.
//!
//! - `exports`: the exports, which are other names of disks.
//! - `parse`: from TOML to disks, with the place of every mistake.
//! - `tenants`: the same for tenants and tokens.

mod exports;
mod parse;
mod tenants;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::control::{DiskSpec, ExportSpec, FIRST, Role, TenantSpec, Token};
use super::grants::Grants;
use super::secret::Digest;
pub(super) use parse::{Author, parse};

/// The longest configuration, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// What a configuration says.
#[derive(Debug)]
pub(super) struct Config {
    /// In the order of the text.
    pub(super) disks: Vec<Configured>,
    pub(super) exports: Vec<ConfiguredExport>,
    grants: Vec<ConfiguredGrant>,
    pub(super) tenants: Vec<ConfiguredTenant>,
    /// Those of the first tenant.
    pub(super) tokens: Vec<ConfiguredToken>,
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

/// An export of a configuration.
#[derive(Debug)]
pub(super) struct ConfiguredExport {
    pub(super) name: String,
    pub(super) spec: ExportSpec,
    /// The offset of its name in the text.
    at: usize,
}

/// A tenant of a configuration.
#[derive(Debug, Default)]
pub(super) struct ConfiguredTenant {
    pub(super) name: String,
    pub(super) spec: TenantSpec,
    /// The addresses of its own sockets.
    pub(super) listen: Vec<String>,
    pub(super) tokens: Vec<ConfiguredToken>,
    grants: Vec<ConfiguredGrant>,
    pub(super) disks: Vec<Configured>,
    pub(super) exports: Vec<ConfiguredExport>,
    /// The offset of its name in the text.
    at: usize,
}

impl ConfiguredTenant {
    /// Returns what the disks are made of.
    pub(super) fn specs(&self) -> BTreeMap<String, DiskSpec> {
        specs(&self.disks)
    }

    /// Returns what the exports serve.
    pub(super) fn export_specs(&self) -> BTreeMap<String, ExportSpec> {
        export_specs(&self.exports)
    }
}

/// A token of a configuration.
#[derive(Debug)]
pub(super) struct ConfiguredToken {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) digest: Digest,
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
        specs(&self.disks)
    }

    /// Returns what the exports serve.
    pub(super) fn export_specs(&self) -> BTreeMap<String, ExportSpec> {
        export_specs(&self.exports)
    }

    /// Returns the tokens of all tenants, with their tenants and names.
    pub(super) fn all_tokens(&self) -> Vec<(String, String, Token)> {
        let first = self.tokens.iter().map(|token| (FIRST, token));
        let others = self.tenants.iter().flat_map(|tenant| {
            tenant.tokens.iter().map(move |token| (tenant.name.as_str(), token))
        });
        let entry = |(tenant, token): (&str, &ConfiguredToken)| {
            let ConfiguredToken { role, digest, .. } = *token;
            (tenant.to_owned(), token.name.clone(), Token::of_file(role, digest))
        };
        first.chain(others).map(entry).collect()
    }

    /// Adds the place of a disk or an export of a tenant, or of the first if it is `None`, to a message about
    /// it. No disk and export have the same name.
    pub(super) fn located(&self, tenant: Option<&str>, name: &str, message: &str) -> String {
        let of = |tenant: &str| self.tenants.iter().find(|other| other.name == tenant);
        let (disks, exports) = match tenant {
            Some(tenant) => of(tenant)
                .map_or((&[][..], &[][..]), |tenant| (&tenant.disks[..], &tenant.exports[..])),
            None => (&self.disks[..], &self.exports[..]),
        };
        let disk = disks.iter().find(|disk| disk.name == name).map(|disk| disk.at);
        let export = || exports.iter().find(|export| export.name == name).map(|export| export.at);
        match disk.or_else(export) {
            Some(at) => parse::located(&self.text, at, message),
            None => message.to_owned(),
        }
    }

    /// Adds the place of a tenant to a message about it.
    pub(super) fn located_tenant(&self, tenant: &str, message: &str) -> String {
        match self.tenants.iter().find(|other| other.name == tenant) {
            Some(tenant) => parse::located(&self.text, tenant.at, message),
            None => message.to_owned(),
        }
    }
}

fn specs(disks: &[Configured]) -> BTreeMap<String, DiskSpec> {
    disks.iter().map(|disk| (disk.name.clone(), disk.spec.clone())).collect()
}

fn export_specs(exports: &[ConfiguredExport]) -> BTreeMap<String, ExportSpec> {
    exports.iter().map(|export| (export.name.clone(), export.spec.clone())).collect()
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
        self.grant_all(config, &config.grants, grants)
    }

    /// Returns the grants of a tenant of a configuration.
    ///
    /// # Errors
    ///
    /// Returns a message with the place of a grant that makes no sense.
    pub(super) fn grants_of(
        &self,
        config: &Config,
        tenant: &ConfiguredTenant,
    ) -> Result<Grants, String> {
        let mut grants = Grants::default();
        self.grant_all(config, &tenant.grants, &mut grants).map(|()| grants)
    }

    fn grant_all(
        &self,
        config: &Config,
        given: &[ConfiguredGrant],
        grants: &mut Grants,
    ) -> Result<(), String> {
        for ConfiguredGrant { kind, name, path, at } in given {
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
