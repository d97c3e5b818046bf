//! Exports whose device another one stands on.

use std::sync::Arc;

use super::uppers::Conflict;
use super::{Export, Failed};
use crate::device::Device;
use crate::parameters::Link;

/// Another device stands on the one of this export, for as long as this lives.
pub(super) struct StoodOn {
    export: Arc<Export>,
    link: Link,
}

impl Drop for StoodOn {
    fn drop(&mut self) {
        self.export.uppers.remove(self.link);
    }
}

/// Why another device cannot stand on the one of an export.
pub(super) enum NotStoodOn {
    /// The export could not be opened.
    Failed(Failed),
    /// Somebody else would be disturbed.
    Conflict(Conflict),
}

impl Export {
    /// Returns the device for another one to stand on, and opens it if need be. It is not replaced, and the
    /// export not removed, as long as the second value lives.
    pub(super) async fn stand_on(
        self: &Arc<Self>,
        link: Link,
    ) -> Result<(Arc<dyn Device>, StoodOn), NotStoodOn> {
        loop {
            self.disk().await.map_err(NotStoodOn::Failed)?;
            // In turn with those who replace the device.
            let _replacing = self.ports.replacing().await;
            if let Some(device) = self.opened() {
                // Clients of a private export have other disks.
                let may_write = device.geometry().capabilities.writable && !self.private;
                let clients = || if may_write { self.connections() } else { 0 };
                self.uppers.add(link, clients).map_err(NotStoodOn::Conflict)?;
                return Ok((device, StoodOn { export: self.clone(), link }));
            }
        }
    }

    /// Returns true if the device of another export stands on the one of this.
    pub fn is_stood_on(&self) -> bool {
        self.uppers.exist()
    }

    /// Returns true if clients must not write, because another export relies on the content. Ask after
    /// [`Self::enter`]: while a client that may write has a port, nothing comes to rely on the content.
    pub(crate) fn denies_writes(&self) -> bool {
        self.with_disk().uppers.denies_writes()
    }
}
