//! The configuration of a guest device, and the errors of opening one.

use std::sync::Arc;
use std::{error, fmt, io};

use super::used::GuestUse;
use crate::block::MAX_TRANSFER;
use crate::component::{Client, Component, Fault, MemoryBudget};
use crate::device::{Buffers, LowerError, LowerSource};
use crate::parameters::Argument;

/// The configuration of a guest device.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The component.
    pub component: Component,
    /// The name of the export.
    pub export_name: String,
    /// Whether writes are refused, whatever the component can do.
    pub read_only: bool,
    /// The arguments of the component's `open`.
    pub arguments: Vec<Argument>,
    /// The budgets of its instances and requests.
    pub budgets: Budgets,
    /// The devices on which it stands, one for each argument of the types device and file, in their
    /// order, with the names of their parameters.
    pub lowers: Vec<(String, Arc<dyn LowerSource>)>,
    /// The only client of the device; `None` if clients share it.
    pub client: Option<Client>,
}

/// What the devices of an export may use, and what their guests used.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// For all of its instances together.
    pub memory: MemoryBudget,
    /// For the payloads of requests.
    pub buffers: Buffers,
    /// What the guests used.
    pub used: GuestUse,
}

impl Budgets {
    /// Creates budgets that are not shared: `max_memory` bytes for the instances, and enough for
    /// the longest requests.
    pub fn alone(max_memory: u64) -> Self {
        let most = 2 * u64::from(MAX_TRANSFER);
        Self {
            memory: MemoryBudget::new(max_memory),
            buffers: Buffers::own(most),
            used: GuestUse::default(),
        }
    }
}

/// Why a device could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The component refused, with this message.
    Refused(String),
    /// The component failed.
    Fault(Fault),
    /// The device of this parameter could not be opened.
    Lower {
        /// The name of the parameter.
        parameter: String,
        /// The reason.
        error: LowerError,
    },
    /// The component's threads could not be started, or failed.
    Threads(io::Error),
}

impl OpenError {
    /// Returns true if a retry may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Fault(fault) => fault.may_pass(),
            Self::Threads(_) => true,
            Self::Lower { error, .. } => error.may_pass,
            Self::Refused(_) => false,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => f.write_str(text),
            Self::Fault(fault) => fault.fmt(f),
            Self::Lower { parameter, error } => write!(f, "{parameter}: {}", error.message),
            Self::Threads(error) => write!(f, "no thread could run the component: {error}"),
        }
    }
}

impl error::Error for OpenError {}
