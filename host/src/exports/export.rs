//! One export: from a name to an open disk, and what clients are told on the way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::backoff::Backoff;
use super::problem::Problem;
use crate::block::ErrorCode;
use crate::device::Device;
use crate::device::guest::{GuestDevice, Recipe};

/// Makes the recipe of a disk, which may mean compiling its component.
pub trait Source: Send + Sync {
    /// Makes it; `stage` is told how far it has got.
    fn recipe<'a>(&'a self, stage: &'a (dyn Fn(Stage) + Send + Sync)) -> Loading<'a>;

    /// What the person who chose the disk calls it.
    fn label(&self) -> &str;
}

/// A recipe that is being made.
pub type Loading<'a> = Pin<Box<dyn Future<Output = Result<Recipe, Problem>> + Send + 'a>>;

/// How far an export has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its component is looked for among those that were compiled before, or is started.
    Loading,
    /// Its component is compiled.
    Compiling,
    /// Its disk is opened.
    Opening,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loading => "loading",
            Self::Compiling => "compiling",
            Self::Opening => "opening",
        })
    }
}

/// A disk under a name.
pub struct Export {
    name: String,
    source: Option<Box<dyn Source>>,
    status: watch::Sender<Status>,
}

#[derive(Default)]
struct Status {
    /// Once the component is loaded.
    recipe: Option<Recipe>,
    phase: Phase,
}

#[derive(Clone, Default)]
enum Phase {
    /// It is opened when somebody asks.
    #[default]
    Closed,
    Busy(Stage),
    Open(Arc<dyn Device>),
    Failed(Failed),
}

/// An export that cannot be served.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Why.
    pub problem: Arc<Problem>,
    /// When it may be tried again; none for never.
    backoff: Option<Backoff>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)?;
        match self.backoff.and_then(|backoff| backoff.left(Instant::now())) {
            Some(left) => write!(f, " (the next try is in {} s)", left.as_secs() + 1),
            None => Ok(()),
        }
    }
}

impl Failed {
    /// True if it may be tried now.
    fn is_due(&self) -> bool {
        self.backoff.is_some_and(|backoff| backoff.left(Instant::now()).is_none())
    }
}

impl Export {
    /// An export of a component that is loaded. It is not open yet.
    pub fn new(mut recipe: Recipe) -> Arc<Self> {
        let name = recipe.export_name.clone();
        recipe.component = recipe.component.for_export(&name);
        let status = Status { recipe: Some(recipe), phase: Phase::Closed };
        Arc::new(Self { name, source: None, status: watch::Sender::new(status) })
    }

    /// An export of a device that is open, and stays so.
    pub fn of_device(name: &str, device: Arc<dyn Device>) -> Arc<Self> {
        let status = Status { recipe: None, phase: Phase::Open(device) };
        Arc::new(Self { name: name.to_owned(), source: None, status: watch::Sender::new(status) })
    }

    /// An export of a component that is still to be loaded.
    pub fn of_source(name: &str, source: Box<dyn Source>) -> Arc<Self> {
        let status = watch::Sender::new(Status::default());
        Arc::new(Self { name: name.to_owned(), source: Some(source), status })
    }

    /// The name by which clients ask for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A line for people: the disk's own, where it is open and has one, else the component's; or
    /// why there is no disk.
    pub fn description(&self) -> String {
        let status = self.status.borrow();
        let of_component =
            status.recipe.as_ref().map(|recipe| recipe.component.description().summary.as_str());
        let of_disk = match &status.phase {
            Phase::Open(disk) => Some(disk.geometry().description.as_str()),
            Phase::Failed(failed) => return format!("failed: {failed}"),
            Phase::Busy(stage) if of_component.is_none() => return stage.to_string(),
            Phase::Busy(_) | Phase::Closed => None,
        };
        of_disk.filter(|own| !own.is_empty()).or(of_component).unwrap_or_default().to_owned()
    }

    /// The disk; it is opened if it is not open yet. Whoever asks while that is under way waits.
    ///
    /// # Errors
    ///
    /// Why it cannot be opened. Where another try can help, it is made by the first who asks after a
    /// pause.
    pub async fn disk(self: &Arc<Self>) -> Result<Arc<dyn Device>, Failed> {
        loop {
            if let Some(attempt) = self.attempt() {
                // The caller may go away while the component is at work; the opening must not.
                tokio::spawn(attempt.open_and_log());
            }
            match self.settled().await {
                Phase::Open(disk) => return Ok(disk),
                Phase::Failed(failed) => return Err(failed),
                // Somebody tried it, and closed it again.
                Phase::Closed | Phase::Busy(_) => {}
            }
        }
    }

    /// Opens the disk when the server starts; from the call on, whoever asks waits for it. Unless it is
    /// to be kept open it is closed again: then it takes no memory until somebody needs it.
    ///
    /// The future must not be dropped half way. Nothing is logged.
    ///
    /// # Errors
    ///
    /// As [`Self::disk`].
    pub fn start(
        self: &Arc<Self>,
        keep: bool,
    ) -> impl Future<Output = Result<(), Failed>> + Send + use<> {
        let attempt = self.attempt();
        let export = self.clone();
        async move {
            match attempt {
                Some(attempt) => attempt.open(keep).await,
                None => export.disk().await.map(drop),
            }
        }
    }

    /// Waits until the export is open, closed or failed, or takes long: then it is compiled.
    pub async fn settled_or_compiling(&self) {
        let wanted = |status: &Status| {
            let stage = status.stage();
            stage.is_none() || stage == Some(Stage::Compiling)
        };
        // The sender is ours.
        let _ = self.status.subscribe().wait_for(wanted).await;
    }

    /// Whether it cannot be served, as things are.
    pub fn has_failed(&self) -> bool {
        matches!(self.status.borrow().phase, Phase::Failed(_))
    }

    async fn settled(&self) -> Phase {
        let mut changes = self.status.subscribe();
        match changes.wait_for(|status| status.stage().is_none()).await {
            Ok(status) => status.phase.clone(),
            // The sender is ours.
            Err(_) => Phase::Closed,
        }
    }

    /// Takes it upon the caller to open the disk, if somebody has to.
    fn attempt(self: &Arc<Self>) -> Option<Attempt> {
        let mut before = None;
        let taken = self.status.send_if_modified(|status| {
            match &status.phase {
                Phase::Busy(_) | Phase::Open(_) => return false,
                Phase::Failed(failed) if !failed.is_due() => return false,
                Phase::Failed(failed) => before = Some(failed.clone()),
                Phase::Closed => {}
            }
            let stage = if status.recipe.is_some() { Stage::Opening } else { Stage::Loading };
            status.phase = Phase::Busy(stage);
            true
        });
        taken.then(|| Attempt { export: self.clone(), before, ended: false })
    }

    /// Returns true if [`Self::finish`] has anything to do.
    pub fn needs_last_flush(&self) -> bool {
        self.opened().is_some_and(|disk| disk.needs_last_flush())
    }

    /// Flushes the disk, if it is open, before the process stops.
    ///
    /// # Errors
    ///
    /// When the component fails to; this is logged.
    pub async fn finish(&self) -> Result<(), ErrorCode> {
        match self.opened() {
            Some(disk) => disk.last_flush().await.map(drop),
            None => Ok(()),
        }
    }

    fn opened(&self) -> Option<Arc<dyn Device>> {
        match &self.status.borrow().phase {
            Phase::Open(disk) => Some(disk.clone()),
            _ => None,
        }
    }
}

impl Status {
    fn stage(&self) -> Option<Stage> {
        match self.phase {
            Phase::Busy(stage) => Some(stage),
            _ => None,
        }
    }
}

/// An export that is being opened. Whatever happens, it is not busy any more when this is dropped.
struct Attempt {
    export: Arc<Export>,
    /// How the last one ended.
    before: Option<Failed>,
    ended: bool,
}

impl Attempt {
    async fn open(mut self, keep: bool) -> Result<(), Failed> {
        let disk = self.load_and_open().await.map_err(|problem| self.fail(problem))?;
        self.end(if keep { Phase::Open(Arc::new(disk)) } else { Phase::Closed });
        Ok(())
    }

    /// As [`Self::open`], for want of anybody else to tell. What was told already is not told again.
    async fn open_and_log(self) {
        let name = self.export.name.clone();
        let before = self.before.as_ref().map(|failed| failed.problem.to_string());
        let Err(failed) = self.open(true).await else { return };
        match before.is_some_and(|before| before == failed.problem.to_string()) {
            true => tracing::debug!("export {name:?}: {failed}"),
            false => tracing::error!("export {name:?}: {failed}"),
        }
    }

    async fn load_and_open(&self) -> Result<GuestDevice, Problem> {
        let loaded = self.export.status.borrow().recipe.clone();
        let recipe = match (loaded, &self.export.source) {
            (Some(recipe), _) => recipe,
            (None, Some(source)) => {
                let recipe = source.recipe(&|stage| self.reach(stage)).await?;
                Recipe { component: recipe.component.for_export(self.export.name()), ..recipe }
            }
            (None, None) => unreachable!("there is a recipe or a source of one"),
        };
        self.export.status.send_modify(|status| {
            status.recipe = Some(recipe.clone());
            status.phase = Phase::Busy(Stage::Opening);
        });
        GuestDevice::open(recipe).await.map_err(|error| {
            let source = self.export.source.as_deref();
            let what = source.map_or(self.export.name(), |source| source.label());
            Problem::Open { what: what.to_owned(), error }
        })
    }

    fn reach(&self, stage: Stage) {
        self.export.status.send_if_modified(|status| {
            let reached = status.stage() != Some(stage);
            status.phase = Phase::Busy(stage);
            reached
        });
    }

    fn fail(&mut self, problem: Problem) -> Failed {
        let before = self.before.as_ref().and_then(|failed| failed.backoff);
        let backoff = problem.may_pass().then(|| Backoff::after(before, Instant::now()));
        let failed = Failed { problem: Arc::new(problem), backoff };
        self.end(Phase::Failed(failed.clone()));
        failed
    }

    fn end(&mut self, phase: Phase) {
        self.ended = true;
        self.export.status.send_modify(|status| status.phase = phase);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.ended {
            self.fail(Problem::Panicked);
        }
    }
}
