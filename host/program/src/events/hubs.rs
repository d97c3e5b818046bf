//! The events of each tenant, apart from those of others.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Hub;
use crate::control::FIRST;

/// The hubs of all tenants. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Hubs(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// That of the administrator, who is told of everything that is of no tenant.
    first: Hub,
    others: RwLock<HashMap<String, Hub>>,
}

impl Hubs {
    /// Returns the administrator's hub.
    pub(crate) fn first(&self) -> &Hub {
        &self.0.first
    }

    /// Returns the hub of a tenant, which is new if there was none.
    pub(crate) fn add(&self, tenant: &str) -> Hub {
        self.write().entry(tenant.to_owned()).or_default().clone()
    }

    /// Ends the events of a tenant.
    pub(crate) fn remove(&self, tenant: &str) {
        let removed = self.write().remove(tenant);
        removed.iter().for_each(Hub::end);
    }

    /// Returns the hub of a namespace; the empty one is that of the administrator.
    pub(crate) fn of(&self, namespace: &str) -> Option<Hub> {
        match namespace {
            "" => Some(self.0.first.clone()),
            tenant => self.read().get(tenant).cloned(),
        }
    }

    /// Returns true if a disk of the administrator would be called like one of a tenant.
    pub(crate) fn is_like_of_tenant(&self, disk: &str) -> bool {
        self.owner_of(disk).0 != FIRST
    }

    /// Returns the tenant of a disk that the log names, and what it is called there.
    pub(crate) fn owner_of<'a>(&self, disk: &'a str) -> (&'a str, &'a str) {
        let of_tenant =
            disk.split_once('/').filter(|(tenant, _)| self.read().contains_key(*tenant));
        of_tenant.unwrap_or((FIRST, disk))
    }

    /// Returns the hub of a disk that the log names, and what it is called there.
    pub(crate) fn of_disk(&self, disk: String) -> (Hub, String) {
        let (tenant, name) = self.owner_of(&disk);
        match self.read().get(tenant) {
            Some(hub) => (hub.clone(), name.to_owned()),
            None => (self.0.first.clone(), disk),
        }
    }

    /// Ends all events.
    pub(crate) fn end(&self) {
        self.0.first.end();
        self.read().values().for_each(Hub::end);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Hub>> {
        self.0.others.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Hub>> {
        self.0.others.write().unwrap_or_else(PoisonError::into_inner)
    }
}
