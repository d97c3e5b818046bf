//! How much of its quotas a tenant uses.

use std::time::Duration;

use memnbd::exports::SharedBudgets;

use super::{Bounds, Tenant};

/// The number of quotas of which something is used at a time.
pub(super) const LEVELS: usize = 7;

/// How much of a quota is used.
pub(crate) struct Level {
    /// The name of the quota.
    pub(crate) quota: &'static str,
    pub(crate) used: u64,
    /// The quota, if there is one. That of processors is in thousandths, and so is what is used of it.
    pub(crate) most: Option<u64>,
    /// What is used changes with each request.
    pub(super) comes_and_goes: bool,
}

impl Tenant {
    /// Returns how much of what it may have it has; `None` if it is the first.
    pub(crate) fn levels(&self) -> Option<[Level; LEVELS]> {
        let Bounds { budgets: SharedBudgets { memory, buffers, time }, sizes, .. } =
            self.bounds.as_ref()?;
        let quotas = self.spec()?.quotas;
        let server = &self.api.server;
        let snapshots = self.api.catalog().snapshots().len();
        let level = |quota, used, most| Level { quota, used, most, comes_and_goes: false };
        let brief = |quota, used, most| Level { quota, used, most, comes_and_goes: true };
        let processors = quotas.processors().map(|share| share.thousandths().into());
        Some([
            level("disks", server.export_count() as u64, Some(quotas.disks as u64)),
            level("snapshots", snapshots as u64, Some(quotas.snapshots as u64)),
            level("connections", server.connections(), Some(quotas.connections)),
            level("memory", memory.used(), Some(quotas.memory)),
            brief("inflight", buffers.used(), Some(quotas.inflight.get())),
            level("size", sizes.used(), quotas.size),
            brief("cpus", time.load(), processors),
        ])
    }

    /// Returns the time for which its requests were held back by quotas; `None` if it is the first.
    pub(crate) fn held_back(&self) -> Option<[(&'static str, Duration); 2]> {
        let SharedBudgets { buffers, time, .. } = &self.bounds.as_ref()?.budgets;
        Some([("inflight", buffers.held_back()), ("cpus", time.held_back())])
    }
}
