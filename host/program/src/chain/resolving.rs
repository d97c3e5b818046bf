//! From the words of a disk to layers that can be opened: whose parameters they are, and what they name.

use std::sync::Arc;

use super::content::Parsed;
use super::{Chain, Known, Layer, no_backend, not_a_filter};
use crate::Failure;
use crate::file::FileConfig;
use crate::inputs::{self, Allowed, Inputs};
use crate::volume::OwnVolume;
use crate::wish::Wish;
use crate::words::{self, Words};
use memnbd::component::{BASE, Client, Description, Executing};
use memnbd::device::guest::DiskConfig;
use memnbd::device::{Device, Lower, LowerError, LowerSource, OpenDevice, OwnDisk, ScratchDisk};
use memnbd::exports::{LowerExport, Problem};
use memnbd::parameters::{Argument, ParameterType, Value, assign_outputs};

/// A layer that can be opened.
#[derive(Clone)]
pub(super) enum Resolved {
    Guest(Box<DiskConfig>),
    File(FileConfig),
    Volume(OwnVolume),
    Open(Arc<dyn Device>),
}

impl Resolved {
    /// Returns where a filter above gets the layer from.
    fn source(self) -> Arc<dyn LowerSource> {
        match self {
            Self::Guest(config) => Arc::new(OwnDisk(*config)),
            Self::File(config) => Arc::new(OwnFile(config)),
            Self::Volume(volume) => Arc::new(volume),
            Self::Open(device) => Arc::new(OpenDevice::Own(device)),
        }
    }
}

impl Chain {
    /// Gives each layer its words.
    pub(super) fn words(&self, known: &[Known]) -> Result<Words, Failure> {
        let descriptions: Vec<&Description> = known.iter().map(Known::description).collect();
        let (backend, filters) = descriptions.split_last().ok_or_else(no_backend)?;
        if let Some(other) = filters.iter().find(|filter| filter.base().is_none()) {
            return Err(Failure::Usage(not_a_filter(&other.name)));
        }
        let words = words::distribute(filters, backend, &self.wish.words, self.wish.for_host);
        words.map_err(Failure::Usage)
    }

    /// Parses the words of the layers from `top`, counted from the client, to those that are not opened. Also
    /// returns whether what is beneath is read-only. It may block if [`Self::may_block`] says so.
    pub(super) fn parse<'a>(
        &'a self,
        known: &'a [Known],
        top: usize,
    ) -> Result<(Vec<Parsed<'a>>, bool), Failure> {
        let words = self.words(known)?;
        // What stands beneath a filter that does not write is opened for reading only.
        let mut read_only = self.wish.read_only || words.read_only;
        let mut layers = Vec::new();
        let opened = self.above.as_ref().map_or(known.len(), |above| above.filters);
        for (index, (known, own)) in known.iter().zip(&words.layers).enumerate().take(opened) {
            let description = known.description();
            let mut given = own.clone();
            let inputs = self.inputs(&self.layers[index], description, own);
            let inputs = inputs.map_err(|error| Failure::Failed(anyhow::anyhow!(error)))?;
            given.extend(inputs.iter().flat_map(|inputs| inputs.words()));
            if index + 1 < words.layers.len() {
                given.insert(0, format!("{BASE}="));
            }
            let arguments = description
                .parse_arguments(&given)
                .map_err(|error| Failure::Usage(error.of(&description.name).to_string()))?;
            layers.push(Parsed { known, arguments, inputs, read_only });
            read_only |= description.base().is_some_and(|link| !link.writes);
        }
        if let Some(Layer::Snapshot) = self.layers.last()
            && let Some(word) = words.layers.last().and_then(|own| own.first())
        {
            return Err(Failure::Usage(format!("{word:?}: a snapshot has no parameters")));
        }
        Ok((layers.split_off(top.min(layers.len())), read_only))
    }

    /// Gives each layer its words, and the devices that they name. Returns the layer `top`, counted from
    /// the client, on the volume's device if that is `open`. It may block if [`Self::may_block`] says so.
    pub(super) fn resolve(
        &self,
        known: &[Known],
        top: usize,
        open: Option<Arc<dyn Device>>,
    ) -> Result<Resolved, Failure> {
        let (layers, read_only) = self.parse(known, top)?;
        let volume = || {
            let volume = OwnVolume { volume: self.volume.clone(), read_only };
            open.map_or(Resolved::Volume(volume), Resolved::Open)
        };
        let mut below = self.above.is_some().then(volume);
        for Parsed { known, mut arguments, inputs, mut read_only } in layers.into_iter().rev() {
            let description = known.description();
            let Wish { secrets, outputs, directory, grants, .. } = &self.wish;
            if let Some(grants) = grants {
                let designated = match known {
                    Known::Native(_) => grants.designate_file(&mut arguments),
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
                Known::Native(_) => {
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

    /// Calls a function that may block if [`Self::may_block`] says so, and then on another thread.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        known: Vec<Known>,
        function: impl FnOnce(&Self, &[Known]) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = if self.may_block(&known) {
            let chain = self.clone();
            let working = tokio::task::spawn_blocking(move || function(&chain, &known));
            working.await.map_err(|_| Problem::Panicked)?
        } else {
            function(self, &known)
        };
        done.map_err(|failure| {
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
