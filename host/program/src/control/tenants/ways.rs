//! How NBD clients get to the disks of a tenant.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use memnbd::access::{Origin, TlsIdentity};
use memnbd::connection::Identity;

use super::spec::TenantSpec;

/// Which clients belong to which tenant.
#[derive(Default)]
pub(super) struct Ways(RwLock<Inner>);

#[derive(Clone, Default)]
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
        self.replace(&[(tenant, spec)])
    }

    /// Makes the clients of these tenants these, and no others, all at once: a client can go from one tenant
    /// to another one. Nothing changes if two would have the same.
    pub(super) fn replace(&self, all: &[(&str, &TenantSpec)]) -> Result<(), Shared> {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *inner = inner.with(all)?;
        Ok(())
    }

    /// Checks that [`Self::replace`] can be done.
    pub(super) fn check(&self, all: &[(&str, &TenantSpec)]) -> Result<(), Shared> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).with(all).map(drop)
    }

    /// Forgets the clients of a tenant.
    pub(super) fn remove(&self, tenant: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget(tenant);
    }
}

impl Inner {
    /// Returns what there is with these clients of these tenants.
    fn with(&self, all: &[(&str, &TenantSpec)]) -> Result<Self, Shared> {
        let mut next = self.clone();
        all.iter().for_each(|(tenant, _)| next.forget(tenant));
        for (tenant, spec) in all {
            next.add(tenant, spec)?;
        }
        Ok(next)
    }

    fn add(&mut self, tenant: &str, spec: &TenantSpec) -> Result<(), Shared> {
        let taken = |what: String| Err(Shared { what });
        for uid in &spec.uids {
            if self.uids.insert(*uid, tenant.to_owned()).is_some() {
                return taken(format!("the user {uid}"));
            }
        }
        for key in &spec.keys {
            if self.keys.insert(key.clone(), tenant.to_owned()).is_some() {
                return taken(format!("the key {key:?}"));
            }
        }
        for subject in &spec.certificates {
            if self.certificates.insert(subject.clone(), tenant.to_owned()).is_some() {
                return taken(format!("the certificate {subject:?}"));
            }
        }
        Ok(())
    }

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
        let (a, b) = (of(2, "kb", "CN=b"), of(4, "k", "CN=x"));
        ways.replace(&[("a", &a), ("b", &b)]).unwrap();
        assert_eq!(tenant(unix(2), None).as_deref(), Some("a"), "they changed places");
        assert!(ways.replace(&[("a", &a), ("b", &a)]).is_err());
        assert_eq!(tenant(unix(4), None).as_deref(), Some("b"), "nothing was changed");
        ways.remove("b");
        assert_eq!(tenant(unix(4), None), None);
    }
}
