//! A disk as requested on the command line: a backend, and the filters between it and the client.
//!
//! The components may still have to be loaded. Only then is it known what their parameters are, and
//! which devices they name.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::Failure;
use super::file::{self, FileConfig};
use super::inputs::{self, Allowed, Inputs};
use super::loading::{Loader, Supply};
use super::wish::Wish;
use super::words;
use memnbd::component::{BASE, Client, Component, Description, Engine, Executing, Listed};
use memnbd::device::guest::DiskConfig;
use memnbd::device::{self, Lower, LowerError, LowerSource, OwnDisk, ScratchDisk};
use memnbd::exports::{KnownExports, Loading, LowerExport, Problem, Source, Stage, Supplied};
use memnbd::parameters::{Argument, ParameterType, Value, assign_outputs, key_value};

/// A layer of a chain.
#[derive(Clone)]
enum Layer {
    Component(Arc<Supply>),
    /// The native backend.
    File,
}

impl Layer {
    /// Returns true if it is the built-in component whose expression may read files.
    fn reads_inputs(&self) -> bool {
        matches!(self, Self::Component(supply) if supply.is_built_in(inputs::COMPONENT))
    }
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
    /// What the expression of the built-in component `data` reads, once it is known. All exports that
    /// are made of this chain read the same.
    inputs: Arc<OnceLock<Result<Inputs, String>>>,
}

/// A layer whose parameters are known.
enum Known {
    Component(Component),
    File(Description),
}

impl Known {
    fn description(&self) -> &Description {
        match self {
            Self::Component(component) => component.description(),
            Self::File(description) => description,
        }
    }
}

/// A layer that can be opened.
#[derive(Clone)]
enum Resolved {
    Guest(Box<DiskConfig>),
    File(FileConfig),
}

impl Resolved {
    /// Returns where a filter above gets the layer from.
    fn source(self) -> Arc<dyn LowerSource> {
        match self {
            Self::Guest(config) => Arc::new(OwnDisk(*config)),
            Self::File(config) => Arc::new(OwnFile(config)),
        }
    }
}

impl Chain {
    /// Creates a chain of these filters and this backend. Components from files are read, but not loaded.
    ///
    /// # Errors
    ///
    /// Returns an error if a component does not exist, or if all are loaded already and the parameters
    /// are invalid.
    pub(super) async fn new(
        loader: &mut Loader,
        label: &str,
        filters: &[String],
        component: &str,
        wish: Wish,
        exports: &KnownExports,
    ) -> Result<Self, Failure> {
        let mut layers = Vec::new();
        for filter in filters {
            if filter == file::NAME {
                return Err(Failure::Usage(not_a_filter(filter)));
            }
            layers.push(Layer::Component(loader.supply(filter).await?));
        }
        layers.push(match component {
            file::NAME => Layer::File,
            name => Layer::Component(loader.supply(name).await?),
        });
        let chain = Self {
            layers: layers.into(),
            label: label.to_owned(),
            wish,
            exports: exports.clone(),
            engine: loader.engine().clone(),
            inputs: Arc::default(),
        };
        let loaded = chain.layers.iter().map(|layer| match layer {
            Layer::Component(supply) => supply.loaded().map(Known::Component),
            Layer::File => Some(Known::File(file::description())),
        });
        if let Some(known) = loaded.collect::<Option<Vec<_>>>() {
            chain.resolve(&known, 0)?;
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
        Self { wish: self.wish.named(name), ..self.clone() }
    }

    /// Lists the exports that the component nearest to the client offers of those that know them.
    pub(super) async fn list_exports(&self) -> Result<Listed, Problem> {
        let known = self.load_all(&|_| ()).await?;
        let lists = |known: &Known| match known {
            Known::Component(component) => component.lists_exports(),
            Known::File(_) => false,
        };
        let Some(top) = known.iter().position(lists) else { return Ok(Listed::default()) };
        match self.resolve_aside(known, top).await? {
            Resolved::Guest(config) => {
                let listed = device::list_exports(*config).await;
                let what = self.label.clone();
                let listed = listed.map_err(|error| Problem::Open { what, error })?;
                Ok(listed.unwrap_or_default())
            }
            Resolved::File(_) => Ok(Listed::default()),
        }
    }

    /// Gives each layer its words, and the devices that they name. Returns the layer `top`, counted from
    /// the client. It may block if [`Self::may_block`] says so.
    fn resolve(&self, known: &[Known], top: usize) -> Result<Resolved, Failure> {
        let no_backend = || Failure::Usage("there is no backend".into());
        let descriptions: Vec<&Description> = known.iter().map(Known::description).collect();
        let (backend, filters) = descriptions.split_last().ok_or_else(no_backend)?;
        if let Some(other) = filters.iter().find(|filter| filter.base().is_none()) {
            return Err(Failure::Usage(not_a_filter(&other.name)));
        }
        let words = words::distribute(filters, backend, &self.wish.words, self.wish.for_host);
        let words = words.map_err(Failure::Usage)?;
        // What stands beneath a filter that does not write is opened for reading only.
        let mut read_only = self.wish.read_only || words.read_only;
        let mut layers = Vec::new();
        for ((layer, known), own) in self.layers.iter().zip(known).zip(&words.layers) {
            layers.push((layer, known, own, read_only));
            read_only |= known.description().base().is_some_and(|link| !link.writes);
        }
        let mut below = None;
        for (layer, known, own, read_only) in layers.into_iter().skip(top).rev() {
            let description = known.description();
            let mut given = own.clone();
            let inputs = self.inputs(layer, description, own);
            let inputs = inputs.map_err(|error| Failure::Failed(anyhow::anyhow!(error)))?;
            given.extend(inputs.iter().flat_map(|inputs| inputs.words()));
            if below.is_some() {
                given.insert(0, format!("{BASE}="));
            }
            let mut arguments = description
                .parse_arguments(&given)
                .map_err(|error| Failure::Usage(error.of(&description.name).to_string()))?;
            let Wish { secrets, outputs, directory, grants, .. } = &self.wish;
            let mut read_only = read_only;
            if let Some(grants) = grants {
                let designated = match known {
                    Known::File(_) => grants.designate_file(&mut arguments),
                    Known::Component(_) => grants.designate(&mut arguments).map(|()| false),
                };
                read_only |= designated
                    .map_err(|error| Failure::Usage(format!("{}: {error}", description.name)))?;
            }
            assign_outputs(&mut arguments, outputs, directory);
            secrets.read(&mut arguments, directory).map_err(|error| {
                Failure::Failed(anyhow::anyhow!("{}: {error}", description.name))
            })?;
            below = Some(match known {
                Known::File(_) => {
                    let config = FileConfig::new(&arguments, &self.wish, read_only);
                    Resolved::File(config.map_err(Failure::Usage)?)
                }
                Known::Component(component) => {
                    let name = &self.wish.export_name;
                    Resolved::Guest(Box::new(DiskConfig {
                        component: component.for_export(name),
                        export_name: name.clone(),
                        read_only,
                        lowers: match inputs {
                            Some(inputs) => self.input_files(&arguments, inputs),
                            None => self.lowers(&arguments, below.take(), read_only),
                        },
                        client: None,
                        arguments,
                        budgets: self.wish.budgets.clone(),
                    }))
                }
            });
        }
        below.ok_or_else(no_backend)
    }

    /// Returns true if [`Self::resolve`] may have to read files.
    fn may_block(&self, known: &[Known]) -> bool {
        let mut parameters = known.iter().flat_map(|known| &known.description().parameters);
        parameters.any(|parameter| parameter.kind == ParameterType::Secret)
            || (self.inputs.get().is_none() && self.layers.iter().any(Layer::reads_inputs))
    }

    /// Like [`Self::resolve`], on another thread if that may block.
    async fn resolve_aside(&self, known: Vec<Known>, top: usize) -> Result<Resolved, Problem> {
        let resolved = if self.may_block(&known) {
            let chain = self.clone();
            let resolving = tokio::task::spawn_blocking(move || chain.resolve(&known, top));
            resolving.await.map_err(|_| Problem::Panicked)?
        } else {
            self.resolve(&known, top)
        };
        resolved.map_err(|failure| {
            Problem::Parameters(match failure {
                Failure::Usage(text) => text,
                Failure::Failed(error) => format!("{error:#}"),
            })
        })
    }

    /// Opens what an expression reads, if the layer is the built-in component that evaluates it. The first
    /// time it may block.
    fn inputs(
        &self,
        layer: &Layer,
        description: &Description,
        words: &[String],
    ) -> Result<Option<&Inputs>, String> {
        if !layer.reads_inputs() {
            return Ok(None);
        }
        let Wish { directory, allow_scripts, grants, .. } = &self.wish;
        let allowed = match grants {
            Some(_) => Allowed::Nothing,
            None if *allow_scripts => Allowed::Scripts,
            None => Allowed::Files,
        };
        let open = || Inputs::open(words, description, directory, allowed);
        self.inputs.get_or_init(open).as_ref().map(Some).map_err(String::clone)
    }

    /// Returns the files that an expression reads: those that were opened for it, or else those that
    /// the arguments name.
    fn input_files(
        &self,
        arguments: &[Argument],
        inputs: &Inputs,
    ) -> Vec<(String, Arc<dyn LowerSource>)> {
        if inputs.files.is_empty() {
            return self.lowers(arguments, None, true);
        }
        let source = |(what, file): &(String, Arc<std::os::fd::OwnedFd>)| {
            let config = FileConfig::of_descriptor(what, file.clone(), &self.wish);
            let source: Arc<dyn LowerSource> = Arc::new(OwnFile(config));
            (inputs::PARAMETER.to_owned(), source)
        };
        inputs.files.iter().map(source).collect()
    }

    /// Returns the devices that arguments name. With `below`, the first one is that layer.
    fn lowers(
        &self,
        arguments: &[Argument],
        below: Option<Resolved>,
        read_only: bool,
    ) -> Vec<(String, Arc<dyn LowerSource>)> {
        let mut below = below;
        let devices = arguments.iter().filter_map(|Argument { name, value }| {
            let source: Arc<dyn LowerSource> = match (value, below.take()) {
                (Value::Device(..), Some(resolved)) => resolved.source(),
                (value, None) if value.is_scratch() => Arc::new(ScratchDisk {
                    engine: self.engine.clone(),
                    export_name: self.wish.export_name.clone(),
                    budgets: self.wish.budgets.clone(),
                }),
                (&Value::Device(ref export, link), None) => Arc::new(LowerExport {
                    link,
                    exports: self.exports.clone(),
                    upper: self.wish.export_name.clone(),
                    name: export.clone(),
                }),
                (&Value::File(ref path, link), kept) => {
                    below = kept;
                    let read_only = read_only || !link.writes;
                    let config = FileConfig::of_path(path.as_ref(), &self.wish, read_only);
                    Arc::new(OwnFile(config))
                }
                (_, kept) => {
                    below = kept;
                    return None;
                }
            };
            Some((name.clone(), source))
        });
        devices.collect()
    }

    /// Loads the components, one after the other.
    async fn load_all(&self, stage: &(dyn Fn(Stage) + Send + Sync)) -> Result<Vec<Known>, Problem> {
        let mut known = Vec::new();
        for layer in &*self.layers {
            known.push(match layer {
                Layer::File => Known::File(file::description()),
                Layer::Component(supply) => {
                    let loaded = supply.component(stage).await;
                    let component = supply.name().to_owned();
                    Known::Component(loaded.map_err(|error| Problem::Load { component, error })?)
                }
            });
        }
        Ok(known)
    }
}

fn not_a_filter(name: &str) -> String {
    format!("{name} is not a filter: it has no parameter {BASE:?} of the type device")
}

impl Source for Chain {
    fn load<'a>(&'a self, stage: &'a (dyn Fn(Stage) + Send + Sync)) -> Loading<'a> {
        Box::pin(async move {
            let known = self.load_all(stage).await?;
            match self.resolve_aside(known, 0).await? {
                Resolved::Guest(config) => Ok(Supplied::Guest(config)),
                Resolved::File(config) => {
                    stage(Stage::Opening);
                    config.open().await.map(Supplied::Device)
                }
            }
        })
    }

    fn label(&self) -> &str {
        &self.label
    }
}

/// A file that a component stands on, which nobody else uses.
#[derive(Debug)]
struct OwnFile(FileConfig);

impl LowerSource for OwnFile {
    fn open<'a>(&'a self, _: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        Box::pin(async {
            let opened = self.0.open().await.map_err(|problem| LowerError {
                message: problem.to_string(),
                may_pass: problem.may_pass(),
            });
            Ok(Lower { device: opened?, link: None })
        })
    }
}
