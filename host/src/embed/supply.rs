//! What the exports of a [`Builder`](super::Builder) serve, and how it is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StartError;
use crate::component::{BASE, BuiltIn, Client, Engine, Executing};
use crate::device::file::{FileDevice, FileOptions, Source};
use crate::device::guest::{Budgets, DiskConfig};
use crate::device::{
    Buffers, Device, Lower, LowerError, LowerSource, OpenDevice, OwnDisk, ScratchDisk,
};
use crate::exports::{Export, KnownExports, LowerExport};
use crate::output::Outputs;
use crate::parameters::{Argument, Link, Value, assign_outputs};

/// The disk of an export, and its filters.
pub(super) struct Supply {
    pub(super) export: String,
    pub(super) backend: Backend,
    /// The one nearest to the clients comes last.
    pub(super) filters: Vec<Layer>,
}

/// A disk without filters.
pub(super) enum Backend {
    Component(Layer),
    File { path: PathBuf, read_only: bool },
    Device(Arc<dyn Device>),
}

/// A built-in component with its parameters.
pub(super) struct Layer {
    pub(super) component: String,
    /// Each as KEY=VALUE.
    pub(super) parameters: Vec<String>,
}

/// Makes exports.
pub(super) struct Maker<'a> {
    pub(super) engine: &'a Engine,
    pub(super) known: &'a KnownExports,
    pub(super) outputs: Outputs,
}

impl Layer {
    pub(super) fn new(component: &str, parameters: &[(&str, &str)]) -> Self {
        let parameters = parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Self { component: component.to_owned(), parameters }
    }
}

/// A disk that can be opened.
enum Made {
    Disk(Box<DiskConfig>),
    Other(Arc<dyn LowerSource>),
}

impl Maker<'_> {
    /// Makes an export. Disks of components are still to be opened.
    pub(super) async fn export(
        &self,
        supply: Supply,
        budgets: Budgets,
    ) -> Result<Arc<Export>, StartError> {
        let Supply { export: name, backend, filters } = supply;
        let mut made = match backend {
            Backend::Component(layer) => {
                Made::Disk(Box::new(self.disk(layer, None, &name, &budgets).await?))
            }
            Backend::Device(device) => Made::Other(Arc::new(OpenDevice::Own(device))),
            Backend::File { path, read_only } => {
                Made::Other(Arc::new(OneFile::new(&path, read_only, &name, &budgets)))
            }
        };
        for filter in filters {
            let base = match made {
                Made::Disk(config) => Arc::new(OwnDisk(*config)) as Arc<dyn LowerSource>,
                Made::Other(source) => source,
            };
            made = Made::Disk(Box::new(self.disk(filter, Some(base), &name, &budgets).await?));
        }
        match made {
            Made::Disk(config) => Ok(Export::new(*config)),
            Made::Other(source) => match source.open(None).await {
                Ok(lower) => Ok(Export::of_device(&name, lower.device)),
                Err(error) => Err(StartError::Device { name, error }),
            },
        }
    }

    /// Configures a disk of a component. With `base`, the component is a filter above that.
    async fn disk(
        &self,
        layer: Layer,
        base: Option<Arc<dyn LowerSource>>,
        export_name: &str,
        budgets: &Budgets,
    ) -> Result<DiskConfig, StartError> {
        let Layer { component, mut parameters } = layer;
        let Some(built_in) = BuiltIn::find(&component) else {
            return Err(StartError::UnknownComponent(component));
        };
        let loaded = self.engine.load_built_in(built_in.for_parameters(&parameters)).await;
        let component = loaded.map_err(StartError::Load)?.for_export(export_name);
        let description = component.description();
        if base.is_some() {
            if description.base().is_none() {
                return Err(StartError::NotAFilter(description.name.clone()));
            }
            parameters.insert(0, format!("{BASE}="));
        }
        let wrong = |error| StartError::Arguments { name: export_name.to_owned(), error };
        let mut arguments = description.parse_arguments(&parameters).map_err(wrong)?;
        assign_outputs(&mut arguments, &self.outputs, &std::env::current_dir().unwrap_or_default());
        let mut base = base;
        let lowers = arguments.iter().filter_map(|Argument { name, value }| {
            let source = match value {
                Value::Device(..) if base.is_some() => base.take()?,
                value if value.is_scratch() => Arc::new(ScratchDisk {
                    engine: self.engine.clone(),
                    export_name: export_name.to_owned(),
                    budgets: budgets.clone(),
                }),
                &Value::Device(ref export, link) => Arc::new(LowerExport {
                    exports: self.known.clone(),
                    upper: export_name.to_owned(),
                    name: export.clone(),
                    link,
                }),
                &Value::File(ref path, Link { writes, .. }) => {
                    Arc::new(OneFile::new(path.as_ref(), !writes, export_name, budgets))
                }
                _ => return None,
            };
            Some((name.clone(), source))
        });
        let lowers = lowers.collect();
        Ok(DiskConfig {
            component,
            export_name: export_name.to_owned(),
            read_only: false,
            arguments,
            budgets: budgets.clone(),
            lowers,
            client: None,
        })
    }
}

/// A file that is opened when it is needed.
#[derive(Debug)]
struct OneFile {
    path: PathBuf,
    read_only: bool,
    export_name: String,
    buffers: Buffers,
}

impl OneFile {
    fn new(path: &Path, read_only: bool, export_name: &str, budgets: &Budgets) -> Self {
        Self {
            path: path.to_owned(),
            read_only,
            export_name: export_name.to_owned(),
            buffers: budgets.buffers.clone(),
        }
    }
}

impl LowerSource for OneFile {
    fn open<'a>(&'a self, _: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        Box::pin(async {
            let options = FileOptions {
                source: Source::Path(self.path.clone()),
                export_name: self.export_name.clone(),
                read_only: self.read_only,
                access: Default::default(),
                page_cache: Default::default(),
                buffers: self.buffers.clone(),
            };
            let failed = |message: String| LowerError {
                message: format!("{}: {message}", self.path.display()),
                may_pass: false,
            };
            let opened = tokio::task::spawn_blocking(move || FileDevice::open(options)).await;
            let device = opened.map_err(|error| failed(error.to_string()))?;
            let device = device.map_err(|error| failed(error.to_string()))?;
            Ok(Lower { device: Arc::new(device), link: None })
        })
    }
}
