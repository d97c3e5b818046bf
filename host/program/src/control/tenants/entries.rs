//! Whose disks an NBD client gets.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use memnbd::connection::{Entrance, Identity};
use memnbd::exports::Exports;

use super::tokens::{Role, Tokens};
use super::ways::Ways;

/// The ways of NBD clients to tenants, and the tokens of all.
#[derive(Default)]
pub(crate) struct Entries {
    pub(super) ways: Ways,
    pub(crate) tokens: Tokens,
    exports: RwLock<HashMap<String, Weak<Exports>>>,
}

impl Entries {
    /// Lets clients in to the exports of a tenant.
    pub(super) fn open(&self, tenant: &str, exports: &Arc<Exports>) {
        let mut all = self.exports.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(tenant.to_owned(), Arc::downgrade(exports));
    }

    /// Lets no clients in any more, and forgets the tokens of the tenant.
    pub(super) fn close(&self, tenant: &str) {
        self.exports.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        self.ways.remove(tenant);
        self.tokens.remove_tenant(tenant);
    }

    fn of(&self, tenant: &str) -> Option<Arc<Exports>> {
        let all = self.exports.read().unwrap_or_else(PoisonError::into_inner);
        all.get(tenant).and_then(Weak::upgrade)
    }
}

impl Entrance for Entries {
    fn exports(&self, client: &Identity<'_>) -> Option<Arc<Exports>> {
        let tenant = self.ways.tenant(client)?;
        // Whoever is of a tenant that is being removed gets nothing, and not what others get.
        Some(self.of(&tenant).unwrap_or_else(|| Arc::new(Exports::in_namespace(&tenant))))
    }

    fn exports_by_name<'a>(&self, name: &'a str) -> Option<(Arc<Exports>, &'a str)> {
        let (secret, disk) = name.split_once('/')?;
        let holder = self.tokens.find(secret).filter(|holder| holder.role == Role::Connect)?;
        Some((self.of(&holder.tenant)?, disk))
    }
}
