//! Whose exports a client gets, on sockets that are for more than one namespace.

use std::sync::Arc;

use crate::access::{Origin, TlsIdentity};
use crate::exports::Exports;

/// Decides whose exports a client gets. It is asked when a client was accepted, and again when TLS has told
/// who it is; sockets that serve certain exports only do not ask.
pub trait Entrance: Send + Sync {
    /// Returns the exports for a client, or `None` for those of the socket.
    fn exports(&self, client: &Identity<'_>) -> Option<Arc<Exports>>;

    /// Returns the exports to which a secret in an export name leads, and the rest of the name. It is called
    /// for names that the client's own exports do not have, and only for clients that nobody can overhear:
    /// those that use TLS, or do not come over a network.
    fn exports_by_name<'a>(&self, name: &'a str) -> Option<(Arc<Exports>, &'a str)>;
}

/// Who a client is, as far as that is known.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Where it comes from.
    pub origin: &'a Origin,
    /// Who it is by its credentials, if it uses TLS.
    pub tls: Option<&'a TlsIdentity>,
}

/// Returns true if what a client sends can be read by others on its way.
pub(super) fn can_be_overheard(origin: &Origin, tls: bool) -> bool {
    match origin {
        _ if tls => false,
        Origin::Ip(address) => !address.to_canonical().is_loopback(),
        Origin::Unix(_) | Origin::Vsock { .. } | Origin::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_from_those_whom_nobody_can_overhear() {
        let at = |address: &str| Origin::Ip(address.parse().unwrap());
        for (origin, overheard) in [
            (at("127.0.0.1"), false),
            (at("127.8.0.1"), false),
            (at("::1"), false),
            (at("::ffff:127.0.0.1"), false),
            (at("10.0.0.1"), true),
            (at("169.254.0.1"), true),
            (at("::ffff:10.0.0.1"), true),
            (at("fe80::1"), true),
            (at("::"), true),
            (at("0.0.0.0"), true),
            (Origin::Unix(None), false),
        ] {
            assert_eq!(can_be_overheard(&origin, false), overheard, "{origin:?}");
            assert!(!can_be_overheard(&origin, true), "{origin:?}");
        }
    }
}
