//! What a disk holds, beneath its filters: that of which snapshots are taken.
//!
//! A volume begins with a snapshot, or with what the backend of its disk holds. From the first snapshot
//! that is taken of it, it is a layer on that. The module knows neither chains nor exports.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use memnbd::block::Error;
use memnbd::component::{Client, Description, Engine, Executing, MemoryBudget};
use memnbd::device::guest::{Budgets, OpenError};
use memnbd::device::snapshot::{Changes, Layer, LayerContext, Snapshot};
use memnbd::device::{Device, Lower, LowerError, LowerSource};

/// What a disk holds.
pub(super) struct Volume {
    /// The snapshot with which it begins, if it does.
    begin: Option<Snapshot>,
    context: LayerContext,
    /// Where it is written to, if it has a snapshot beneath it.
    layer: Mutex<Option<Arc<Layer>>>,
    /// The snapshot of what a backend holds that cannot be written to.
    unchanging: OnceLock<Snapshot>,
}

/// What a disk costs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Costs {
    /// The memory that is charged to it now, in bytes.
    pub(super) memory: u64,
    /// The most memory that it may take, in bytes.
    pub(super) limit: u64,
    /// The processor time of its components so far, as far as that is measured.
    pub(super) guest: Duration,
    /// How often an instance of its components failed.
    pub(super) faults: u64,
}

impl Volume {
    /// Creates a volume that begins with a snapshot, or else with what a backend holds.
    pub(super) fn new(
        begin: Option<Snapshot>,
        engine: &Engine,
        export_name: &str,
        budgets: &Budgets,
    ) -> Arc<Self> {
        let (engine, budgets) = (engine.clone(), budgets.clone());
        let context = LayerContext { engine, export_name: export_name.to_owned(), budgets };
        Arc::new(Self { begin, context, layer: Mutex::default(), unchanging: OnceLock::new() })
    }

    /// Creates another volume of the same disk, or of one that is like it and has this name.
    pub(super) fn anew(&self, begin: Option<Snapshot>, export_name: &str) -> Arc<Self> {
        let LayerContext { engine, budgets, .. } = &self.context;
        Self::new(begin, engine, export_name, budgets)
    }

    /// Opens a volume that begins with a snapshot.
    pub(super) async fn open(&self, read_only: bool) -> Result<Arc<dyn Device>, OpenError> {
        let no_snapshot = || OpenError::Refused("it does not begin with a snapshot".into());
        let begin = self.begin.as_ref().ok_or_else(no_snapshot)?;
        if read_only {
            return begin.read_only(&self.context).await;
        }
        let layer = Arc::new(begin.layer(&self.context).await?);
        let device = layer.device().clone();
        self.stand_on(layer);
        Ok(device)
    }

    /// Returns true if it is not what its backend holds, but a layer in memory on a snapshot of that.
    pub(super) fn is_layered(&self) -> bool {
        self.begin.is_some() || self.layer().is_some()
    }

    /// Opens what the volume needs after a snapshot to be written to, unless `device`, which is the volume's,
    /// is read-only.
    pub(super) async fn prepare(
        &self,
        device: &Arc<dyn Device>,
    ) -> Result<Option<Changes>, NotTaken> {
        let geometry = device.geometry();
        if !geometry.capabilities.writable {
            return Ok(None);
        }
        self.context.changes(geometry.size).await.map(Some).map_err(NotTaken::Open)
    }

    /// Takes a snapshot of the volume. `device` is the volume's, and nobody is at work on it. If it can be
    /// written to, which is what was prepared, it is replaced by the layer that is returned, for which
    /// [`Self::stand_on`] is called then.
    pub(super) async fn take(
        &self,
        device: &Arc<dyn Device>,
        prepared: Option<Changes>,
    ) -> Result<(Snapshot, Option<Arc<Layer>>), NotTaken> {
        let layer = self.layer().filter(|layer| Arc::ptr_eq(layer.device(), device));
        let writable = device.geometry().capabilities.writable;
        let snapshot = match (layer, &self.begin) {
            (Some(layer), _) => layer.freeze().await,
            (None, Some(begin)) if !writable => Ok(begin.clone()),
            (None, _) => Snapshot::of(device.clone()).await,
        };
        let snapshot = snapshot.map_err(NotTaken::Flush)?;
        let Some(changes) = prepared else {
            if self.begin.is_none() {
                // Its device stays open as long as the disk exists.
                let _ = self.unchanging.set(snapshot.clone());
            }
            return Ok((snapshot, None));
        };
        let layer = snapshot.layer_with(&self.context, changes).await.map_err(NotTaken::Open)?;
        Ok((snapshot, Some(Arc::new(layer))))
    }

    /// Records where it is written to from now on.
    pub(super) fn stand_on(&self, layer: Arc<Layer>) {
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner) = Some(layer);
    }

    /// Forgets where it is written to, if that is a device that was closed. Nothing was written to it.
    pub(super) fn close(&self, device: &Arc<dyn Device>) {
        let mut layer = self.layer.lock().unwrap_or_else(PoisonError::into_inner);
        layer.take_if(|layer| Arc::ptr_eq(layer.device(), device));
    }

    /// Returns the snapshot from which what it holds descends: the last one that was taken of it, or else that
    /// with which it begins.
    pub(super) fn origin(&self) -> Option<Snapshot> {
        let beneath = self.layer().map(|layer| layer.below().clone());
        beneath.or_else(|| self.begin.clone()).or_else(|| self.unchanging.get().cloned())
    }

    /// Returns the memory that the disk may take, with its filters.
    pub(super) fn memory(&self) -> &MemoryBudget {
        &self.context.budgets.memory
    }

    /// Returns what the disk costs, with its filters.
    pub(super) fn costs(&self) -> Costs {
        let Budgets { memory, used, .. } = &self.context.budgets;
        Costs {
            memory: memory.used(),
            limit: memory.limit(),
            guest: used.time(),
            faults: used.faults(),
        }
    }

    /// Returns where it is written to, if that is on a snapshot.
    pub(super) fn layer(&self) -> Option<Arc<Layer>> {
        self.layer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a snapshot was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// What was written could not be flushed.
    Flush(Error),
    /// The layer on the snapshot could not be opened.
    Open(OpenError),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flush(Error { code, .. }) => write!(f, "it cannot be flushed: {code}"),
            Self::Open(error) => write!(f, "no layer can be opened on it: {error}"),
        }
    }
}

/// A volume that begins with a snapshot, for the filter that stands on it.
#[derive(Clone)]
pub(super) struct OwnVolume {
    pub(super) volume: Arc<Volume>,
    pub(super) read_only: bool,
}

impl fmt::Debug for OwnVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a volume")
    }
}

impl LowerSource for OwnVolume {
    fn open<'a>(&'a self, _: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        Box::pin(async {
            let opened = self.volume.open(self.read_only).await;
            let failed = |error: OpenError| LowerError {
                message: format!("the snapshot: {error}"),
                may_pass: error.may_pass(),
            };
            opened.map(|device| Lower { device, link: None }).map_err(failed)
        })
    }
}

/// Describes what stands in the place of a backend.
pub(super) fn description() -> Description {
    Description {
        name: "snapshot".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "a disk that begins with what a snapshot holds".into(),
        parameters: Vec::new(),
        bare_parameter: None,
        other_parameters: false,
    }
}
