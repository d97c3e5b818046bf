//! Compiling components, or taking the built-in ones, and asking them what they are.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use wasmtime::Config;
use wasmtime::component::Component as Compiled;

use super::bindings::Description;
use super::built_in::BuiltIn;
use super::compiler::{Compiler, Observer};
use super::executable::Executable;
use super::fault::Fault;
use super::instance::Instance;
use super::log_stream::Output;
use super::memory::MemoryBudget;
use super::prepared::{Prepared, Shared};
use super::region::Regions;
use super::{DIRECT_ACCESS, LoadError};
use crate::compute::Compute;

/// What all components of a process share: the way to compile them, the clock that interrupts guests, the
/// imports they may have. Each part is made when it is first needed.
#[derive(Clone)]
pub struct Engine {
    parts: Arc<Parts>,
    deadline: Duration,
    compiler: Compiler,
}

#[derive(Default)]
struct Parts {
    /// For components with direct access, which need memories that the host maps.
    direct: OnceLock<Shared>,
    /// For the others: memories that wasmtime maps begin as copies on write of what the component
    /// fills them with, which those with an interpreter inside need.
    plain: OnceLock<Shared>,
}

impl Engine {
    /// The memory of an instance that opens a disk is bounded by the disk's budget; this bounds
    /// what one that is only asked for its description may take, in bytes.
    const DESCRIBE_MEMORY: u64 = 1 << 30;

    /// An engine that stops a guest which has not returned after `deadline`, and compiles
    /// components itself, without limits.
    ///
    /// With the first component, it starts a thread that ticks while there are calls.
    pub fn new(deadline: Duration) -> Self {
        Self::with_compiler(deadline, Compiler::InProcess)
    }

    /// As [`Self::new`], with another way to compile.
    pub fn with_compiler(deadline: Duration, compiler: Compiler) -> Self {
        Self { parts: Arc::default(), deadline, compiler }
    }

    /// What there is to run components of a kind.
    fn shared(&self, direct: bool) -> Result<&Shared, LoadError> {
        let part = if direct { &self.parts.direct } else { &self.parts.plain };
        if let Some(shared) = part.get() {
            return Ok(shared);
        }
        let mut config = Config::new();
        config.enable_compiler(matches!(self.compiler, Compiler::InProcess));
        let regions = direct.then_some(Regions);
        let shared = Shared::new(config, regions).map_err(LoadError::Machine)?;
        Ok(part.get_or_init(|| shared))
    }

    /// Asks a component that is part of the program to describe itself.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub async fn load_built_in(&self, built_in: BuiltIn) -> Result<Component, LoadError> {
        match built_in.prepared() {
            Ok(prepared) => self.describe(built_in.name(), prepared.clone(), true).await,
            Err(reason) => {
                tracing::debug!("{} is compiled: {reason}", built_in.name());
                let wasm = Bytes::from_static(built_in.wasm());
                let component = self.load_observed(built_in.name(), wasm, &|_| ()).await?;
                Ok(Component { built_in: true, ..component })
            }
        }
    }

    /// Compiles a component and asks it to describe itself.
    ///
    /// `name` is what logs call it.
    ///
    /// # Errors
    ///
    /// When the bytes are not a component that exports the contract and imports what there is,
    /// or when its description cannot be had.
    pub async fn load(&self, name: &str, wasm: &[u8]) -> Result<Component, LoadError> {
        self.load_observed(name, Bytes::copy_from_slice(wasm), &|_| ()).await
    }

    /// As [`Self::load`]; tells of its progress if it has to compile and that is elsewhere.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub async fn load_observed(
        &self,
        name: &str,
        wasm: Bytes,
        observer: Observer<'_>,
    ) -> Result<Component, LoadError> {
        check_binary(&wasm)?;
        // The name of the interface among its bytes tells enough: if it does not export it after all,
        // nothing is lost but copies on write.
        let direct = memchr::memmem::find(&wasm, DIRECT_ACCESS.as_bytes()).is_some();
        let shared = self.shared(direct)?;
        let compiled = match &self.compiler {
            Compiler::InProcess => {
                Compiled::new(&shared.engine, &wasm).map_err(LoadError::Invalid)?
            }
            Compiler::Child(compiler) => {
                compiler.component(&shared.engine, direct, wasm, observer).await?
            }
        };
        let prepared = Prepared::new(shared, &compiled)?;
        let (engine, name) = (self.clone(), name.to_owned());
        let describing = async move { engine.describe(&name, prepared, false).await };
        Compute::default().run(describing).await.map_err(LoadError::Threads)?
    }

    async fn describe(
        &self,
        name: &str,
        prepared: Prepared,
        built_in: bool,
    ) -> Result<Component, LoadError> {
        let mut component = Component {
            executable: Executable::new(prepared, self.deadline, Output::of_component(name)),
            name: name.into(),
            description: Description {
                name: name.into(),
                version: String::new(),
                summary: String::new(),
                parameters: Vec::new(),
                bare_parameter: None,
            },
            built_in,
            spare: Arc::default(),
        };
        let budget = MemoryBudget::new(Self::DESCRIBE_MEMORY);
        let mut instance = component.start(budget).await.map_err(LoadError::Fault)?;
        component.description = instance.describe().await.map_err(LoadError::Fault)?;
        // It can open a disk as well as any other, and starting one takes its time.
        component.spare = Arc::new(Mutex::new(Some(instance)));
        Ok(component)
    }
}

/// The first eight bytes tell a core module (layer 0) from a component (layer 1).
fn check_binary(wasm: &[u8]) -> Result<(), LoadError> {
    match wasm {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(LoadError::CoreModule),
        _ => Err(LoadError::NotWasm),
    }
}

/// A component that was compiled and has described itself.
#[derive(Clone)]
pub struct Component {
    executable: Executable,
    name: Arc<str>,
    description: Description,
    built_in: bool,
    /// The instance that described itself, until a disk is opened with it.
    spare: Arc<Mutex<Option<Instance>>>,
}

impl Component {
    /// What logs call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Whether it is part of the program.
    pub fn is_built_in(&self) -> bool {
        self.built_in
    }

    /// The component as it serves an export: all instances print as one, and under its name.
    pub fn for_export(&self, export_name: &str) -> Self {
        let output = Output::of_export(export_name, &self.name);
        Self { executable: self.executable.with_output(output), ..self.clone() }
    }

    /// The lines that its instances printed last, oldest first, whether they were logged or not.
    pub fn recent_output(&self) -> Vec<String> {
        self.executable.output().recent()
    }

    /// The interface by which it is served, with its version, as `memnbd:block/block-store@0.1.0`.
    pub fn contract(&self) -> &str {
        &self.executable.prepared().contract
    }

    /// The names of the interfaces that it imports.
    pub fn imports(&self) -> &[String] {
        &self.executable.prepared().imports
    }

    /// Starts an instance within a budget of memory. Nothing is open yet.
    ///
    /// # Errors
    ///
    /// A [`Fault::OutOfMemory`], when there is no memory for it; a [`Fault::Start`], when its
    /// functions have other types than the contract's, or its start function fails.
    pub async fn start(&self, budget: MemoryBudget) -> Result<Instance, Fault> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spare) = spare
            && let Some(instance) = spare.reuse(&budget, self.executable.output())
        {
            return Ok(instance);
        }
        Instance::start(&self.executable, budget).await
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component").field("name", &self.name).finish_non_exhaustive()
    }
}
