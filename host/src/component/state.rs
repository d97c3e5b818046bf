//! What a store holds for its instance.

use std::sync::{Mutex, PoisonError};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::log_stream::LogStream;
use super::memory::Share;

/// What a store holds for its instance.
pub(super) struct State {
    share: Share,
    log: LogStream,
    /// Made when the instance first calls an import of WASI: most never do. A mutex only to make this
    /// `Sync`; it is used through `get_mut`.
    wasi: Mutex<Option<Box<(WasiCtx, ResourceTable)>>>,
}

impl State {
    /// What wasmtime keeps for a component that makes streams, clocks and the like and never drops
    /// them is bounded by their number.
    const RESOURCES: usize = 4096;

    /// The most bytes that are made at once for a component that asks for random ones: it cannot be
    /// interrupted meanwhile.
    const RANDOM: u64 = 64 << 10;

    /// For an instance whose output goes there.
    pub(super) fn new(share: Share, log: LogStream) -> Self {
        Self { share, log, wasi: Mutex::new(None) }
    }

    /// What the instance prints.
    pub(super) fn log(&self) -> &LogStream {
        &self.log
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
