//! Tenants and tokens in a configuration.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use memnbd::device::guest::{NotProcessors, Processors};
use memnbd::parameters::parse_size;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::exports::read_exports;
use super::parse::{
    Author, Mistake, entries, other_type, read_disks, read_grants, string, strings, table, unknown,
};
use super::{ConfiguredTenant, ConfiguredToken};
use crate::control::{Cpus, MAX_TENANTS, Role, TenantSpec, check_tenant, check_token};
use crate::secret::Digest;

/// The keys of a tenant.
const TENANT_KEYS: [&str; 9] =
    ["listen", "uids", "keys", "certificates", "quotas", "tokens", "grants", "disks", "exports"];

/// The keys of the quotas of a tenant.
const QUOTA_KEYS: [&str; 9] =
    ["disks", "snapshots", "connections", "memory", "inflight", "cpus", "size", "rate", "requests"];

/// The keys of a token.
const TOKEN_KEYS: [&str; 2] = ["role", "digest"];

/// Reads the tenants.
pub(super) fn read_tenants(root: &DeTable<'_>) -> Result<Vec<ConfiguredTenant>, Mistake> {
    let mut tenants: Vec<ConfiguredTenant> = Vec::new();
    for (index, (name, at, value)) in entries(root).into_iter().enumerate() {
        let wrong = |message: String| Mistake { at, message };
        check_tenant(name).map_err(wrong)?;
        if index >= MAX_TENANTS {
            return Err(wrong(format!("there are more than {MAX_TENANTS} tenants")));
        }
        let mut tenant = ConfiguredTenant { name: name.to_owned(), at, ..Default::default() };
        let mut exports = None;
        for (key, at, value) in entries(table(value, name, "[tenants.NAME]")?) {
            let spec = &mut tenant.spec;
            match key {
                "listen" => tenant.listen = strings(value, key, "[\"unix:/run/acme\"]")?,
                "uids" => spec.uids = uids(value)?,
                "keys" => spec.keys = set(strings(value, key, "[\"builder\"]")?),
                "certificates" => spec.certificates = set(strings(value, key, "[\"CN=builder\"]")?),
                "quotas" => read_quotas(table(value, key, "{ disks = 20 }")?, spec)?,
                "tokens" => {
                    tenant.tokens = read_tokens(table(value, key, "[tenants.NAME.tokens.TOKEN]")?)?;
                }
                "grants" => {
                    tenant.grants = read_grants(table(value, key, "[tenants.NAME.grants.KIND]")?)?;
                }
                "disks" => {
                    let disks = table(value, key, "[tenants.NAME.disks.DISK]")?;
                    tenant.disks = read_disks(disks, Author::Server)?;
                }
                "exports" => {
                    exports = Some(table(value, key, "[tenants.NAME.exports.EXPORT]")?);
                }
                _ => return Err(unknown(key, at, "a tenant", &TENANT_KEYS)),
            }
        }
        if let Some(exports) = exports {
            tenant.exports = read_exports(exports, &tenant.disks, Author::Server)?;
        }
        for text in &tenant.listen {
            if let Some(other) = tenants.iter().find(|other| other.listen.contains(text)) {
                return Err(wrong(format!(
                    "the tenant {name:?}: listen = {text:?}: the tenant {:?} listens there already",
                    other.name
                )));
            }
        }
        tenant.spec.check().map_err(|problem| Mistake {
            at,
            message: format!("the tenant {name:?}: {problem}"),
        })?;
        let admin = tenant.tokens.iter().find(|token| token.role == Role::Admin);
        if let Some(ConfiguredToken { at, .. }) = admin {
            let message = "a tenant's token is no admin's; those are in [tokens.NAME]";
            return Err(Mistake { at: *at, message: message.into() });
        }
        let (disks, exports) = (tenant.disks.len(), tenant.exports.len());
        let most = tenant.spec.quotas.disks;
        if disks + exports > most {
            let exports = match exports {
                0 => String::new(),
                exports => format!(" and {exports} exports"),
            };
            return Err(wrong(format!(
                "the tenant {name:?} has {disks} disks{exports} here, and its quota is {most}"
            )));
        }
        tenants.push(tenant);
    }
    Ok(tenants)
}

/// Reads the tokens of a tenant.
pub(super) fn read_tokens(tokens: &DeTable<'_>) -> Result<Vec<ConfiguredToken>, Mistake> {
    let mut read = Vec::new();
    for (name, at, value) in entries(tokens) {
        check_token(name).map_err(|message| Mistake { at, message })?;
        let (mut role, mut digest) = (None, None);
        for (key, at, value) in entries(table(value, name, "[tokens.NAME]")?) {
            let text = string(value, key, "\"tenant\" or \"sha256:...\"");
            let wrong = |message: String| Mistake { at: value.span().start, message };
            match key {
                "role" => {
                    let parsed: Result<Role, ()> = text?.parse();
                    let names = Role::NAMES.join(", ");
                    role = Some(parsed.map_err(|()| wrong(format!("role: it is one of {names}")))?);
                }
                "digest" => {
                    let parsed: Result<Digest, _> = text?.parse();
                    digest = Some(parsed.map_err(|form| wrong(format!("digest: {form}")))?);
                }
                _ => return Err(unknown(key, at, "a token", &TOKEN_KEYS)),
            }
        }
        let missing =
            |key: &str| Mistake { at, message: format!("the token {name:?} has no {key}") };
        let role = role.ok_or_else(|| missing("role"))?;
        let digest = digest.ok_or_else(|| missing("digest"))?;
        read.push(ConfiguredToken { name: name.to_owned(), role, digest, at });
    }
    Ok(read)
}

fn read_quotas(quotas: &DeTable<'_>, spec: &mut TenantSpec) -> Result<(), Mistake> {
    let quota = &mut spec.quotas;
    for (key, at, value) in entries(quotas) {
        let number = || number(value, key);
        let count = || number().map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        let positive = |number: u64| {
            let without = match key {
                "inflight" => "",
                _ => "; without it there is no limit",
            };
            let message = format!("{key}: it is at least 1{without}");
            NonZeroU64::new(number).ok_or(Mistake { at: value.span().start, message })
        };
        match key {
            "disks" => quota.disks = count()?,
            "snapshots" => quota.snapshots = count()?,
            "connections" => quota.connections = number()?,
            "memory" => quota.memory = size(value, key)?,
            "inflight" => quota.inflight = positive(size(value, key)?)?,
            "cpus" => quota.cpus = Some(Cpus(processors(value, key)?)),
            "size" => quota.size = Some(size(value, key)?),
            "rate" => quota.rate = Some(positive(size(value, key)?)?),
            "requests" => quota.requests = Some(positive(number()?)?),
            _ => return Err(unknown(key, at, "quotas", &QUOTA_KEYS)),
        }
    }
    Ok(())
}

fn set(texts: Vec<String>) -> BTreeSet<String> {
    texts.into_iter().collect()
}

fn uids(value: &Spanned<DeValue<'_>>) -> Result<BTreeSet<u32>, Mistake> {
    let DeValue::Array(items) = value.get_ref() else {
        return Err(other_type(value, "uids", "an array of numbers, as [1001]", value.get_ref()));
    };
    let uid = |item: &Spanned<DeValue<'_>>| {
        let message = "a user is a number from 0 to 4294967295";
        let uid = u32::try_from(number(item, "an item of uids")?).ok();
        uid.ok_or(Mistake { at: item.span().start, message: message.into() })
    };
    items.iter().map(uid).collect()
}

fn number(value: &Spanned<DeValue<'_>>, key: &str) -> Result<u64, Mistake> {
    match value.get_ref() {
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| Mistake {
                at: value.span().start,
                message: format!("{key}: it is a number from 0 to {}", u64::MAX),
            })
        }
        other => Err(other_type(value, key, "a number, as 20", other)),
    }
}

fn size(value: &Spanned<DeValue<'_>>, key: &str) -> Result<u64, Mistake> {
    match value.get_ref() {
        DeValue::String(text) => parse_size(text).map_err(|error| Mistake {
            at: value.span().start,
            message: format!("{key}: {error}"),
        }),
        _ => number(value, key).map_err(|Mistake { at, .. }| Mistake {
            at,
            message: format!("{key}: it is a size, as \"4G\", or a number"),
        }),
    }
}

fn processors(value: &Spanned<DeValue<'_>>, key: &str) -> Result<Processors, Mistake> {
    let parsed = match value.get_ref() {
        DeValue::Float(number) => number.as_str().parse(),
        DeValue::Integer(_) => (number(value, key)? as f64).try_into(),
        other => return Err(other_type(value, key, "a number of processors, as 0.5", other)),
    };
    let wrong = |error| Mistake { at: value.span().start, message: format!("{key}: {error}") };
    parsed.map_err(|error: NotProcessors| wrong(error))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn parsed(text: &str) -> Result<super::super::Config, String> {
        parse(text.to_owned(), Author::Server)
    }

    #[test]
    fn tenants_have_quotas_clients_tokens_grants_and_disks() {
        let digest = Digest::of("secret");
        let text = format!(
            "[tokens.root]\nrole = 'admin'\ndigest = '{digest}'\n\
             [tenants.acme]\nlisten = ['unix:/run/acme']\nuids = [0, 1001]\nkeys = ['k']\n\
             certificates = ['CN=a']\n\
             quotas = {{ disks = 2, snapshots = 3, connections = 4, memory = '1M', rate = 8, requests = 9, \
             inflight = '2M', cpus = 1.5 }}\n\
             [tenants.acme.tokens.ci]\nrole = 'read-only'\ndigest = '{digest}'\n\
             [tenants.acme.grants.file]\nimage = 'x'\n[tenants.acme.disks.a]\n[tenants.b]\n"
        );
        let config = parsed(&text).unwrap();
        assert!(config.disks.is_empty());
        let [root] = &config.tokens[..] else { panic!("a token") };
        assert_eq!((root.name.as_str(), root.role, root.digest), ("root", Role::Admin, digest));
        let [acme, b] = &config.tenants[..] else { panic!("two tenants") };
        let quotas = acme.spec.quotas;
        assert_eq!((quotas.disks, quotas.snapshots, quotas.connections), (2, 3, 4));
        assert_eq!(
            (quotas.inflight.get(), quotas.cpus),
            (2 << 20, Some(Cpus("1.5".parse().unwrap())))
        );
        let (rate, requests) = (NonZeroU64::new(8), NonZeroU64::new(9));
        assert_eq!((quotas.memory, quotas.rate, quotas.requests), (1 << 20, rate, requests));
        assert_eq!(acme.spec.uids, [0, 1001].into());
        assert_eq!(acme.listen, ["unix:/run/acme"]);
        assert_eq!((acme.tokens[0].role, acme.disks[0].name.as_str()), (Role::ReadOnly, "a"));
        assert_eq!(b.spec, TenantSpec::default());
    }

    #[test]
    fn mistakes_are_told_with_the_place() {
        for (text, problem) in [
            ("[tenants.A]", "line 1, column 10: the name of a tenant"),
            (
                "[tenants.default]",
                "line 1, column 10: the tenant \"default\" is the administrator's",
            ),
            ("[tenants.a]\nquota = 1", "line 2, column 1: \"quota\" is not a key of a tenant"),
            (
                "[tenants.a]\nuids = [-1]",
                "line 2, column 9: an item of uids: it is a number from 0",
            ),
            ("[tenants.a]\nuids = [4294967296]", "line 2, column 9: a user is a number"),
            ("[tenants.a]\nuids = 1", "line 2, column 8: uids: it is an array of numbers"),
            ("[tenants.a.quotas]\nmemory = '1X'", "line 2, column 10: memory: "),
            ("[tenants.a.quotas]\nrate = 0", "line 2, column 8: rate: it is at least 1"),
            ("[tenants.a.quotas]\ninflight = 0", "line 2, column 12: inflight: it is at least 1"),
            (
                "[tenants.a.quotas]\ncpus = 0",
                "line 2, column 8: cpus: it is a number of processors",
            ),
            ("[tenants.a.quotas]\ncpus = 0.0001", "from 0.001 to 1024, as 0.5"),
            (
                "[tenants.a.quotas]\ncpus = '50%'",
                "cpus: it is a number of processors, as 0.5; this is of the type string",
            ),
            ("[tenants.a.quotas]\ndisk = 0", "did you mean \"disks\"?"),
            ("[tenants.a]\nquotas.disks = 0\ndisks.x = {}", "has 1 disks here, and its quota is 0"),
            (
                "[tenants.a.tokens.t]\nrole = 'x'",
                "line 2, column 8: role: it is one of admin, tenant,",
            ),
            (
                "[tenants.a.tokens.t]\nrole = 'tenant'",
                "line 1, column 19: the token \"t\" has no digest",
            ),
            (
                "[tokens.t]\nrole = 'admin'\ndigest = 'x'",
                "line 3, column 10: digest: it is written",
            ),
            ("[tokens.T]", "line 1, column 9: the name of a token"),
        ] {
            let told = parsed(text).unwrap_err();
            assert!(told.contains(problem), "{told}");
        }
        let admin =
            format!("[tenants.a.tokens.t]\nrole = 'admin'\ndigest = '{}'", Digest::of("secret"));
        assert!(parsed(&admin).unwrap_err().contains("no admin's"));
        for table in ["tenants", "tokens"] {
            let told = parse(format!("[disks]\n[{table}.a]"), Author::Api).unwrap_err();
            assert!(told.starts_with("line 2, column 2: "), "{told}");
        }
    }
}
