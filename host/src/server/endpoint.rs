//! Where clients find a server, and the URIs that say so (the NBD project's `uri.md`).

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::Socket;

/// The characters to escape in a URI: all but the unreserved ones and the slash (RFC 3986).
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// As [`KEPT`], but the slash is escaped as well, because it would end the user part.
const KEPT_IN_USER: &AsciiSet = &KEPT.add(b'/');

/// The address of a socket, as clients use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or an IP address, and a port.
    Tcp(String, u16),
    /// An absolute path.
    Unix(PathBuf),
    /// A vsock port of this machine.
    #[cfg(feature = "vsock")]
    Vsock(u32),
}

/// What a URI says of TLS, which it then requires.
#[derive(Clone, Debug)]
pub struct UriTls<'a> {
    /// The identity to use with a pre-shared key.
    pub user: Option<&'a [u8]>,
    /// The file or directory with what the client needs, and the name of the parameter for it.
    pub parameter: Option<(&'static str, &'a Path)>,
}

impl Endpoint {
    /// Returns the address of a socket.
    ///
    /// # Errors
    ///
    /// Returns an error if the system does not tell it.
    pub fn of(socket: &Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(listener) => {
                let address = listener.local_addr()?;
                Self::Tcp(address.ip().to_string(), address.port())
            }
            Socket::Unix(_, listener) => {
                let address = listener.local_addr()?;
                Self::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned())
            }
            #[cfg(feature = "vsock")]
            Socket::Vsock(listener) => Self::Vsock(listener.local_addr()?.port()),
        })
    }

    /// Returns the URI of an export here.
    pub fn uri(&self, export: &str, tls: Option<&UriTls>) -> String {
        let scheme = if tls.is_some() { "nbds" } else { "nbd" };
        let user = match tls.and_then(|tls| tls.user) {
            Some(user) => format!("{}@", percent_encode(user, KEPT_IN_USER)),
            None => String::new(),
        };
        let slash = if export.is_empty() { "" } else { "/" };
        let export = percent_encode(export.as_bytes(), KEPT);
        let mut parameters = Vec::new();
        let base = match self {
            Self::Tcp(host, port) if host.contains(':') => {
                format!("{scheme}://{user}[{host}]:{port}{slash}{export}")
            }
            Self::Tcp(host, port) => format!("{scheme}://{user}{host}:{port}{slash}{export}"),
            #[cfg(feature = "vsock")]
            Self::Vsock(port) => {
                let local = tokio_vsock::VMADDR_CID_LOCAL;
                format!("{scheme}+vsock://{user}{local}:{port}{slash}{export}")
            }
            Self::Unix(path) => {
                parameters.push(parameter("socket", path));
                format!("{scheme}+unix://{user}/{export}")
            }
        };
        let of_tls = tls.and_then(|tls| tls.parameter);
        parameters.extend(of_tls.map(|(name, path)| parameter(name, path)));
        match parameters.is_empty() {
            true => base,
            false => format!("{base}?{}", parameters.join("&")),
        }
    }
}

/// Returns a URI parameter whose value is a path.
fn parameter(name: &str, path: &Path) -> String {
    format!("{name}={}", percent_encode(path.as_os_str().as_bytes(), KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_of_the_nbd_project() {
        let tcp = |host: &str| Endpoint::Tcp(host.into(), 10809);
        assert_eq!(tcp("localhost").uri("", None), "nbd://localhost:10809");
        assert_eq!(tcp("::1").uri("a b/c", None), "nbd://[::1]:10809/a%20b/c");
        let unix = Endpoint::Unix("/run/a socket".into());
        assert_eq!(unix.uri("", None), "nbd+unix:///?socket=/run/a%20socket");
        let keys = Some(("tls-psk-file", Path::new("/keys?")));
        let tls = UriTls { user: Some(b"qemu/x"), parameter: keys };
        assert_eq!(
            unix.uri("d", Some(&tls)),
            "nbds+unix://qemu%2Fx@/d?socket=/run/a%20socket&tls-psk-file=/keys%3F"
        );
        let tls = UriTls { user: None, parameter: None };
        assert_eq!(tcp("h").uri("", Some(&tls)), "nbds://h:10809");
    }
}
