//! The exports of a server: named disks, each opened when it is first needed.
//!
//! An export that fails stays in the registry, with the reason, and does not affect the others. This
//! module does not know where components come from, or how clients reach the exports.

mod attempt;
mod backoff;
mod bitmaps;
mod budgets;
mod closing;
mod export;
mod heat;
mod links;
mod listing;
mod map;
mod naming;
mod observer;
mod opening;
mod other_name;
mod phase;
mod policy;
mod problem;
mod registry;
mod replacing;
mod state;
mod stood_on;
#[cfg(test)]
pub(crate) mod tests;
mod uppers;

pub use crate::component::{Client, Listed, ListedExport};
pub use backoff::Backoff;
pub use bitmaps::Bitmaps;
pub use budgets::{ProcessBudgets, SharedBudgets};
pub use export::{Export, Loading, Source, Supplied};
pub use heat::NotWatched;
pub use links::{KnownExports, LowerExport};
pub use listing::{FindExports, Finding};
pub use map::{MAX_CELLS, Map, NotMapped};
pub use naming::{Described, ListedNames, Naming};
pub use observer::{Change, Observe};
pub use policy::{Delays, Policy};
pub use problem::Problem;
pub(crate) use registry::Requested;
pub use registry::{DuplicateName, Exports, Make, NotRemoved};
pub use replacing::{Held, NotReplaced};
pub use state::{Failed, Stage, State};
