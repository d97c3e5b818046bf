//! Loading components: compiling them, or using the built-in ones, and asking them to describe
//! themselves.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use wasmtime::Config;
use wasmtime::component::Component as Compiled;

use super::built_in::BuiltIn;
use super::check::Description;
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

/// What all components of a process share: the compiler, the clock that interrupts guests, and the
/// imports they may use. Each part is created when it is first needed.
#[derive(Clone)]
pub struct Engine {
    parts: Arc<Parts>,
    deadline: Duration,
    compiler: Compiler,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Parts {
    /// For components with direct access, which need memories mapped by the host.
    direct: OnceLock<Shared>,
    /// For all other components. Memories mapped by wasmtime start as copy-on-write images of the
    /// component's initial data, which components with an embedded interpreter need.
    plain: OnceLock<Shared>,
}

impl Engine {
    /// The most memory, in bytes, that an instance may use when it is only asked for its
    /// description. Once it opens a disk, the disk's budget applies.
    const DESCRIBE_MEMORY: u64 = 1 << 30;

    /// Creates an engine that stops a guest which has not returned after `deadline`, and that
    /// compiles components in this process, without limits.
    ///
    /// Loading the first component starts a thread that ticks while there are calls.
    pub fn new(deadline: Duration) -> Self {
        Self::with_compiler(deadline, Compiler::InProcess)
    }

    /// Like [`Self::new`], but compiles with the given compiler.
    pub fn with_compiler(deadline: Duration, compiler: Compiler) -> Self {
        Self { parts: Arc::default(), deadline, compiler }
    }

    /// Returns the shared parts for components with or without direct access, creating them if
    /// needed.
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

    /// Loads a component that is part of the program, and asks it to describe itself.
    ///
    /// # Errors
    ///
    /// See [`Self::load`].
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
    /// `name` identifies it in logs.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not a component, if it does not export the contract or
    /// imports something that the host does not provide, or if it fails to describe itself.
    pub async fn load(&self, name: &str, wasm: &[u8]) -> Result<Component, LoadError> {
        self.load_observed(name, Bytes::copy_from_slice(wasm), &|_| ()).await
    }

    /// Like [`Self::load`], but reports progress if the component has to be compiled in a child
    /// process.
    ///
    /// # Errors
    ///
    /// See [`Self::load`].
    pub async fn load_observed(
        &self,
        name: &str,
        wasm: Bytes,
        observer: Observer<'_>,
    ) -> Result<Component, LoadError> {
        check_binary(&wasm)?;
        // It is enough that the name of the interface occurs in the bytes: if the component does
        // not export it after all, all that is lost is copy-on-write initialization.
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
            description: Arc::new(Description {
                name: name.into(),
                version: String::new(),
                summary: String::new(),
                parameters: Vec::new(),
                bare_parameter: None,
                other_parameters: false,
            }),
            built_in,
            spare: Arc::default(),
        };
        let budget = MemoryBudget::new(Self::DESCRIBE_MEMORY);
        let mut instance = component.start(budget).await.map_err(LoadError::Fault)?;
        component.description = Arc::new(instance.describe().await.map_err(LoadError::Fault)?);
        // This instance can still open a disk, and starting another one takes time.
        component.spare = Arc::new(Mutex::new(Some(instance)));
        Ok(component)
    }
}

/// Checks the first eight bytes, which tell a component (layer 1) from a core module (layer 0).
fn check_binary(wasm: &[u8]) -> Result<(), LoadError> {
    match wasm {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(LoadError::CoreModule),
        _ => Err(LoadError::NotWasm),
    }
}

/// A component that has been compiled and has described itself.
#[derive(Clone)]
pub struct Component {
    executable: Executable,
    name: Arc<str>,
    description: Arc<Description>,
    built_in: bool,
    /// The instance that was asked for the description, until a disk is opened with it.
    spare: Arc<Mutex<Option<Instance>>>,
}

impl Component {
    /// The name that identifies it in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The component's description of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Whether it is part of the program.
    pub fn is_built_in(&self) -> bool {
        self.built_in
    }

    /// Returns the component for use by an export: the output of all its instances is logged
    /// together, under the name of the export.
    pub fn for_export(&self, export_name: &str) -> Self {
        let output = Output::of_export(export_name, &self.name);
        Self { executable: self.executable.with_output(output), ..self.clone() }
    }

    /// The lines that its instances printed most recently, oldest first, whether or not they were
    /// logged.
    pub fn recent_output(&self) -> Vec<String> {
        self.executable.output().recent()
    }

    /// The interface through which it is served, with its version, such as
    /// `memnbd:block/block-store@0.2.0`.
    pub fn contract(&self) -> &str {
        &self.executable.prepared().contract
    }

    /// The names of the interfaces that it imports.
    pub fn imports(&self) -> &[String] {
        &self.executable.prepared().imports
    }

    /// Returns true if the component says where the bytes of requests are.
    pub fn routes(&self) -> bool {
        self.executable.prepared().routes
    }

    /// Returns true if the component lists its exports.
    pub fn lists_exports(&self) -> bool {
        self.executable.prepared().lists
    }

    /// Returns true if the component takes commands while it is in use.
    pub fn takes_commands(&self) -> bool {
        self.executable.prepared().commands
    }

    /// Returns true if the component may withdraw stable routes.
    pub fn withdraws_routes(&self) -> bool {
        self.executable.prepared().withdraws
    }

    /// Returns true if the component may set stable routes.
    pub(crate) fn sets_routes(&self) -> bool {
        self.executable.prepared().sets
    }

    /// Returns true if the component may have its lower devices opened anew.
    pub fn reopens_lowers(&self) -> bool {
        self.executable.prepared().reopens
    }

    /// Starts an instance whose memory comes from a budget. It has no disk open yet.
    ///
    /// # Errors
    ///
    /// Returns [`Fault::OutOfMemory`] if there is not enough memory, and [`Fault::Start`] if the
    /// types of its functions differ from the contract's or its start function fails.
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
