//! Tokens: secrets that let those who have them do something for a tenant. Only their digests are kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::changes::Origin;
use crate::secret::Digest;

/// The most tokens of a tenant.
const MAX_TOKENS: usize = 64;

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Everything, with every tenant. Only tokens of the tenant `default` have it.
    Admin,
    /// Everything with the disks, snapshots and tokens of the tenant.
    Tenant,
    /// To look at what the tenant has, but not to read disks.
    ReadOnly,
    /// To open the disks of the tenant as an NBD client, which asks for the export `TOKEN/DISK`; nothing in
    /// the control API.
    Connect,
}

impl Role {
    /// The roles, as they are written.
    pub(crate) const NAMES: [&str; 4] = ["admin", "tenant", "read-only", "connect"];
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "admin" => Self::Admin,
            "tenant" => Self::Tenant,
            "read-only" => Self::ReadOnly,
            "connect" => Self::Connect,
            _ => return Err(()),
        })
    }
}

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) role: Role,
    pub(crate) digest: Digest,
    pub(crate) origin: Origin,
}

impl Token {
    /// Creates a token of the configuration file.
    pub(crate) fn of_file(role: Role, digest: Digest) -> Self {
        Self { role, digest, origin: Origin::File }
    }
}

/// Who has a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) tenant: Arc<str>,
    /// The name of the token.
    pub(crate) token: Arc<str>,
    pub(crate) role: Role,
}

/// The tokens of all tenants.
#[derive(Default)]
pub(crate) struct Tokens(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    /// By tenant and name.
    tokens: HashMap<String, BTreeMap<String, Token>>,
    /// A look-up by what nobody can choose tells nothing by the time that it takes.
    holders: HashMap<Digest, Holder>,
}

/// Why a token was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSet {
    /// The tenant has as many as it may have.
    Full,
    /// Another token has this secret.
    Taken,
    /// The token is one of the configuration file.
    OfFile,
}

impl fmt::Display for NotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "there are {MAX_TOKENS} tokens, and no more are possible"),
            Self::Taken => f.write_str("another token has this digest; make a new secret"),
            Self::OfFile => f.write_str("the configuration file has this token, and changes it"),
        }
    }
}

impl Tokens {
    /// Returns who has a secret.
    pub(crate) fn find(&self, secret: &str) -> Option<Holder> {
        self.read().holders.get(&Digest::of(secret)).cloned()
    }

    /// Returns the tokens of a tenant.
    pub(crate) fn of(&self, tenant: &str) -> BTreeMap<String, Token> {
        self.read().tokens.get(tenant).cloned().unwrap_or_default()
    }

    /// Adds a token, in place of one of the same name. Returns whether it is a new one.
    pub(crate) fn set(&self, tenant: &str, name: &str, token: Token) -> Result<bool, NotSet> {
        self.write().set(tenant, name, token)
    }

    /// Removes a token. Returns false if there is none of this name.
    pub(crate) fn remove(&self, tenant: &str, name: &str) -> Result<bool, NotSet> {
        let mut inner = self.write();
        let of_tenant = inner.tokens.get(tenant);
        let Some(token) = of_tenant.and_then(|of| of.get(name)).copied() else { return Ok(false) };
        if token.origin == Origin::File {
            return Err(NotSet::OfFile);
        }
        inner.forget(tenant, name);
        Ok(true)
    }

    /// Removes the tokens of a tenant.
    pub(crate) fn remove_tenant(&self, tenant: &str) {
        let mut inner = self.write();
        let names: Vec<String> =
            inner.tokens.get(tenant).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        names.iter().for_each(|name| inner.forget(tenant, name));
        inner.tokens.remove(tenant);
    }

    /// Checks that the tokens of the configuration file can be these.
    pub(crate) fn check_file(
        &self,
        of_file: &[(String, String, Token)],
    ) -> Result<(), (String, NotSet)> {
        self.read().with_file(of_file).map(drop)
    }

    /// Makes the tokens of the configuration file these, at once. Nothing changes if one is wrong.
    pub(crate) fn replace_file(
        &self,
        of_file: &[(String, String, Token)],
    ) -> Result<(), (String, NotSet)> {
        let mut inner = self.write();
        *inner = inner.with_file(of_file)?;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns the tokens that there are with these of the configuration file.
    fn with_file(&self, of_file: &[(String, String, Token)]) -> Result<Self, (String, NotSet)> {
        let mut next = Self::default();
        for (tenant, tokens) in &self.tokens {
            for (name, token) in tokens.iter().filter(|(_, token)| token.origin != Origin::File) {
                next.set(tenant, name, *token).map_err(|error| (name.clone(), error))?;
            }
        }
        for (tenant, name, token) in of_file {
            next.forget(tenant, name);
            next.set(tenant, name, *token).map_err(|error| (name.clone(), error))?;
        }
        Ok(next)
    }

    fn set(&mut self, tenant: &str, name: &str, token: Token) -> Result<bool, NotSet> {
        let of_tenant = self.tokens.get(tenant);
        let before = of_tenant.and_then(|of| of.get(name)).copied();
        if before.is_some_and(|before| before.origin == Origin::File) {
            return Err(NotSet::OfFile);
        }
        if before.is_none() && of_tenant.is_some_and(|of| of.len() >= MAX_TOKENS) {
            return Err(NotSet::Full);
        }
        let has_it = self.holders.get(&token.digest);
        if has_it.is_some_and(|other| (&*other.tenant, &*other.token) != (tenant, name)) {
            return Err(NotSet::Taken);
        }
        self.forget(tenant, name);
        self.tokens.entry(tenant.to_owned()).or_default().insert(name.to_owned(), token);
        let holder = Holder { tenant: tenant.into(), token: name.into(), role: token.role };
        self.holders.insert(token.digest, holder);
        Ok(before.is_none())
    }

    fn forget(&mut self, tenant: &str, name: &str) {
        let removed = self.tokens.get_mut(tenant).and_then(|of| of.remove(name));
        if let Some(token) = removed {
            self.holders.remove(&token.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(secret: &str, origin: Origin) -> Token {
        Token { role: Role::Tenant, digest: Digest::of(secret), origin }
    }

    #[test]
    fn tokens_are_found_by_their_secrets_until_they_are_replaced_or_removed() {
        let tokens = Tokens::default();
        assert_eq!(tokens.set("a", "ci", token("one", Origin::Api)), Ok(true));
        assert_eq!(tokens.set("b", "ci", token("one", Origin::Api)), Err(NotSet::Taken));
        let holder = tokens.find("one").unwrap();
        assert_eq!((&*holder.tenant, &*holder.token), ("a", "ci"));
        assert_eq!(tokens.set("a", "ci", token("two", Origin::Api)), Ok(false));
        assert!(tokens.find("one").is_none() && tokens.find("two").is_some());
        assert_eq!(tokens.set("b", "ci", token("one", Origin::Api)), Ok(true));
        assert_eq!((tokens.remove("a", "ci"), tokens.remove("a", "ci")), (Ok(true), Ok(false)));
        assert!(tokens.find("two").is_none());
        tokens.remove_tenant("b");
        assert!(tokens.find("one").is_none() && tokens.of("b").is_empty());
    }

    #[test]
    fn tenants_have_as_many_tokens_as_they_may() {
        let tokens = Tokens::default();
        for number in 0..MAX_TOKENS {
            let name = number.to_string();
            assert_eq!(tokens.set("a", &name, token(&name, Origin::Api)), Ok(true));
        }
        assert_eq!(tokens.set("a", "x", token("x", Origin::Api)), Err(NotSet::Full));
        assert_eq!(tokens.set("a", "0", token("x", Origin::Api)), Ok(false));
    }

    #[test]
    fn file_changes_its_tokens_and_no_others() {
        let tokens = Tokens::default();
        let of_file = |name: &str, secret: &str| {
            ("a".to_owned(), name.to_owned(), token(secret, Origin::File))
        };
        tokens.replace_file(&[of_file("ci", "one")]).unwrap();
        assert_eq!(tokens.set("a", "ci", token("two", Origin::Api)), Err(NotSet::OfFile));
        assert_eq!(tokens.remove("a", "ci"), Err(NotSet::OfFile));
        tokens.set("a", "mine", token("mine", Origin::Api)).unwrap();
        let twice = [of_file("x", "three"), of_file("y", "three")];
        assert_eq!(tokens.replace_file(&twice), Err(("y".into(), NotSet::Taken)));
        assert!(tokens.find("one").is_some(), "nothing was changed");
        tokens.replace_file(&[of_file("ci", "three")]).unwrap();
        assert!(tokens.find("one").is_none());
        assert!(tokens.find("three").is_some() && tokens.find("mine").is_some());
    }
}
