//! What a tenant may have, and how its clients are recognised.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use memnbd::rate::{BURST, Rates};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The tenant that is always there: the administrator's.
pub(crate) const FIRST: &str = "default";

/// The longest name of a tenant, in bytes.
const MAX_NAME: usize = 63;

/// The most users, keys and certificates of a tenant, of each kind, and the longest text of one, in bytes.
const MAX_CLIENTS: usize = 256;
const MAX_CLIENT: usize = 1024;

/// What a tenant may have, and how its clients are recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"quotas": {"disks": 20, "memory": 1073741824}, "uids": [1001]}))]
pub(crate) struct TenantSpec {
    pub(crate) quotas: Quotas,
    /// The users whose NBD clients, over Unix domain sockets, get the disks of the tenant.
    pub(crate) uids: BTreeSet<u32>,
    /// The identities of the pre-shared keys (`--tls-psk`) of its NBD clients.
    pub(crate) keys: BTreeSet<String>,
    /// The subjects of the certificates (`--tls-verify-peer`) of its NBD clients, from the first attribute to
    /// the last, as in `CN=builder,O=Example`. The characters `,`, `+`, `=` and `\` in values follow a
    /// backslash.
    pub(crate) certificates: BTreeSet<String>,
}

/// The most that a tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Quotas {
    /// The number of disks.
    pub(crate) disks: usize,
    /// The number of snapshots.
    pub(crate) snapshots: usize,
    /// The number of connections of NBD clients at a time.
    pub(crate) connections: u64,
    /// The memory of all disks and snapshots together, in bytes: what is stored, and what their components
    /// take. When it is used up, writes fail with ENOSPC.
    pub(crate) memory: u64,
    /// What all clients together may read in a second, and likewise write, in bits; without a limit if absent.
    /// Requests beyond it wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub(crate) rate: Option<NonZeroU64>,
    /// How many requests all clients together may make in a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub(crate) requests: Option<NonZeroU64>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            disks: 100,
            snapshots: 100,
            connections: 100,
            memory: 1 << 30,
            rate: None,
            requests: None,
        }
    }
}

impl Quotas {
    /// Returns the limits of all clients together.
    pub(super) fn rates(&self) -> Rates {
        Rates { bits: self.rate, requests: self.requests, burst: BURST }
    }
}

impl TenantSpec {
    /// Checks the limits.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (what, number) in [
            ("uids", self.uids.len()),
            ("keys", self.keys.len()),
            ("certificates", self.certificates.len()),
        ] {
            if number > MAX_CLIENTS {
                return Err(format!("{number} {what}; a tenant has at most {MAX_CLIENTS}"));
            }
        }
        let mut texts = self.keys.iter().chain(&self.certificates);
        match texts.find(|text| text.is_empty() || text.len() > MAX_CLIENT) {
            Some(_) => Err(format!("keys and certificates have 1 to {MAX_CLIENT} bytes")),
            None => Ok(()),
        }
    }
}

/// Checks the name of a tenant.
pub(crate) fn check_tenant(name: &str) -> Result<(), String> {
    if name == FIRST {
        return Err(format!("the tenant {FIRST:?} is the administrator's, and always there"));
    }
    let letters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    match letters && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= MAX_NAME {
        true => Ok(()),
        false => Err(format!(
            "the name of a tenant has 1 to {MAX_NAME} characters, which are lower-case letters, digits and \
             -, and begins with a letter"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tenants_are_parts_of_paths() {
        for name in ["a", "acme", "team-7", &"x".repeat(63)] {
            assert_eq!(check_tenant(name), Ok(()), "{name}");
        }
        for name in ["", "A", "7", "-a", "a/b", "a.b", "a_b", "\u{e4}", "default", &"x".repeat(64)]
        {
            assert!(check_tenant(name).is_err(), "{name}");
        }
    }

    #[test]
    fn clients_are_bounded() {
        let keys = |number: usize| TenantSpec {
            keys: (0..number).map(|key| key.to_string()).collect(),
            ..TenantSpec::default()
        };
        assert!(keys(256).check().is_ok() && keys(257).check().is_err());
        let long = |text: String| TenantSpec { certificates: [text].into(), ..keys(0) };
        assert!(long("x".repeat(1024)).check().is_ok());
        assert!(long("x".repeat(1025)).check().is_err() && long(String::new()).check().is_err());
    }
}
