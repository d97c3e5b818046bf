//! What an instance is started from.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::InstancePre;
use wasmtime::{Store, UpdateDeadline};

use super::limits::{self, Limits};
use super::log_stream::{LogStream, Output};
use super::memory::{MemoryBudget, Share};
use super::prepared::Prepared;
use super::state::State;

/// Compiled code, its imports, and the limits of its instances.
#[derive(Clone)]
pub(super) struct Executable {
    prepared: Prepared,
    deadline: Duration,
    /// The log of everything that the instances print.
    output: Arc<Output>,
}

impl Executable {
    pub(super) fn new(prepared: Prepared, deadline: Duration, output: Arc<Output>) -> Self {
        Self { prepared, deadline, output }
    }

    /// Returns a copy whose instances print to another output.
    pub(super) fn with_output(&self, output: Arc<Output>) -> Self {
        Self { output, ..self.clone() }
    }

    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    pub(super) fn pre(&self) -> &InstancePre<State> {
        &self.prepared.pre
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { clock: self.prepared.shared.clock.clone(), deadline: self.deadline }
    }

    pub(super) fn output(&self) -> &Arc<Output> {
        &self.output
    }

    /// Creates a store for one instance, which may use memory from the budget and nothing else.
    pub(super) fn store(&self, budget: MemoryBudget) -> Store<State> {
        let state = State::new(Share::new(budget), LogStream::new(self.output.clone()));
        let mut store = Store::new(&self.prepared.shared.engine, state);
        store.limiter(|state| state.share_mut());
        store.epoch_deadline_callback(|_| {
            limits::interrupted();
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }
}
