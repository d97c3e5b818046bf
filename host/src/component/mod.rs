//! Components and their instances: the one module that owns wasmtime.
//!
//! This module implements the contract in `wit/` and keeps a component within its limits: its
//! memory, its time, what it may import, and how much it may log. It knows nothing of NBD, of
//! clients, or of how requests are spread over instances.
//!
//! Components are not trusted. Whatever a component returns is checked before it leaves this
//! module. A violation becomes a [`Fault`], after which the instance must not be called again.

mod artifact;
mod bindings;
mod breach;
mod built_in;
mod cache;
mod call;
mod check;
mod clock;
mod code;
mod compiler;
mod contract;
mod control;
mod direct;
mod engine;
mod executable;
mod fault;
mod functions;
mod instance;
mod limits;
mod listing;
mod load_error;
mod log;
mod log_stream;
mod lower;
mod memory;
mod output;
mod prepared;
mod region;
mod route;
mod settings;
mod state;
#[cfg(test)]
pub(crate) mod tests;

pub use artifact::Damage;
pub use bindings::OwnedChunk;
pub use breach::Breach;
pub use built_in::BuiltIn;
pub use call::Call;
pub use check::{BASE, Description, Disk, Sharing};
pub use compiler::{
    Broker, ChildCompiler, CompileError, CompileLimits, Compiler, MAX_COMPONENT, Observer,
    Progress, child_main,
};
pub(crate) use contract::LOWER_LIMIT;
pub use contract::WIT;
pub use control::ControlCommand;
pub use direct::Resident;
pub use engine::{Component, Engine};
pub use fault::{Fault, Limit};
pub use instance::{Client, Instance};
pub use limits::poll_guest;
pub use listing::{Listed, ListedExport};
pub use load_error::LoadError;
pub use lower::{Below, Executing, Hold, Operations, Reply};
pub use memory::MemoryBudget;
pub use region::Hint;
pub use route::{
    Copy, Location, Lock, Place, PlaceError, Request, Results, Route, Rules, Segment, StableRoute,
};

/// The interface of the contract that a backend exports.
pub const INTERFACE: &str = "memnbd:block/block-store";

/// The interfaces that a backend may export in addition.
pub const DIRECT_ACCESS: &str = "memnbd:block/direct-access";
const LENDING: &str = "memnbd:block/lending";
const SHARDING: &str = "memnbd:block/sharding";
const ROUTING: &str = "memnbd:block/routing";
const CONTROL: &str = "memnbd:block/control";
const LISTING: &str = "memnbd:block/listing";
const EVENTS: &str = "memnbd:block/events";

/// The interfaces through which a component logs, reaches lower devices and writes to files.
const LOG: &str = "memnbd:block/log";
const LOWER: &str = "memnbd:block/lower";
const OUTPUT: &str = "memnbd:block/output";

/// The version of the contract that this host implements.
pub const CONTRACT_VERSION: &str = "0.2.0";
