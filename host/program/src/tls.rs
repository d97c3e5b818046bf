//! The TLS options, which have the same meaning as in nbdkit.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::Failure;
use memnbd::nbd::TlsMode;
use memnbd::tls::{Acceptor, FILES};

/// The names of the directories that are searched for certificates, including nbdkit's.
const NAMES: [&str; 2] = ["memnbd", "nbdkit"];

/// The options, as they are typed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsArgs {
    /// Whether clients may or must use TLS: off, on or require [default: on if there are
    /// certificates or keys]
    #[arg(long = "tls", value_name = "MODE", value_parser = mode)]
    mode: Option<TlsMode>,

    /// The directory of ca-cert.pem, server-cert.pem, server-key.pem and optionally ca-crl.pem
    /// [default: the first that has them, of /etc/pki/memnbd and /etc/pki/nbdkit, or for users
    /// other than root of ~/.pki/memnbd, ~/.config/pki/memnbd and the same of nbdkit]
    #[arg(long = "tls-certificates", value_name = "DIR")]
    certificates: Option<PathBuf>,

    /// Use pre-shared keys instead of certificates: a file of USER:HEXKEY lines, as written by
    /// psktool
    #[arg(long = "tls-psk", value_name = "FILE")]
    psk: Option<PathBuf>,

    /// Accept only clients with a certificate that is signed by ca-cert.pem
    #[arg(long = "tls-verify-peer")]
    verify_peer: bool,
}

/// The TLS configuration.
pub(super) struct Tls {
    /// Whether clients may or must use TLS.
    pub(super) mode: TlsMode,
    /// Accepts TLS connections; `None` if TLS is off.
    pub(super) acceptor: Option<Arc<Acceptor>>,
    /// The credentials that TLS uses.
    pub(super) credentials: Credentials,
}

/// How the server and its clients authenticate each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Not at all: TLS is off.
    None,
    /// By the certificates of this directory.
    Certificates(PathBuf),
    /// By the keys of this file.
    Keys(PathBuf),
}

impl TlsArgs {
    /// Returns the credentials for TLS, if it is to be used.
    pub(super) fn find(&self) -> Result<Credentials, Failure> {
        Ok(match (self.mode(), &self.psk, &self.certificates) {
            (TlsMode::Off, _, _) => Credentials::None,
            (_, Some(file), _) => Credentials::Keys(file.clone()),
            (_, None, Some(directory)) => Credentials::Certificates(directory.clone()),
            (_, None, None) => self.search()?,
        })
    }

    /// Returns true if TLS is to be used.
    pub(super) fn has_credentials(&self) -> bool {
        matches!(self.find(), Ok(Credentials::Keys(_) | Credentials::Certificates(_)))
    }

    fn mode(&self) -> TlsMode {
        self.mode.unwrap_or(TlsMode::On)
    }

    /// Loads the credentials. Keys are read again for each client, so the user that serves must
    /// load them; certificates are read once.
    pub(super) fn load(&self, credentials: Credentials) -> Result<Tls, Failure> {
        let mode = self.mode();
        let acceptor = match &credentials {
            Credentials::None => {
                return Ok(Tls { mode: TlsMode::Off, acceptor: None, credentials });
            }
            Credentials::Keys(file) => Acceptor::with_keys(file).context("--tls-psk"),
            Credentials::Certificates(directory) => {
                let acceptor = Acceptor::with_certificates(directory, self.verify_peer);
                acceptor.context(match &self.certificates {
                    Some(_) => "--tls-certificates",
                    None => "certificates (--tls=off does without)",
                })
            }
        }?;
        if self.verify_peer && mode != TlsMode::Require {
            tracing::warn!(
                "--tls-verify-peer: who does without TLS is let in; not so with --tls=require"
            );
        }
        let credentials = credentials.absolute()?;
        Ok(Tls { mode, acceptor: Some(Arc::new(acceptor)), credentials })
    }

    /// Searches the default directories for certificates.
    fn search(&self) -> Result<Credentials, Failure> {
        let is_root = rustix::process::geteuid().is_root();
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let places = places(is_root, home.as_deref());
        if let Some(directory) = places.iter().find(|place| has_certificates(place)) {
            return Ok(Credentials::Certificates(directory.clone()));
        }
        let needed = match self.mode {
            Some(TlsMode::On) => "--tls=on",
            Some(_) => "--tls=require",
            None if self.verify_peer => "--tls-verify-peer",
            None => return Ok(Credentials::None),
        };
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Err(Failure::Usage(format!(
            "{needed} needs certificates or keys: give --tls-certificates DIR or --tls-psk FILE, \
             or put {} into {}",
            FILES.join(", "),
            places.join(" or ")
        )))
    }
}

impl Credentials {
    /// Makes the paths absolute: clients may run in another directory, and the process may change
    /// its own.
    fn absolute(self) -> anyhow::Result<Self> {
        let absolute = |path| std::path::absolute(path).context("find the current directory");
        Ok(match self {
            Self::None => Self::None,
            Self::Certificates(directory) => Self::Certificates(absolute(directory)?),
            Self::Keys(file) => Self::Keys(absolute(file)?),
        })
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Certificates(directory) => write!(f, "certificates of {}", directory.display()),
            Self::Keys(file) => write!(f, "keys of {}", file.display()),
        }
    }
}

fn mode(text: &str) -> Result<TlsMode, String> {
    // The same spellings of yes and no as in nbdkit.
    match text.to_ascii_lowercase().as_str() {
        "off" | "no" | "n" | "false" | "f" | "0" => Ok(TlsMode::Off),
        "on" | "yes" | "y" | "true" | "t" | "1" => Ok(TlsMode::On),
        "require" | "required" | "force" => Ok(TlsMode::Require),
        _ => Err("it is off, on or require".into()),
    }
}

/// Returns the directories that are searched for certificates, in this order.
fn places(is_root: bool, home: Option<&Path>) -> Vec<PathBuf> {
    let roots: Vec<PathBuf> = match (is_root, home) {
        (true, _) => vec!["/etc/pki".into()],
        (false, Some(home)) => vec![home.join(".pki"), home.join(".config/pki")],
        (false, None) => Vec::new(),
    };
    NAMES.iter().flat_map(|name| roots.iter().map(move |root| root.join(name))).collect()
}

fn has_certificates(directory: &Path) -> bool {
    FILES.iter().all(|name| File::open(directory.join(name)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_users_have_their_own_places() {
        let home = Path::new("/home/u");
        let root = ["/etc/pki/memnbd", "/etc/pki/nbdkit"].map(PathBuf::from);
        assert_eq!(places(true, Some(home)), root);
        let user = [".pki/memnbd", ".config/pki/memnbd", ".pki/nbdkit", ".config/pki/nbdkit"];
        assert_eq!(places(false, Some(home)), user.map(|place| home.join(place)));
        assert_eq!(places(false, None), Vec::<PathBuf>::new());
    }

    #[test]
    fn certificates_are_there_when_all_files_are() {
        let directory = tempfile::TempDir::new().unwrap();
        for name in FILES {
            assert!(!has_certificates(directory.path()));
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert!(has_certificates(directory.path()));
    }

    #[test]
    fn modes_are_spelled_as_for_nbdkit() {
        for text in ["off", "0", "No", "false"] {
            assert_eq!(mode(text), Ok(TlsMode::Off));
        }
        for text in ["on", "1", "YES", "true"] {
            assert_eq!(mode(text), Ok(TlsMode::On));
        }
        for text in ["require", "required", "force"] {
            assert_eq!(mode(text), Ok(TlsMode::Require));
        }
        assert!(mode("").is_err() && mode("maybe").is_err());
    }
}
