//! How NBD clients get to the disks of a tenant.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use memnbd::access::{Origin, TlsIdentity};
use memnbd::connection::Identity;

use super::spec::TenantSpec;

/// Whose clients are whose.
#[derive(Default)]
pub(super) struct Ways(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    uids: HashMap<u32, String>,
    keys: HashMap<String, String>,
    certificates: HashMap<String, String>,
}

/// Two tenants would have the same clients.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shared {
    what: String,
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is of another tenant; each client is of one tenant", self.what)
    }
}

impl Ways {
    /// Returns the tenant of a client: by its credentials, or else by its user.
    pub(super) fn tenant(&self, client: &Identity<'_>) -> Option<String> {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let by_credentials = match client.tls {
            Some(TlsIdentity::Key(identity)) => inner.keys.get(identity),
            Some(TlsIdentity::Certificate(subject)) => inner.certificates.get(subject),
            Some(TlsIdentity::Nobody) | None => None,
        };
        let by_user = match client.origin {
            Origin::Unix(Some(process)) => inner.uids.get(&process.uid),
            _ => None,
        };
        by_credentials.or(by_user).cloned()
    }

    /// Makes the clients of a tenant these, and no others.
    pub(super) fn set(&self, tenant: &str, spec: &TenantSpec) -> Result<(), Shared> {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let of_another = |owner: Option<&String>| owner.is_some_and(|owner| owner != tenant);
        let taken = |what: String| Err(Shared { what });
        if let Some(uid) = spec.uids.iter().find(|&uid| of_another(inner.uids.get(uid))) {
            return taken(format!("the user {uid}"));
        }
        if let Some(key) = spec.keys.iter().find(|&key| of_another(inner.keys.get(key))) {
            return taken(format!("the key {key:?}"));
        }
        let mut certificates = spec.certificates.iter();
        if let Some(subject) = certificates.find(|&one| of_another(inner.certificates.get(one))) {
            return taken(format!("the certificate {subject:?}"));
        }
        inner.forget(tenant);
        inner.uids.extend(spec.uids.iter().map(|uid| (*uid, tenant.to_owned())));
        inner.keys.extend(spec.keys.iter().map(|key| (key.clone(), tenant.to_owned())));
        let certificates = spec.certificates.iter().map(|one| (one.clone(), tenant.to_owned()));
        inner.certificates.extend(certificates);
        Ok(())
    }

    /// Forgets the clients of a tenant.
    pub(super) fn remove(&self, tenant: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget(tenant);
    }
}

impl Inner {
    fn forget(&mut self, tenant: &str) {
        self.uids.retain(|_, owner| owner != tenant);
        self.keys.retain(|_, owner| owner != tenant);
        self.certificates.retain(|_, owner| owner != tenant);
    }
}

#[cfg(test)]
mod tests {
    use memnbd::access::Process;

    use super::*;

    #[test]
    fn clients_are_known_by_credentials_before_users() {
        let ways = Ways::default();
        let of = |uid: u32, key: &str, subject: &str| TenantSpec {
            uids: [uid].into(),
            keys: [key.to_owned()].into(),
            certificates: [subject.to_owned()].into(),
            ..TenantSpec::default()
        };
        ways.set("a", &of(1, "ka", "CN=a")).unwrap();
        ways.set("b", &of(2, "kb", "CN=b")).unwrap();
        let unix = |uid| Origin::Unix(Some(Process { pid: None, uid, gid: 0 }));
        let tenant = |origin: Origin, tls: Option<TlsIdentity>| {
            ways.tenant(&Identity { origin: &origin, tls: tls.as_ref() })
        };
        let key = |name: &str| Some(TlsIdentity::Key(name.into()));
        let certificate = |name: &str| Some(TlsIdentity::Certificate(name.into()));
        assert_eq!(tenant(unix(1), None).as_deref(), Some("a"));
        assert_eq!(tenant(unix(3), None), None);
        assert_eq!(tenant(Origin::Unix(None), None), None);
        assert_eq!(tenant(unix(1), key("kb")).as_deref(), Some("b"));
        assert_eq!(tenant(unix(1), key("?")).as_deref(), Some("a"));
        assert_eq!(tenant(Origin::Unknown, certificate("CN=b")).as_deref(), Some("b"));
        assert_eq!(tenant(Origin::Unknown, key("CN=b")), None, "a key is no certificate");
        assert_eq!(tenant(Origin::Unknown, Some(TlsIdentity::Nobody)), None);
        let shared = ways.set("c", &of(3, "kb", "CN=c")).unwrap_err();
        assert_eq!(
            shared.to_string(),
            "the key \"kb\" is of another tenant; each client is of one tenant"
        );
        assert_eq!(tenant(unix(3), None), None, "nothing was changed");
        ways.set("a", &of(4, "k", "CN=x")).unwrap();
        assert_eq!((tenant(unix(1), None), tenant(unix(4), None)), (None, Some("a".into())));
        ways.remove("a");
        assert_eq!(tenant(unix(4), None), None);
    }
}
