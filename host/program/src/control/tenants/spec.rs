//! What a tenant may have, and how its clients are recognised.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use memnbd::device::guest::Processors;
use memnbd::rate::{BURST, Rates};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;
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
    #[serde(deserialize_with = "wholes")]
    pub(crate) uids: BTreeSet<u32>,
    /// The identities of the pre-shared keys (`--tls-psk`) of its NBD clients.
    pub(crate) keys: BTreeSet<String>,
    /// The subjects of the certificates (`--tls-verify-peer`) of its NBD clients, from the first attribute to
    /// the last, as in `CN=builder,O=Example`. The characters `,`, `+`, `=` and `\` in values follow a
    /// backslash.
    pub(crate) certificates: BTreeSet<String>,
}

/// The memory of requests under way that a tenant may have unless its quota says otherwise, in bytes: that of
/// the longest request, and of some thousand short ones.
const INFLIGHT: NonZeroU64 = NonZeroU64::new(64 << 20).unwrap();

/// A share of the processors, which is a number in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpus(pub(crate) Processors);

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        f64::from(self.0).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(from)?;
        let processors = Processors::try_from(number);
        processors.map(Self).map_err(|error| D::Error::custom(format!("{number}: {error}")))
    }
}

/// The most that a tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Quotas {
    /// The number of disks.
    #[serde(deserialize_with = "whole")]
    pub(crate) disks: usize,
    /// The number of snapshots.
    #[serde(deserialize_with = "whole")]
    pub(crate) snapshots: usize,
    /// The number of connections of NBD clients at a time.
    #[serde(deserialize_with = "whole")]
    pub(crate) connections: u64,
    /// The memory of all disks and snapshots together, in bytes: what is stored, and what their components
    /// take. When it is used up, writes fail with ENOSPC.
    #[serde(deserialize_with = "whole")]
    pub(crate) memory: u64,
    /// The memory of requests under way, in bytes: what clients send and what is read for them, while it is
    /// neither in a component nor sent. Requests beyond it wait; one that is longer waits until it is the only
    /// one.
    #[serde(deserialize_with = "whole")]
    #[schema(value_type = u64, minimum = 1)]
    pub(crate) inflight: NonZeroU64,
    /// How many processors the components may use on average, as 0.5, rounded to thousandths; without a limit
    /// if absent. Requests that need a component wait while its tenant used more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 1024)]
    pub(crate) cpus: Option<Cpus>,
    /// The sizes of all disks that are or were open, in bytes, whatever is stored on them; without a limit if
    /// absent. Disks that would exceed it are not opened.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_whole")]
    pub(crate) size: Option<u64>,
    /// What all clients together may read in a second, and likewise write, in bits; without a limit if absent.
    /// Requests beyond it wait.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_whole")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub(crate) rate: Option<NonZeroU64>,
    /// How many requests all clients together may make in a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_whole")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub(crate) requests: Option<NonZeroU64>,
}

/// Reads a whole number, which JSON may write as 1.0 as well.
fn whole<'de, D: Deserializer<'de>, N: TryFrom<u64>>(from: D) -> Result<N, D::Error> {
    let number = Number::deserialize(from)?;
    let whole = || {
        let float = number.as_f64().filter(|float| float.fract() == 0.0)?;
        // Exact, up to where floating-point numbers have no fractions.
        (0.0..=9_007_199_254_740_992.0).contains(&float).then_some(float as u64)
    };
    let read = number.as_u64().or_else(whole).and_then(|number| N::try_from(number).ok());
    read.ok_or_else(|| {
        D::Error::custom(format!("{number} is no whole number that is possible here"))
    })
}

/// The same for a set of such numbers.
fn wholes<'de, D: Deserializer<'de>, N: TryFrom<u64> + Ord>(
    from: D,
) -> Result<BTreeSet<N>, D::Error> {
    let numbers = Vec::<Number>::deserialize(from)?;
    numbers.into_iter().map(|number| whole(number).map_err(D::Error::custom)).collect()
}

/// The same where there may be none.
fn some_whole<'de, D: Deserializer<'de>, N: TryFrom<u64>>(from: D) -> Result<Option<N>, D::Error> {
    let number = Option::<Number>::deserialize(from)?;
    number.map(|number| whole(number).map_err(D::Error::custom)).transpose()
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            disks: 100,
            snapshots: 100,
            connections: 100,
            memory: 1 << 30,
            inflight: INFLIGHT,
            cpus: None,
            size: None,
            rate: None,
            requests: None,
        }
    }
}

impl Quotas {
    /// Returns the share of the processors, if it is limited.
    pub(super) fn processors(&self) -> Option<Processors> {
        self.cpus.map(|Cpus(processors)| processors)
    }

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
    check_label("tenant", name)
}

/// Checks the name of a token.
pub(crate) fn check_token(name: &str) -> Result<(), String> {
    check_label("token", name)
}

fn check_label(what: &str, name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    match letters && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= MAX_NAME {
        true => Ok(()),
        false => Err(format!(
            "the name of a {what} has 1 to {MAX_NAME} characters, which are lower-case letters, digits and \
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
    fn whole_numbers_are_read_however_json_writes_them() {
        let quotas = |text: &str| serde_json::from_str::<Quotas>(text).ok();
        let read = quotas("{\"disks\": 7.0, \"rate\": 1e3, \"size\": null}").unwrap();
        assert_eq!((read.disks, read.rate, read.size), (7, NonZeroU64::new(1000), None));
        assert_eq!(quotas("{\"size\": 18446744073709551615}").unwrap().size, Some(u64::MAX));
        for wrong in ["7.5", "-1", "-1.0", "1e300", "\"7\"", "null"] {
            assert_eq!(quotas(&format!("{{\"disks\": {wrong}}}")), None, "{wrong}");
        }
        assert_eq!(quotas("{\"rate\": 0}"), None);
        assert_eq!(quotas("{\"inflight\": 0}"), None);
    }

    #[test]
    fn shares_of_processors_are_numbers_in_thousandths() {
        let quotas = |text: &str| serde_json::from_str::<Quotas>(text);
        for (text, thousandths) in [("0.5", 500), ("2", 2000), ("1.25", 1250), ("0.3333", 333)] {
            let read = quotas(&format!("{{\"cpus\": {text}}}")).unwrap();
            assert_eq!(read.processors().unwrap().thousandths(), thousandths);
            let again = serde_json::to_string(&read).unwrap();
            assert_eq!(quotas(&again).unwrap(), read);
        }
        assert_eq!(quotas("{\"cpus\": null}").unwrap().cpus, None);
        let told = quotas("{\"cpus\": 0}").unwrap_err().to_string();
        assert!(told.contains("0: it is a number of processors from 0.001 to 1024"), "{told}");
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
