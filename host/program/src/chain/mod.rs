//! A disk as requested on the command line: a backend, and the filters between it and the client.
//!
//! The components may still have to be loaded. Only then is it known what their parameters are, and
//! which devices they name.
//!
//! - `content`: where the content of a disk is.
//! - `resolving`: from the words of a disk to layers that can be opened.

mod content;
mod resolving;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::sync::Mutex;

use super::Failure;
use super::file::{self, FileConfig};
use super::grants::Grants;
use super::inputs::{self, Inputs};
use super::loading::{Loader, Supply};
use super::volume::{self, OwnVolume, Volume};
use super::wish::Wish;
pub(super) use content::{Content, Kept};
use memnbd::component::{BASE, Component, Description, Engine, Listed};
use memnbd::device::snapshot::Snapshot;
use memnbd::device::{self, Device};
use memnbd::exports::{KnownExports, Loading, Problem, Source, Stage, Supplied};
use memnbd::parameters::key_value;
use resolving::Resolved;

/// A layer of a chain.
#[derive(Clone)]
enum Layer {
    Component(Arc<Supply>),
    /// The native backend.
    File,
    /// A snapshot in place of a backend.
    Snapshot,
}

impl Layer {
    /// Returns the layer of a filter.
    async fn filter(loader: &mut Loader, name: &str) -> Result<Self, Failure> {
        match name {
            file::NAME => Err(Failure::Usage(not_a_filter(name))),
            name => loader.supply(name).await.map(Self::Component),
        }
    }

    /// Returns the layer if its parameters are known without loading anything.
    fn known(&self) -> Option<Known> {
        match self {
            Self::Component(supply) => supply.loaded().map(Known::Component),
            Self::File => Some(Known::Native(file::description())),
            Self::Snapshot => Some(Known::Native(volume::description())),
        }
    }

    /// Returns true if it is the built-in component whose expression may read files.
    fn reads_inputs(&self) -> bool {
        matches!(self, Self::Component(supply) if supply.is_built_in(inputs::COMPONENT))
    }
}

/// What is beneath the filters of a chain.
#[derive(Clone)]
pub(super) enum Bottom<'a> {
    /// The component of this name.
    Component(&'a str),
    /// What this snapshot holds.
    Snapshot(Snapshot),
}

/// A requested disk.
#[derive(Clone)]
pub(super) struct Chain {
    /// The filters, the one nearest to the client first, and then the backend.
    layers: Arc<[Layer]>,
    /// The user's name for the disk.
    label: String,
    wish: Wish,
    exports: KnownExports,
    engine: Engine,
    /// What the disk holds.
    volume: Arc<Volume>,
    /// Where the volume is, if it is not opened from the layers there: because it begins with a snapshot,
    /// or is open already.
    above: Option<Content>,
    /// What the expression of the built-in component `data` reads, once it is known. All exports that
    /// are made of this chain read the same.
    inputs: Arc<OnceLock<Result<Inputs, String>>>,
}

/// A layer whose parameters are known.
enum Known {
    Component(Component),
    Native(Description),
}

impl Known {
    fn description(&self) -> &Description {
        match self {
            Self::Component(component) => component.description(),
            Self::Native(description) => description,
        }
    }

    /// Returns true if the words mean the same to the layer.
    fn says_the_same(&self, before: &[String], after: &[String]) -> bool {
        let description = self.description();
        let parse = |words: &[String]| {
            let base = description.base().map(|_| format!("{BASE}="));
            let words: Vec<String> = base.into_iter().chain(words.iter().cloned()).collect();
            description.parse_arguments(&words)
        };
        // What an expression reads is among its arguments only once it was opened.
        before == after
            || matches!((parse(before), parse(after)), (Ok(before), Ok(after)) if before == after)
    }
}

impl Chain {
    /// Creates a chain of these filters and this bottom. Components from files are read, but not loaded.
    ///
    /// # Errors
    ///
    /// Returns an error if a component does not exist, or if all are loaded already and the parameters
    /// are invalid.
    pub(super) async fn new(
        loader: &mut Loader,
        label: &str,
        filters: &[String],
        bottom: Bottom<'_>,
        wish: Wish,
        exports: &KnownExports,
    ) -> Result<Self, Failure> {
        let mut layers = Vec::new();
        for filter in filters {
            layers.push(Layer::filter(loader, filter).await?);
        }
        layers.push(match bottom {
            Bottom::Component(file::NAME) => Layer::File,
            Bottom::Component(name) => Layer::Component(loader.supply(name).await?),
            Bottom::Snapshot(_) => Layer::Snapshot,
        });
        let engine = loader.engine().clone();
        let begin = match bottom {
            Bottom::Component(_) => None,
            Bottom::Snapshot(snapshot) => Some(snapshot),
        };
        let chain = Self {
            layers: layers.into(),
            label: label.to_owned(),
            exports: exports.clone(),
            above: begin.is_some().then(|| Content::in_memory(filters.len())),
            volume: Volume::new(begin, &engine, &wish.export_name, &wish.budgets),
            wish,
            engine,
            inputs: Arc::default(),
        };
        let loaded = chain.layers.iter().map(Layer::known);
        if let Some(known) = loaded.collect::<Option<Vec<_>>>() {
            chain.resolve(&known, 0, None)?;
        }
        Ok(chain)
    }

    /// Returns the directory whose files are the exports, if the backend is one.
    ///
    /// # Errors
    ///
    /// Returns a message if the parameters of the backend are invalid.
    pub(super) fn directory(&self) -> Result<Option<PathBuf>, String> {
        let Some(Layer::File) = self.layers.last() else { return Ok(None) };
        // The filters may not be loaded yet, and do not matter.
        let words = self.wish.words.iter().filter_map(|word| {
            let word = word.strip_prefix("file.").unwrap_or(word);
            matches!(key_value(word)?.0, "dir" | "dirfd").then(|| word.to_owned())
        });
        let words: Vec<String> = words.collect();
        if words.is_empty() {
            return Ok(None);
        }
        let arguments = file::description().parse_arguments(&words);
        let arguments = arguments.map_err(|error| error.of(file::NAME).to_string())?;
        let config = FileConfig::new(&arguments, &self.wish, true)?;
        Ok(config.directory().map(Into::into))
    }

    /// Returns the same chain for an export of another name.
    pub(super) fn named(&self, name: &str) -> Self {
        let wish = self.wish.named(name);
        let volume = self.volume.anew(None, name);
        Self { wish, volume, ..self.clone() }
    }

    /// Returns the same filters on a volume that begins with a snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not known how many filters stand above the present volume.
    pub(super) async fn on_snapshot(&self, snapshot: Snapshot) -> Result<Self, Problem> {
        let filters = self.content().await?.filters;
        let volume = self.volume.anew(Some(snapshot), &self.wish.export_name);
        Ok(Self { volume, above: Some(Content::in_memory(filters)), ..self.clone() })
    }

    /// Returns other filters on the same volume. The words are those of all layers; they must say the same
    /// of those that stay.
    ///
    /// # Errors
    ///
    /// Returns an error if a filter does not exist, cannot be added to a disk that is open, or its
    /// parameters are invalid.
    pub(super) async fn with_filters(
        &self,
        loader: &Mutex<Loader>,
        filters: &[String],
        words: Vec<String>,
        grants: Option<Arc<Grants>>,
    ) -> Result<Self, Failure> {
        let failed = |problem: Problem| Failure::Failed(anyhow::anyhow!("{problem}"));
        let content = self.content().await.map_err(failed)?;
        let mut layers = Vec::new();
        for filter in filters {
            layers.push(Layer::filter(&mut *loader.lock().await, filter).await?);
        }
        layers.extend(self.layers.iter().skip(content.filters).cloned());
        let (staying, above) = (content.filters, filters.len());
        let content = Content { filters: above, ..content };
        let wish = Wish { words, grants, ..self.wish.clone() };
        let chain = Self { layers: layers.into(), above: Some(content), wish, ..self.clone() };
        let before = self.load_all(&|_| ()).await.map_err(failed)?;
        let known = chain.load_all(&|_| ()).await.map_err(failed)?;
        let (before, after) = (self.words(&before)?, chain.words(&known)?);
        let staying = before.layers[staying..].iter().zip(&after.layers[above..]);
        let mut staying = staying.zip(&known[above..]);
        if before.read_only != after.read_only
            || !staying.all(|((before, after), known)| known.says_the_same(before, after))
        {
            return Err(Failure::Failed(anyhow::anyhow!(
                "the parameters of the backend, or of a filter that keeps content of its own, would \
                 change; only those of other filters can while a disk is in use"
            )));
        }
        let (parsed, _) = chain.parse(&known, 0)?;
        if let Some(other) = parsed.iter().find(|layer| !layer.is_plain_filter()) {
            let name = &other.known.description().name;
            return Err(Failure::Failed(anyhow::anyhow!(
                "{name} keeps content of its own, or opens what is beneath it, and cannot be added to a \
                 disk that is in use"
            )));
        }
        drop(parsed);
        Ok(chain)
    }

    /// Opens the filters on the volume, whose device is open.
    pub(super) async fn open_on(
        &self,
        device: Arc<dyn Device>,
    ) -> Result<Arc<dyn Device>, Problem> {
        let known = self.load_all(&|_| ()).await?;
        let resolve = move |chain: &Self, known: &[Known]| chain.resolve(known, 0, Some(device));
        self.open_resolved(self.aside(known, resolve).await?).await
    }

    /// Returns what the disk holds.
    pub(super) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Opens a device.
    pub(super) async fn open(&self) -> Result<Arc<dyn Device>, Problem> {
        let known = self.load_all(&|_| ()).await?;
        let resolved = self.aside(known, |chain, known| chain.resolve(known, 0, None)).await?;
        self.open_resolved(resolved).await
    }

    async fn open_resolved(&self, resolved: Resolved) -> Result<Arc<dyn Device>, Problem> {
        let opened = match resolved {
            Resolved::Guest(config) => device::open(*config).await,
            Resolved::File(config) => return config.open().await,
            Resolved::Volume(OwnVolume { volume, read_only }) => volume.open(read_only).await,
            Resolved::Open(device) => Ok(device),
        };
        opened.map_err(|error| Problem::Open { what: self.label.clone(), error })
    }

    /// Tells where a snapshot of the disk is taken: beneath the filters, except for those that keep
    /// content on devices of their own, and what is beneath them.
    pub(super) async fn content(&self) -> Result<Content, Problem> {
        if let Some(content) = &self.above {
            return Ok(content.clone());
        }
        let known = self.load_all(&|_| ()).await?;
        self.aside(known, |chain, known| Ok(Content::of(&chain.parse(known, 0)?.0))).await
    }

    /// Lists the exports that the component nearest to the client offers of those that know them.
    pub(super) async fn list_exports(&self) -> Result<Listed, Problem> {
        let known = self.load_all(&|_| ()).await?;
        let lists = |known: &Known| match known {
            Known::Component(component) => component.lists_exports(),
            Known::Native(_) => false,
        };
        let Some(top) = known.iter().position(lists) else { return Ok(Listed::default()) };
        match self.aside(known, move |chain, known| chain.resolve(known, top, None)).await? {
            Resolved::Guest(config) => {
                let listed = device::list_exports(*config).await;
                let what = self.label.clone();
                let listed = listed.map_err(|error| Problem::Open { what, error })?;
                Ok(listed.unwrap_or_default())
            }
            Resolved::File(_) | Resolved::Volume(_) | Resolved::Open(_) => Ok(Listed::default()),
        }
    }

    /// Loads what a device is made of.
    async fn supply(&self, stage: &(dyn Fn(Stage) + Send + Sync)) -> Result<Supplied, Problem> {
        let known = self.load_all(stage).await?;
        match self.aside(known, |chain, known| chain.resolve(known, 0, None)).await? {
            Resolved::Guest(config) => Ok(Supplied::Guest(config)),
            other => {
                stage(Stage::Opening);
                self.open_resolved(other).await.map(Supplied::Device)
            }
        }
    }

    /// Loads the components, one after the other.
    async fn load_all(&self, stage: &(dyn Fn(Stage) + Send + Sync)) -> Result<Vec<Known>, Problem> {
        let mut known = Vec::new();
        for layer in &*self.layers {
            if let Layer::Component(supply) = layer {
                let loaded = supply.component(stage).await;
                let component = supply.name().to_owned();
                let loaded = loaded.map_err(|error| Problem::Load { component, error })?;
                known.push(Known::Component(loaded));
            } else {
                known.extend(layer.known());
            }
        }
        Ok(known)
    }
}

fn no_backend() -> Failure {
    Failure::Usage("there is no backend".into())
}

fn not_a_filter(name: &str) -> String {
    format!("{name} is not a filter: it has no parameter {BASE:?} of the type device")
}

impl Source for Chain {
    fn load<'a>(&'a self, stage: &'a (dyn Fn(Stage) + Send + Sync)) -> Loading<'a> {
        Box::pin(self.supply(stage))
    }

    fn label(&self) -> &str {
        &self.label
    }
}
