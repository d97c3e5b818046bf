//! A device whose blocks are decided about by a component: one or more instances of it behind the
//! commands of the protocol.
//!
//! It gives commands to instances (`shards`), supplies what the component lacks (zeroing by
//! writing, FUA by flushing, access within a minimum block, everything is data), and sees to it
//! that a device whose component failed stays dead. It knows nothing of NBD's messages nor of
//! wasmtime.
//!
//! What is executed owns all it needs, so that it can be spawned when it is not ready at once; it must be
//! driven to its end, for a guest may be half way through its work. On which threads it may be polled
//! is for `schedule` to say.

mod align;
mod execute;
mod extents;
mod lease;
mod recipe;
mod schedule;
mod shards;
#[cfg(test)]
mod tests;
mod zero;

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::RwLock;
use tokio::task::consume_budget;

use crate::block::{BlockSizes, Capabilities, ErrorCode, Geometry, MAX_TRANSFER, Span};
use crate::component::{self, Fault, MemoryBudget};
use crate::compute::Compute;
use crate::device::answer::copy_chunks;
use crate::device::{Buffers, Content};
pub use lease::GuestLease;
pub use recipe::{Budgets, OpenError, Recipe};
use schedule::Schedule;
use shards::{Locked, Shards};

/// How many stripes one request to cache reaches.
const MAX_CACHED_STRIPES: usize = 1024;

/// How much data stays in the processor's cache while it is copied twice, in bytes.
const CACHED_PIECE: u64 = 128 << 10;

/// A device that is open.
pub struct GuestDevice {
    export_name: String,
    component: component::Disk,
    geometry: Geometry,
    shards: Shards,
    schedule: Schedule,
    buffers: Buffers,
    /// There are pages that can be leased, and no blocks that could be written in part.
    leases: bool,
    /// The component failed; everything is answered with EIO.
    dead: AtomicBool,
    /// The next request panics.
    #[cfg(test)]
    panics: AtomicBool,
    /// Writers of whole blocks share it, a writer of parts of blocks has it alone.
    blocks: RwLock<()>,
}

impl GuestDevice {
    /// Opens the disk with a first instance of its component.
    ///
    /// # Errors
    ///
    /// What the component says against it, or how it failed.
    pub async fn open(recipe: Recipe) -> Result<Self, OpenError> {
        let compute = Compute::default();
        if recipe.component.is_built_in() {
            return Self::open_with(recipe, compute).await;
        }
        let opening = Self::open_with(recipe, compute.clone());
        compute.run(opening).await.map_err(OpenError::Threads)?
    }

    async fn open_with(recipe: Recipe, compute: Compute) -> Result<Self, OpenError> {
        let schedule = Schedule::new(compute, recipe.component.is_built_in());
        let buffers = recipe.budgets.buffers.clone();
        let export_name = recipe.export_name.clone();
        let read_only = recipe.read_only;
        let (shards, component) = Shards::open(recipe).await?;
        let writable = component.capabilities.writable && !read_only;
        let geometry = Geometry {
            size: component.size,
            block_sizes: BlockSizes { maximum: MAX_TRANSFER, ..component.block_sizes },
            capabilities: Capabilities {
                writable,
                // What needs no flush is durable as it is: offering both costs nothing.
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
            leases: component.direct_access && component.block_sizes.minimum == 1,
            component,
            geometry,
            shards,
            schedule,
            buffers,
            dead: AtomicBool::new(false),
            #[cfg(test)]
            panics: AtomicBool::new(false),
            blocks: RwLock::new(()),
        })
    }

    /// Whether its component failed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// The memory its instances share.
    pub fn memory(&self) -> &MemoryBudget {
        self.shards.memory()
    }

    /// Ends the disk. The first to do so logs why.
    fn die(&self, fault: &Fault) -> ErrorCode {
        if !self.dead.swap(true, Ordering::Relaxed) {
            let printed = match self.shards.recent_output() {
                lines if lines.is_empty() => String::new(),
                lines => format!("; the component last printed {lines:?}"),
            };
            tracing::error!(
                "export {:?}: {fault}{printed}; the export is dead, all requests to it fail from \
                 now on",
                self.export_name
            );
            // On threads that may take their time: memory that is given back is unmapped.
            self.schedule.spawn(Box::pin(self.shards.clear()), true);
        }
        ErrorCode::Io
    }

    /// Passes a component's answer on, unless it was a fault: then the instance is dropped and the
    /// disk dies.
    fn kill_on_fault<T>(
        &self,
        shard: &mut Locked,
        answer: Result<Result<T, ErrorCode>, Fault>,
    ) -> Result<T, ErrorCode> {
        match answer {
            Ok(answer) => answer,
            Err(fault) => {
                shard.stop();
                Err(self.die(&fault))
            }
        }
    }

    /// The shard that may change what is at an offset, its instance started. Nobody else can use it
    /// until it is dropped.
    async fn shard(&self, offset: u64) -> Result<Locked, ErrorCode> {
        match self.started(self.shards.index(offset)).await {
            Ok(shard) => Ok(shard),
            Err(Unavailable::NoMemory) if !self.shards.is_striped() => self.any_started().await,
            Err(Unavailable::NoMemory) => Err(ErrorCode::NoSpc),
            Err(Unavailable::Dead) => Err(ErrorCode::Io),
        }
    }

    /// The shard of an index, or one that knows as well what is in that one's stripes: where it
    /// cannot be started, they are as they were when the disk was opened, and that every instance
    /// knows.
    async fn shard_to_read(&self, index: usize) -> Result<Locked, ErrorCode> {
        match self.started(index).await {
            Ok(shard) => Ok(shard),
            Err(Unavailable::NoMemory) => self.any_started().await,
            Err(Unavailable::Dead) => Err(ErrorCode::Io),
        }
    }

    async fn any_started(&self) -> Result<Locked, ErrorCode> {
        let shard = self.shards.any_started().await;
        if self.is_dead() {
            return Err(ErrorCode::Io);
        }
        shard.ok_or(ErrorCode::NoMem)
    }

    /// A shard whose instance is started. That it cannot be says nothing against those that are: what
    /// they hold is served on.
    async fn started(&self, index: usize) -> Result<Locked, Unavailable> {
        let mut shard = self.shards.lock(index).await;
        if self.is_dead() {
            shard.stop();
            return Err(Unavailable::Dead);
        }
        if shard.is_started() {
            return Ok(shard);
        }
        // Apart, so that the futures of requests are small: they are moved, and this is rare.
        match Box::pin(self.shards.start(&mut shard, &self.component)).await {
            Ok(()) => Ok(shard),
            Err(failure) => {
                if let Some(fault) = failure {
                    let name = &self.export_name;
                    tracing::warn!("export {name:?}: no further instance: {fault}");
                }
                Err(Unavailable::NoMemory)
            }
        }
    }

    async fn read(&self, span: Span) -> Result<Content, ErrorCode> {
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

    /// What one call of the component's `read` can read.
    async fn read_one(&self, span: Span) -> Result<Content, ErrorCode> {
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

    async fn write(&self, span: Span, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
        let _shared = self.share_blocks().await;
        self.write_blocks(span, data, fua).await
    }

    async fn write_blocks(&self, span: Span, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
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

    /// With blocks of one byte nobody writes parts of them.
    async fn share_blocks(&self) -> Option<tokio::sync::RwLockReadGuard<'_, ()>> {
        if self.component.block_sizes.minimum == 1 {
            return None;
        }
        Some(self.blocks.read().await)
    }

    async fn flush(&self) -> Result<(), ErrorCode> {
        if !self.component.capabilities.flush {
            return Ok(());
        }
        for index in 0..self.shards.to_flush() {
            let mut shard = self.shards.lock(index).await;
            if self.is_dead() {
                return Err(ErrorCode::Io);
            }
            if shard.is_started() {
                let answer = shard.instance_mut().flush().await;
                self.kill_on_fault(&mut shard, answer)?;
            }
        }
        Ok(())
    }

    async fn flush_instead_of_fua(&self, fua: bool) -> Result<(), ErrorCode> {
        if self.must_flush(fua) {
            return self.flush().await;
        }
        Ok(())
    }

    /// It is a hint: of a long span, which may have 2^47 stripes, the first ones are enough.
    async fn cache(&self, span: Span) -> Result<(), ErrorCode> {
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

    /// How much of a read or write at an offset one call can take.
    fn longest_transfer(&self, offset: u64) -> u64 {
        let transfer = u64::from(self.component.block_sizes.maximum);
        transfer.min(self.shards.left_in_stripe(offset))
    }

    /// What of a write is given to an instance at once: to one that keeps its stripes in memory,
    /// so little that it is still in the processor's cache when the instance copies it.
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

/// Why a shard cannot be asked.
enum Unavailable {
    /// The disk is dead.
    Dead,
    /// Its instance was not started, and cannot be now: mostly for want of memory.
    NoMemory,
}
