//! A device that is implemented by a component, with one or more instances.
//!
//! It spreads commands over the instances (`shards`), emulates what the component lacks (zeroing by
//! writing, FUA by flushing, access to parts of blocks, extents), and makes sure that a device
//! whose component failed stays dead. It knows neither NBD's messages nor wasmtime.
//!
//! An execution owns all it needs, so that it can be spawned if it is not ready at once. It must be
//! driven to its end, for a guest may be in the middle of its work. `schedule` decides on which
//! threads executions are polled.

mod align;
mod config;
mod control;
mod events;
mod execute;
mod extents;
mod lease;
mod listing;
mod pool;
mod route;
mod schedule;
mod shard;
mod shards;
#[cfg(test)]
mod tests;
mod time;
mod used;
mod zero;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::RwLock;
use tokio::task::consume_budget;

use crate::block::{BlockSizes, Capabilities, Error, ErrorCode, Geometry, MAX_TRANSFER, Span};
use crate::component::{self, Below, Fault, MemoryBudget};
use crate::compute::Compute;
use crate::device::answer::copy_chunks;
use crate::device::{Answer, Buffers, Content, Outcome};
use crate::output::Output;
use crate::parameters;
pub use config::{Budgets, DiskConfig, OpenError};
pub use lease::GuestLease;
pub(in crate::device) use listing::list_exports;
use schedule::Schedule;
use shard::Locked;
use shards::Shards;
pub(crate) use time::{Begun, MustWait};
pub use time::{GuestTime, NotProcessors, Processors};
pub use used::GuestUse;

/// The most stripes that one cache command reaches.
const MAX_CACHED_STRIPES: usize = 1024;

/// How much data stays in the processor's cache while it is copied twice, in bytes.
const CACHED_PIECE: u64 = 128 << 10;

/// A device that is implemented by a component.
pub struct GuestDevice {
    export_name: String,
    component: component::Disk,
    geometry: Geometry,
    shards: Shards,
    schedule: Schedule,
    buffers: Buffers,
    /// The files to which the component writes.
    outputs: Vec<Output>,
    /// The component was told that the disk is about to be closed.
    closing: AtomicBool,
    /// The component has direct access, blocks of one byte, and an instance for each offset.
    leases: bool,
    /// The component failed; all commands fail with EIO.
    dead: AtomicBool,
    /// The next execution panics.
    #[cfg(test)]
    panics: AtomicBool,
    /// Held for reading by writers of whole blocks, for writing by writers of parts of blocks.
    blocks: RwLock<()>,
}

impl GuestDevice {
    /// Opens the device with a first instance of the component, which may use the devices of `below`.
    ///
    /// # Errors
    ///
    /// Returns an error if the component refuses to open it, or fails.
    pub(super) async fn open(
        config: DiskConfig,
        below: Option<Arc<dyn Below>>,
    ) -> Result<Self, OpenError> {
        let compute = Compute::default();
        let (built_in, used) = (config.component.is_built_in(), config.budgets.used.clone());
        // On the heap: each of the futures around this one would have a copy or two of it, and the pages
        // of the stack that they take are a good part of what a start costs.
        let opening = Box::pin(Self::open_with(config, below, compute.clone()));
        match built_in {
            true => opening.await,
            false => compute.run(used.timed(opening)).await.map_err(OpenError::Threads)?,
        }
    }

    async fn open_with(
        config: DiskConfig,
        below: Option<Arc<dyn Below>>,
        compute: Compute,
    ) -> Result<Self, OpenError> {
        let used = config.budgets.used.clone();
        let schedule = Schedule::new(compute, config.component.is_built_in(), used.clone());
        let buffers = config.budgets.buffers.clone();
        let export_name = config.export_name.clone();
        let outputs = parameters::outputs(&config.arguments).cloned().collect();
        let read_only = config.read_only;
        let opened = Shards::open(config, below).await;
        if let Err(OpenError::Fault(_)) = &opened {
            used.fault();
        }
        let (shards, component) = opened?;
        let writable = component.capabilities.writable && !read_only;
        let geometry = Geometry {
            size: component.size,
            block_sizes: BlockSizes { maximum: MAX_TRANSFER, ..component.block_sizes },
            capabilities: Capabilities {
                writable,
                // Without a flush in the component, writes are durable at once: both can be
                // offered.
                flush: true,
                fua: true,
                zero: writable,
                trim: writable && component.capabilities.trim,
                fast_zero: writable && component.capabilities.fast_zero,
                ..component.capabilities
            },
            description: component.description.clone(),
        };
        Ok(Self {
            export_name,
            leases: component.direct_access
                && component.block_sizes.minimum == 1
                && !shards.is_pool(),
            component,
            geometry,
            shards,
            schedule,
            buffers,
            outputs,
            closing: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            #[cfg(test)]
            panics: AtomicBool::new(false),
            blocks: RwLock::new(()),
        })
    }

    /// Whether the component failed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// The memory budget of the instances.
    pub fn memory(&self) -> &MemoryBudget {
        self.shards.memory()
    }

    /// Marks the device as dead. The first to do so logs the cause.
    fn die(&self, fault: &Fault) -> ErrorCode {
        if !self.dead.swap(true, Ordering::Relaxed) {
            let printed = match self.shards.recent_output() {
                lines if lines.is_empty() => String::new(),
                lines => format!("; the component last printed {lines:?}"),
            };
            self.schedule.used().fault();
            tracing::error!(
                "export {:?}: {fault}{printed}; the export is dead, all requests to it fail from \
                 now on",
                self.export_name
            );
            // On compute threads, for unmapping memory takes its time.
            self.schedule.spawn(Box::pin(self.shards.clear()), true);
        }
        ErrorCode::Io
    }

    /// Returns the component's answer. If it is a fault, drops the instance and marks the device as
    /// dead.
    fn kill_on_fault<T>(
        &self,
        shard: &mut Locked,
        answer: Result<Result<T, Error>, Fault>,
    ) -> Result<T, Error> {
        match answer {
            Ok(answer) => answer,
            Err(fault) => {
                shard.stop();
                Err(self.die(&fault).into())
            }
        }
    }

    /// Locks the shard that may write at an offset, and starts its instance if necessary.
    async fn shard(&self, offset: u64) -> Result<Locked, Error> {
        match self.started(self.shards.index(offset)).await {
            Ok(shard) => Ok(shard),
            Err(Unavailable::NoMemory) if !self.shards.is_striped() => self.any_started().await,
            Err(Unavailable::NoMemory) => Err(ErrorCode::NoSpc.into()),
            Err(Unavailable::Dead) => Err(ErrorCode::Io.into()),
        }
    }

    /// Locks a shard for reading. If it cannot be started, its stripes are as they were when the
    /// device was opened, so any started shard will do.
    async fn shard_to_read(&self, index: usize) -> Result<Locked, Error> {
        match self.started(index).await {
            Ok(shard) => Ok(shard),
            Err(Unavailable::NoMemory) => self.any_started().await,
            Err(Unavailable::Dead) => Err(ErrorCode::Io.into()),
        }
    }

    async fn any_started(&self) -> Result<Locked, Error> {
        let shard = self.shards.any_started().await;
        if self.is_dead() {
            return Err(ErrorCode::Io.into());
        }
        shard.ok_or_else(|| ErrorCode::NoMem.into())
    }

    /// Locks a shard and starts its instance if necessary. If that fails, the other shards are
    /// still served.
    async fn started(&self, index: usize) -> Result<Locked, Unavailable> {
        let mut shard = self.shards.lock(index).await;
        if self.is_dead() {
            shard.stop();
            return Err(Unavailable::Dead);
        }
        if shard.is_started() {
            return Ok(shard);
        }
        // Boxed, so that the futures of requests are small: they are moved, and this is rare.
        match Box::pin(self.shards.start(&mut shard, &self.component)).await {
            Ok(()) => Ok(shard),
            Err(failure) => {
                if let Some(fault) = failure {
                    self.schedule.used().fault();
                    let name = &self.export_name;
                    tracing::warn!("export {name:?}: cannot start another instance: {fault}");
                }
                Err(Unavailable::NoMemory)
            }
        }
    }

    async fn read(&self, span: Span) -> Result<Content, Error> {
        if span.length <= self.longest_transfer(span.offset) {
            return self.read_one(span).await;
        }
        let mut parts = Vec::new();
        let mut left = span;
        while left.length > 0 {
            let part = self.first_transfer(left);
            copy_chunks(&self.read_one(part).await?, &mut parts);
            left = left.after(part.length);
        }
        Ok(Content::Copied(parts))
    }

    /// Reads a span that one call of the component can read.
    async fn read_one(&self, span: Span) -> Result<Content, Error> {
        let mut shard = self.shard_to_read(self.shards.index(span.offset)).await?;
        let resident = shard.instance_mut().make_resident(span).await;
        if let Some(resident) = self.kill_on_fault(&mut shard, resident.map(Ok))? {
            return Ok(Content::Lease(GuestLease::shared(shard.downgrade(), resident).into()));
        }
        let length = u32::try_from(span.length).expect("a transfer is at most 64 MiB");
        let answer = shard.instance_mut().read(span.offset, length).await;
        self.kill_on_fault(&mut shard, answer)?;
        Ok(Content::Lease(GuestLease::last_read(shard, span.length).into()))
    }

    /// Makes pages for a span, as far as there is memory for them.
    async fn make_pages(&self, span: Span) -> Outcome {
        let mut left = span;
        while left.length > 0 {
            let part = self.shards.first_stripe(left);
            let mut shard = self.shard(part.offset).await?;
            let made = shard.instance_mut().make_pages(part).await;
            if !self.kill_on_fault(&mut shard, made.map(Ok))? {
                break;
            }
            left = left.after(part.length);
        }
        Ok(Answer::Done)
    }

    async fn write(&self, span: Span, data: &[u8], fua: bool) -> Result<(), Error> {
        let _shared = self.share_blocks().await;
        self.write_blocks(span, data, fua).await
    }

    async fn write_blocks(&self, span: Span, data: &[u8], fua: bool) -> Result<(), Error> {
        let component_fua = fua && self.component.capabilities.fua;
        let mut left = span;
        let mut data = data;
        while left.length > 0 {
            let part = self.first_transfer(self.first_piece(left));
            let (now, later) = data.split_at(part.length as usize);
            let mut shard = self.shard(part.offset).await?;
            let answer = shard.instance_mut().write(part.offset, now, component_fua).await;
            self.kill_on_fault(&mut shard, answer)?;
            data = later;
            left = left.after(part.length);
        }
        self.flush_instead_of_fua(fua).await
    }

    /// Not needed with blocks of one byte, of which nobody writes a part.
    async fn share_blocks(&self) -> Option<tokio::sync::RwLockReadGuard<'_, ()>> {
        if self.component.block_sizes.minimum == 1 {
            return None;
        }
        Some(self.blocks.read().await)
    }

    async fn flush(&self) -> Result<(), Error> {
        if !self.component.capabilities.flush {
            return Ok(());
        }
        for index in 0..self.shards.count() {
            if let Some(mut shard) = self.shard_to_flush(index).await? {
                let answer = shard.instance_mut().flush().await;
                self.kill_on_fault(&mut shard, answer)?;
            }
        }
        Ok(())
    }

    /// Locks a shard to flush it. Returns `None` if it is not started, and so has nothing to flush.
    async fn shard_to_flush(&self, index: usize) -> Result<Option<Locked>, Error> {
        if self.shards.is_pool() {
            // The flush of any instance covers all, also that of one that has just been started.
            return self.shard_to_read(index).await.map(Some);
        }
        let shard = self.shards.lock(index).await;
        match self.is_dead() {
            true => Err(ErrorCode::Io.into()),
            false => Ok(shard.is_started().then_some(shard)),
        }
    }

    async fn flush_instead_of_fua(&self, fua: bool) -> Result<(), Error> {
        if self.must_flush(fua) {
            return self.flush().await;
        }
        Ok(())
    }

    /// As this is a hint, only the first stripes of a long span are reached; it may have 2^47.
    async fn cache(&self, span: Span) -> Result<(), Error> {
        let mut left = span;
        for _ in 0..MAX_CACHED_STRIPES {
            if left.length == 0 {
                break;
            }
            let part = self.shards.first_stripe(left);
            let mut shard = self.shard_to_read(self.shards.index(part.offset)).await?;
            let answer = shard.instance_mut().cache(part).await;
            self.kill_on_fault(&mut shard, answer)?;
            drop(shard);
            consume_budget().await;
            left = left.after(part.length);
        }
        Ok(())
    }

    /// Returns how many bytes one call can read or write at an offset.
    fn longest_transfer(&self, offset: u64) -> u64 {
        let transfer = u64::from(self.component.block_sizes.maximum);
        transfer.min(self.shards.left_in_stripe(offset))
    }

    /// Returns the part of a write for one call. For instances that keep stripes in memory it is so
    /// short that it is still in the processor's cache when the instance copies it.
    fn first_piece(&self, span: Span) -> Span {
        match self.shards.is_striped() {
            true => Span { offset: span.offset, length: span.length.min(CACHED_PIECE) },
            false => span,
        }
    }

    fn first_transfer(&self, span: Span) -> Span {
        let length = span.length.min(self.longest_transfer(span.offset));
        Span { offset: span.offset, length }
    }
}

/// A device over a component of the tests.
#[cfg(test)]
pub(in crate::device) async fn tests_device(
    component: component::Component,
) -> Arc<dyn crate::device::Device> {
    let config = DiskConfig {
        component,
        export_name: "lower".into(),
        read_only: false,
        arguments: Vec::new(),
        budgets: Budgets::alone(64 << 20),
        lowers: Vec::new(),
        client: None,
    };
    Arc::new(GuestDevice::open(config, None).await.expect("a good guest"))
}

/// Why a shard cannot be used.
enum Unavailable {
    /// The device is dead.
    Dead,
    /// Its instance cannot be started, mostly for want of memory.
    NoMemory,
}
