//! What a store holds for its instance.

use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::log_stream::LogStream;
use super::lower::{Below, Nothing};
use super::memory::Share;
use crate::output::Output;

/// What a store holds for its instance.
pub(super) struct State {
    share: Share,
    log: LogStream,
    /// The lower devices of the disk.
    below: Arc<dyn Below>,
    /// The outputs of the disk.
    outputs: Box<[Output]>,
    /// Created when the instance first calls a WASI import; most never do. The mutex only makes
    /// this type `Sync`; it is accessed through `get_mut`.
    wasi: Mutex<Option<Box<(WasiCtx, ResourceTable)>>>,
}

impl State {
    /// How many resources, such as streams and clocks, a component may hold. This bounds what
    /// wasmtime stores for one that creates them and never drops them.
    const RESOURCES: usize = 4096;

    /// The most random bytes that a component gets at once, because it cannot be interrupted while
    /// they are generated.
    const RANDOM: u64 = 64 << 10;

    /// Creates the state of an instance that prints to `log`.
    pub(super) fn new(share: Share, log: LogStream) -> Self {
        Self {
            share,
            log,
            below: Arc::new(Nothing),
            outputs: Box::default(),
            wasi: Mutex::new(None),
        }
    }

    /// The standard output and error of the instance.
    pub(super) fn log(&self) -> &LogStream {
        &self.log
    }

    pub(super) fn below(&self) -> &Arc<dyn Below> {
        &self.below
    }

    /// Lets the instance use these devices.
    pub(super) fn stand_on(&mut self, below: Arc<dyn Below>) {
        self.below = below;
    }

    pub(super) fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Lets the instance write to these outputs.
    pub(super) fn write_to(&mut self, outputs: Box<[Output]>) {
        self.outputs = outputs;
    }

    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    pub(super) fn share_mut(&mut self) -> &mut Share {
        &mut self.share
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (ctx, table) = &mut **wasi.get_or_insert_with(|| {
            let ctx = WasiCtx::builder()
                .stdout(self.log.clone())
                .stderr(self.log.clone())
                .max_random_size(Self::RANDOM)
                .build();
            let mut table = ResourceTable::new();
            table.set_max_capacity(Self::RESOURCES);
            Box::new((ctx, table))
        });
        WasiCtxView { ctx, table }
    }
}
