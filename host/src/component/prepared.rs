//! Components that can be started: compiled or loaded, and linked to what they import.

use std::sync::{Arc, OnceLock};

use wasmtime::Config;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component as Compiled, InstancePre, Linker};

use super::clock::Clock;
use super::log;
use super::lower;
use super::output;
use super::region::Regions;
use super::state::State;
use super::{CONTRACT_VERSION, CONTROL, INTERFACE, LISTING, LOWER, LoadError, ROUTING, settings};

/// What all components with, or all without, direct access share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) engine: wasmtime::Engine,
    /// All imports, collected when a component first needs any.
    wasi: Arc<OnceLock<Linker<State>>>,
    pub(super) clock: Arc<Clock>,
}

impl Shared {
    /// Creates an engine with the given settings and those that compiled code needs. With
    /// `regions`, the host maps the memories of guests.
    pub(super) fn new(mut config: Config, regions: Option<Regions>) -> wasmtime::Result<Self> {
        settings_of_code(&mut config, regions.is_some());
        if let Some(regions) = regions {
            config.with_host_memory(Arc::new(regions));
        }
        let engine = wasmtime::Engine::new(&config)?;
        let clock = Arc::new(Clock::new(engine.weak()));
        Ok(Self { engine, wasi: Arc::default(), clock })
    }

    fn instantiate_pre(
        &self,
        compiled: &Compiled,
        alone: bool,
    ) -> wasmtime::Result<InstancePre<State>> {
        if alone {
            return Linker::new(&self.engine).instantiate_pre(compiled);
        }
        if let Some(linker) = self.wasi.get() {
            return linker.instantiate_pre(compiled);
        }
        let mut linker = Linker::new(&self.engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        log::add_to_linker(&mut linker)?;
        lower::add_to_linker(&mut linker)?;
        output::add_to_linker(&mut linker)?;
        self.wasi.get_or_init(|| linker).instantiate_pre(compiled)
    }

    /// Returns the contract as the component exports it, with its version. The error distinguishes
    /// a component with another version of the contract from one that is not a backend at all.
    fn contract(&self, compiled: &Compiled) -> Result<String, LoadError> {
        let ty = compiled.component_type();
        let exports: Vec<String> =
            ty.exports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        // This also finds other patch releases of the contract, but no pre-releases.
        let wanted = format!("{INTERFACE}@{CONTRACT_VERSION}");
        if compiled.get_export_index(None, &wanted).is_some() {
            let exported = exports.into_iter().find(|name| name.starts_with(INTERFACE));
            return Ok(exported.unwrap_or(wanted));
        }
        let version = exports.iter().find_map(|name| match name.strip_prefix(INTERFACE)? {
            "" => Some("none"),
            version => version.strip_prefix('@'),
        });
        match version {
            Some(version) => Err(LoadError::Version(version.to_owned())),
            None => Err(LoadError::World(exports)),
        }
    }

    /// Returns true if a component imports this function of `lower`.
    fn uses(&self, compiled: &Compiled, function: &str) -> bool {
        let ty = compiled.component_type();
        let mut lower = ty.imports(&self.engine).filter(|(name, _)| name.starts_with(LOWER));
        lower.any(|(_, item)| match item.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(&self.engine).any(|(name, _)| name == function)
            }
            _ => false,
        })
    }

    fn imports(&self, compiled: &Compiled) -> Vec<String> {
        let ty = compiled.component_type();
        let is_type = |item: &ComponentItem| matches!(item, ComponentItem::Type(_));
        ty.imports(&self.engine)
            .filter(|(_, item)| match &item.ty {
                // Those that only have types need nothing of the host.
                ComponentItem::ComponentInstance(instance) => {
                    !instance.exports(&self.engine).all(|(_, item)| is_type(&item.ty))
                }
                item => !is_type(item),
            })
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

/// Creates an engine that compiles code for the engines of [`Shared`], and runs nothing.
pub(super) fn compiling_engine(direct: bool) -> wasmtime::Result<wasmtime::Engine> {
    let mut config = Config::new();
    settings_of_code(&mut config, direct);
    wasmtime::Engine::new(&config)
}

fn settings_of_code(config: &mut Config, direct: bool) {
    settings::of_code(config);
    if direct {
        settings::of_mapped_memories(config);
    }
}

/// A component that can be started, but has not been asked for its description.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) shared: Shared,
    pub(super) pre: InstancePre<State>,
    /// The interface through which it is served, with its version.
    pub(super) contract: Arc<str>,
    /// The names of the interfaces that it imports.
    pub(super) imports: Arc<[String]>,
    /// It routes requests.
    pub(super) routes: bool,
    /// It may withdraw stable routes.
    pub(super) withdraws: bool,
    /// It may set stable routes.
    pub(super) sets: bool,
    /// It may have lower devices opened anew.
    pub(super) reopens: bool,
    /// It lists its exports.
    pub(super) lists: bool,
    /// It takes commands.
    pub(super) commands: bool,
}

impl Prepared {
    /// Links a compiled component to its imports.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not export the contract, or imports something that the host does
    /// not provide.
    pub(super) fn new(shared: &Shared, compiled: &Compiled) -> Result<Self, LoadError> {
        let contract = shared.contract(compiled)?.into();
        let imports = shared.imports(compiled);
        let exports = |interface: &str| {
            compiled.get_export_index(None, format!("{interface}@{CONTRACT_VERSION}")).is_some()
        };
        match shared.instantiate_pre(compiled, imports.is_empty()) {
            Ok(pre) => Ok(Self {
                shared: shared.clone(),
                pre,
                contract,
                imports: imports.into(),
                routes: exports(ROUTING),
                lists: exports(LISTING),
                commands: exports(CONTROL),
                withdraws: shared.uses(compiled, "withdraw-routes"),
                sets: shared.uses(compiled, "set-route"),
                reopens: shared.uses(compiled, "reopen"),
            }),
            Err(error) => Err(LoadError::Imports { error, imports }),
        }
    }
}
