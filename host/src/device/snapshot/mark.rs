//! What tells whether bytes were changed since a snapshot: the devices on which its content is.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use super::Snapshot;
use crate::device::Device;

/// The devices on which the content of a snapshot is. They do not change any more, so what a disk that
/// descends from the snapshot has on another device was changed since. It does not keep them open.
pub struct Mark {
    /// Their addresses. No other device has one of them while `devices` exists.
    addresses: HashSet<usize>,
    /// The base, and the overlays from the lowest on.
    devices: Vec<Weak<dyn Device>>,
}

impl Mark {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let devices = || [&snapshot.base].into_iter().chain(&snapshot.overlays);
        Self {
            addresses: devices().map(address).collect(),
            devices: devices().map(Arc::downgrade).collect(),
        }
    }

    /// Returns true if the device is one of them.
    pub(in crate::device) fn contains(&self, device: &Arc<dyn Device>) -> bool {
        self.addresses.contains(&address(device))
    }

    /// Returns true if the device is the uppermost of them: a disk that stands on it descends from the
    /// snapshot.
    pub(in crate::device) fn is_last(&self, device: &Arc<dyn Device>) -> bool {
        self.devices.last().is_some_and(|last| last.as_ptr().addr() == address(device))
    }
}

fn address(device: &Arc<dyn Device>) -> usize {
    Arc::as_ptr(device).addr()
}
