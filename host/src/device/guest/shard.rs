//! A place for an instance, and its locks.

use std::ops::{Deref, DerefMut};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::pool::Pooled;
use crate::component::Instance;

/// A place for one instance.
pub(super) struct Shard {
    instance: Option<Instance>,
}

impl Shard {
    pub(super) fn new(instance: Option<Instance>) -> Self {
        Self { instance }
    }

    pub(super) fn is_started(&self) -> bool {
        self.instance.is_some()
    }

    /// Returns the instance, if it is started.
    #[inline]
    pub(super) fn started(&self) -> Option<&Instance> {
        self.instance.as_ref()
    }

    /// As [`Self::started`], mutably.
    #[inline]
    pub(super) fn started_mut(&mut self) -> Option<&mut Instance> {
        self.instance.as_mut()
    }

    /// Returns the instance of a shard that was started.
    pub(super) fn instance(&self) -> &Instance {
        self.started().expect("a locked shard was started")
    }

    /// As [`Self::instance`], mutably.
    pub(super) fn instance_mut(&mut self) -> &mut Instance {
        self.started_mut().expect("a locked shard was started")
    }

    /// Drops the instance and frees its memory.
    pub(super) fn stop(&mut self) {
        self.instance = None;
    }
}

/// A shard locked for writing.
pub(super) enum Locked {
    Slot(OwnedRwLockWriteGuard<Shard>),
    Pooled(Pooled),
}

/// A shard locked for reading.
pub(super) enum Shared {
    Slot(OwnedRwLockReadGuard<Shard>),
    /// Nobody else uses it.
    Pooled(Pooled),
}

impl Locked {
    /// Allows others to read.
    pub(super) fn downgrade(self) -> Shared {
        match self {
            Self::Slot(shard) => Shared::Slot(shard.downgrade()),
            Self::Pooled(shard) => Shared::Pooled(shard),
        }
    }
}

impl Deref for Locked {
    type Target = Shard;

    #[inline]
    fn deref(&self) -> &Shard {
        match self {
            Self::Slot(shard) => shard,
            Self::Pooled(shard) => shard,
        }
    }
}

impl DerefMut for Locked {
    #[inline]
    fn deref_mut(&mut self) -> &mut Shard {
        match self {
            Self::Slot(shard) => shard,
            Self::Pooled(shard) => shard,
        }
    }
}

impl Deref for Shared {
    type Target = Shard;

    #[inline]
    fn deref(&self) -> &Shard {
        match self {
            Self::Slot(shard) => shard,
            Self::Pooled(shard) => shard,
        }
    }
}
