//! What stage of its life an export is in, with what it has then.

use std::sync::Arc;

use super::{Failed, Stage, State};
use crate::device::Device;
use crate::device::guest::DiskConfig;

#[derive(Default)]
pub(super) struct Status {
    /// Set once the component is loaded.
    pub(super) config: Option<DiskConfig>,
    pub(super) phase: Phase,
}

#[derive(Clone, Default)]
pub(super) enum Phase {
    /// The disk is opened on demand.
    #[default]
    Closed,
    Busy(Stage),
    Open(Arc<dyn Device>),
    Failed(Failed),
    /// The export is being removed, and its device is still to be flushed.
    Draining(Arc<dyn Device>),
    Gone,
}

impl Phase {
    pub(super) fn state(&self) -> State {
        match self {
            Self::Closed => State::Closed,
            Self::Busy(stage) => State::Opening(*stage),
            Self::Open(_) => State::Live,
            Self::Failed(failed) => State::Failed(failed.clone()),
            Self::Draining(_) => State::Draining,
            Self::Gone => State::Gone,
        }
    }
}

impl Status {
    pub(super) fn stage(&self) -> Option<Stage> {
        match self.phase {
            Phase::Busy(stage) => Some(stage),
            _ => None,
        }
    }
}
