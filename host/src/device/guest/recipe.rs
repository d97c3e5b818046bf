//! What a disk is made of, and why it could not be made. How it is made is not known here.

use std::{error, fmt, io};

use crate::block::MAX_TRANSFER;
use crate::component::{Component, Fault, MemoryBudget};
use crate::device::Buffers;

/// What a disk is made of.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The code.
    pub component: Component,
    /// The name that clients use.
    pub export_name: String,
    /// Whether writing is refused whatever the component can do.
    pub read_only: bool,
    /// For the component's `open`.
    pub parameters: Vec<(String, String)>,
    /// What its instances and its requests may take.
    pub budgets: Budgets,
}

/// What the instances of a disk and the requests of its clients may take.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// The memory of all instances together.
    pub memory: MemoryBudget,
    /// The host's memory for requests.
    pub buffers: Buffers,
}

impl Budgets {
    /// Budgets that nobody shares: so many bytes for the instances, and for requests as much as the
    /// longest ones take.
    pub fn alone(max_memory: u64) -> Self {
        let most = 2 * u64::from(MAX_TRANSFER);
        Self { memory: MemoryBudget::new(max_memory), buffers: Buffers::own(most) }
    }
}

/// Why a disk could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The component refused, in its own words.
    Refused(String),
    /// The component failed.
    Fault(Fault),
    /// There are no threads on which the component could run, or they failed.
    Threads(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => f.write_str(text),
            Self::Fault(fault) => fault.fmt(f),
            Self::Threads(error) => write!(f, "no thread could run the component: {error}"),
        }
    }
}

impl error::Error for OpenError {}
