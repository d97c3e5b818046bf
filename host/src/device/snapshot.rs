//! Snapshots: what a disk held at a moment, on which other disks can begin.
//!
//! A snapshot is a device that does not change any more, with the layers above it that do not either. A
//! [`Layer`] is a disk on it: a disk of the component `cow`, whose changes go to an empty disk in memory.
//! When the layer is frozen, it becomes one of those of the next snapshot.
//!
//! The module does not know exports: whoever takes a snapshot of a disk in use has it drained first
//! ([`Export::hold`](crate::exports::Export::hold)).

mod difference;
mod mark;

use std::sync::Arc;

use bytes::Bytes;

use super::guest::{Budgets, DiskConfig, OpenError};
use super::lower::{self, LowerError};
use super::{Cancelled, Device, LowerSource, OpenDevice, Order, ScratchDisk, open};
use crate::block::{Command, Error};
use crate::component::{BuiltIn, Component, Engine};
use crate::parameters::Argument;
pub use difference::{Difference, NotCompared, Side};
pub use mark::Mark;

/// The most overlays of a snapshot. Beyond that, the uppermost disk becomes the base of the next layer.
const MAX_OVERLAYS: usize = 128;

/// The size of blocks, unless the disk is larger than 256 TiB.
const BLOCK: u64 = 64 << 10;

/// The length of what a map has before the layers of blocks, in bytes.
const HEADER: u64 = 4096;

/// What a disk held at a moment. It takes the memory of what it holds until the last clone and the last
/// layer on it are gone.
#[derive(Clone)]
pub struct Snapshot {
    base: Arc<dyn Device>,
    /// The overlays above the base, the lowest first.
    overlays: Vec<Arc<dyn Device>>,
    /// The metadata of the uppermost overlay's disk; `None` if there is no overlay.
    map: Option<Arc<dyn Device>>,
    /// The snapshot that the base is, if that is a layer.
    beneath: Option<Arc<Snapshot>>,
}

/// A disk that begins with what a snapshot holds.
pub struct Layer {
    below: Snapshot,
    changes: Changes,
    device: Arc<dyn Device>,
}

/// Where a disk keeps what differs from the snapshot with which it began: empty disks, which can be opened
/// before there is a snapshot.
pub struct Changes {
    overlay: Arc<dyn Device>,
    /// The metadata.
    map: Arc<dyn Device>,
}

/// What the layers of a disk are made with.
#[derive(Clone)]
pub struct LayerContext {
    /// Loads the components `cow` and `memory`.
    pub engine: Engine,
    /// The name of the export, for messages.
    pub export_name: String,
    /// The budgets of the disk: it pays for its changes.
    pub budgets: Budgets,
}

impl Snapshot {
    /// Creates a snapshot of a device that does not change from now on, and flushes it.
    ///
    /// # Errors
    ///
    /// Returns an error if the device cannot be flushed.
    pub async fn of(device: Arc<dyn Device>) -> Result<Self, Error> {
        flush(&device).await?;
        Ok(Self::of_flushed(device))
    }

    fn of_flushed(device: Arc<dyn Device>) -> Self {
        Self { base: device, overlays: Vec::new(), map: None, beneath: None }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.base.geometry().size
    }

    /// Opens a disk that begins with the snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error if a component cannot be loaded, or there is no memory for the disk.
    pub async fn layer(&self, context: &LayerContext) -> Result<Layer, OpenError> {
        self.layer_with(context, context.changes(self.size()).await?).await
    }

    /// Opens a disk like [`Self::layer`], whose changes go to disks that were opened for this size before.
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions.
    pub async fn layer_with(
        &self,
        context: &LayerContext,
        changes: Changes,
    ) -> Result<Layer, OpenError> {
        let device = self.open(context, Some(&changes)).await?;
        Ok(Layer { below: self.clone(), changes, device })
    }

    /// Opens a disk to read the snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions as [`Self::layer`].
    pub async fn read_only(&self, context: &LayerContext) -> Result<Arc<dyn Device>, OpenError> {
        self.open(context, None).await
    }

    async fn open(
        &self,
        context: &LayerContext,
        changes: Option<&Changes>,
    ) -> Result<Arc<dyn Device>, OpenError> {
        let component = context.built_in("cow").await?.for_export(&context.export_name);
        let mut devices = vec![("base", &self.base)];
        devices.extend(self.overlays.iter().map(|overlay| ("layer", overlay)));
        devices.extend(self.map.iter().map(|map| ("inherit", map)));
        if let Some(Changes { overlay, map }) = changes {
            devices.extend([("overlay", overlay), ("metadata", map)]);
        }
        let mut words = vec![format!("cow-block-size={}", block(self.size()))];
        words.extend(devices.iter().map(|(parameter, _)| format!("{parameter}={parameter}")));
        let arguments = component.description().parse_arguments(&words);
        let arguments = arguments.map_err(|error| OpenError::Refused(error.to_string()))?;
        let linked = arguments.iter().filter(|argument| argument.value.link().is_some());
        let lowers = linked.map(|Argument { name, .. }| {
            // Those of the same name are in the order in which they were given.
            let given = devices.iter().position(|(parameter, _)| parameter == name);
            let source: Arc<dyn LowerSource> = match given.map(|index| devices.remove(index)) {
                Some((_, device)) => Arc::new(OpenDevice::Shared(device.clone())),
                // A disk that is only read has no overlay of its own.
                None => Arc::new(context.scratch_source()),
            };
            (name.clone(), source)
        });
        let lowers = lowers.collect();
        let config = DiskConfig {
            lowers,
            component,
            export_name: context.export_name.clone(),
            read_only: changes.is_none(),
            arguments,
            budgets: context.budgets.clone(),
            client: None,
        };
        open(config).await
    }
}

impl Layer {
    /// Returns the device of the disk.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Returns the snapshot with which the disk began.
    pub fn below(&self) -> &Snapshot {
        &self.below
    }

    /// Returns a snapshot of the disk, which must not be changed from now on: nobody is at work on it.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk cannot be flushed.
    pub async fn freeze(&self) -> Result<Snapshot, Error> {
        flush(&self.device).await?;
        let mut frozen = self.below.clone();
        frozen.overlays.push(self.changes.overlay.clone());
        frozen.map = Some(self.changes.map.clone());
        if self.below.overlays.len() >= MAX_OVERLAYS {
            let beneath = Some(Arc::new(frozen));
            return Ok(Snapshot { beneath, ..Snapshot::of_flushed(self.device.clone()) });
        }
        Ok(frozen)
    }
}

/// Returns the size of the blocks in which the data of a disk are copied, in bytes: there may be up to 2^32.
fn block(size: u64) -> u64 {
    (size >> 32).next_power_of_two().max(BLOCK)
}

/// Flushes a device, so that a snapshot that is taken soon has less to flush.
///
/// # Errors
///
/// Returns an error if the device cannot be flushed.
pub async fn flush(device: &Arc<dyn Device>) -> Result<(), Error> {
    let order = Order::new(Command::Flush, Bytes::new(), Cancelled::default());
    lower::execute(device.clone(), order).await.map(drop)
}

impl LayerContext {
    /// Opens the disks for the changes of a layer of this size, in bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no memory for them.
    pub async fn changes(&self, size: u64) -> Result<Changes, OpenError> {
        let overlay = self.memory("overlay", size).await?;
        // A byte for each block.
        let map = self.memory("metadata", HEADER + size.div_ceil(block(size))).await?;
        Ok(Changes { overlay, map })
    }

    async fn built_in(&self, name: &str) -> Result<Component, OpenError> {
        let missing = || OpenError::Refused(format!("this program has no component {name}"));
        let built_in = BuiltIn::find(name).ok_or_else(missing)?;
        let loaded = self.engine.load_built_in(built_in).await;
        loaded.map_err(|error| OpenError::Lower {
            parameter: name.to_owned(),
            error: LowerError { message: error.to_string(), may_pass: error.may_pass() },
        })
    }

    fn scratch_source(&self) -> ScratchDisk {
        ScratchDisk {
            engine: self.engine.clone(),
            export_name: self.export_name.clone(),
            budgets: self.budgets.clone(),
        }
    }

    async fn memory(&self, parameter: &str, size: u64) -> Result<Arc<dyn Device>, OpenError> {
        let opened = self.scratch_source().open_of_size(size, None).await;
        let failed = |error| OpenError::Lower { parameter: parameter.to_owned(), error };
        opened.map(|lower| lower.device).map_err(failed)
    }
}

#[cfg(test)]
pub(super) mod tests;
