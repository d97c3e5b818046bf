//! The commands for tenants and tokens.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::args::{Role, TenantOptions};
use crate::http::{Server, encoded};
use crate::secret::{Digest, new_secret};
use crate::table::{Table, size};
use crate::{items, lines, text};

/// Where the tenants are.
const TENANTS: &str = "/v1/tenants";

/// Where the tokens of a tenant are.
const TOKENS: &str = "tokens";

/// Lists the tenants.
pub(crate) async fn list(server: &Server, json: bool) -> anyhow::Result<String> {
    let tenants = server.get(TENANTS).await?;
    if json {
        return Ok(lines(&tenants));
    }
    let columns = ["NAME", "DISKS", "SNAPSHOTS", "CONNECTIONS", "MEMORY", "INFLIGHT", "CPUS"];
    let mut table = Table::new(&columns);
    for tenant in items(&tenants) {
        let (usage, quotas) = (&tenant["usage"], &tenant["spec"]["quotas"]);
        let of = |key: &str| match &quotas[key] {
            Value::Null => text(&usage[key]),
            most => format!("{} of {most}", text(&usage[key])),
        };
        let bytes = |key: &str| {
            let used = usage[key].as_u64().map_or_else(|| "-".into(), size);
            match quotas[key].as_u64() {
                Some(most) => format!("{used} of {}", size(most)),
                None => used,
            }
        };
        let numbers = ["disks", "snapshots", "connections"].map(of);
        let [disks, snapshots, connections] = numbers;
        let (memory, inflight) = (bytes("memory"), bytes("inflight"));
        let name = text(&tenant["name"]);
        table.row([name, disks, snapshots, connections, memory, inflight, of("cpus")]);
    }
    Ok(table.to_string())
}

/// Creates or changes a tenant.
pub(crate) async fn put(
    server: &Server,
    name: &str,
    options: &TenantOptions,
    json: bool,
) -> anyhow::Result<String> {
    let TenantOptions { disks, snapshots, connections, memory, size, .. } = options;
    let TenantOptions { inflight, rate, requests, .. } = options;
    let cpus = options.cpus.map(f64::from);
    let quotas = [
        ("disks", disks),
        ("snapshots", snapshots),
        ("connections", connections),
        ("memory", memory),
        ("inflight", inflight),
        ("size", size),
        ("rate", rate),
        ("requests", requests),
    ];
    let given =
        quotas.into_iter().filter_map(|(key, most)| Some((key.to_owned(), json!((*most)?))));
    let given = given.chain(cpus.map(|cpus| ("cpus".to_owned(), json!(cpus))));
    let spec = json!({
        "quotas": given.collect::<serde_json::Map<_, _>>(),
        "uids": options.uids,
        "keys": options.keys,
        "certificates": options.certificates,
    });
    let made = server.put(&format!("{TENANTS}/{}", encoded(name)), &spec).await?;
    Ok(if json { lines(&made) } else { String::new() })
}

/// Removes a tenant.
pub(crate) async fn remove(server: &Server, name: &str) -> anyhow::Result<String> {
    server.delete(&format!("{TENANTS}/{}", encoded(name))).await.map(|_| String::new())
}

/// Lists the tokens of the tenant.
pub(crate) async fn list_tokens(server: &Server, json: bool) -> anyhow::Result<String> {
    let tokens = server.get(TOKENS).await?;
    if json {
        return Ok(lines(&tokens));
    }
    let mut table = Table::new(&["NAME", "ROLE", "DIGEST"]);
    for token in items(&tokens) {
        table.row(["name", "role", "digest"].map(|key| text(&token[key])));
    }
    Ok(table.to_string())
}

/// Makes a secret and its digest.
pub(crate) fn make_secret(json: bool) -> anyhow::Result<String> {
    let secret = new_secret().context("make a secret")?;
    let digest = Digest::of(&secret).to_string();
    Ok(match json {
        true => lines(&json!({ "secret": secret, "digest": digest })),
        false => format!("{secret}\n{digest}\n"),
    })
}

/// Creates a token, or gives it another secret. The server gets only the digest.
pub(crate) async fn put_token(
    server: &Server,
    name: &str,
    role: Role,
    json: bool,
) -> anyhow::Result<String> {
    let secret = new_secret().context("make a secret")?;
    let role = match role {
        Role::Admin => "admin",
        Role::Tenant => "tenant",
        Role::ReadOnly => "read-only",
        Role::Connect => "connect",
    };
    let spec = json!({ "role": role, "digest": Digest::of(&secret).to_string() });
    let mut made = server.put(&format!("{TOKENS}/{}", encoded(name)), &spec).await?;
    made["secret"] = json!(secret);
    Ok(if json { lines(&made) } else { format!("{secret}\n") })
}

/// Removes a token.
pub(crate) async fn remove_token(server: &Server, name: &str) -> anyhow::Result<String> {
    server.delete(&format!("{TOKENS}/{}", encoded(name))).await.map(|_| String::new())
}
