//! Compiling components and saying clearly what is wrong with those that cannot be served.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component as Compiled, InstancePre, Linker, ResourceTable};
use wasmtime::{Cache, CacheConfig, Config, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::Description;
use super::clock::Clock;
use super::fault::Fault;
use super::functions::Limits;
use super::instance::Instance;
use super::log_stream::LogStream;
use super::memory::{MemoryBudget, Share};
use super::region::Regions;
use super::{CONTRACT_VERSION, DIRECT_ACCESS, INTERFACE};

/// What all components of a process share: the compiler, the clock that interrupts guests, the
/// imports they may have.
#[derive(Clone)]
pub struct Engine {
    /// For components with direct access, which need memories that the host maps.
    direct: Shared,
    /// For the others: memories that wasmtime maps begin as copies on write of what the component
    /// fills them with, which those with an interpreter inside need. Made when it is first needed.
    plain: Arc<OnceLock<Shared>>,
    deadline: Duration,
    cache: Option<Cache>,
}

/// What components of one kind share.
#[derive(Clone)]
struct Shared {
    engine: wasmtime::Engine,
    /// The imports of WASI, collected when a component first wants any.
    wasi: Arc<OnceLock<Linker<State>>>,
    clock: Arc<Clock>,
    /// The memories of guests, if the host maps them.
    regions: Option<Regions>,
}

impl Engine {
    /// The memory of an instance that opens a disk is bounded by the disk's budget; this bounds
    /// what one that is only asked for its description may take, in bytes.
    const DESCRIBE_MEMORY: u64 = 1 << 30;

    /// Makes an engine that stops a guest which has not returned after `deadline`.
    ///
    /// It starts a thread that ticks while there are calls.
    ///
    /// # Errors
    ///
    /// When the machine is not one that wasmtime can compile for.
    pub fn new(deadline: Duration) -> wasmtime::Result<Self> {
        Self::with_cache(deadline, None)
    }

    /// As [`Self::new`]; what is compiled is kept in a directory, and taken from there the next
    /// time. Whoever can write there can run code in this process. A directory that cannot be
    /// used is done without.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_cache(deadline: Duration, directory: Option<&Path>) -> wasmtime::Result<Self> {
        let cache = directory.and_then(open_cache);
        let direct = Shared::new(cache.clone(), Some(Regions::default()))?;
        Ok(Self { direct, plain: Arc::default(), deadline, cache })
    }

    /// What a component needs, of which the name of an interface among its bytes tells enough: if it
    /// does not export the interface after all, nothing is lost but copies on write.
    fn shared(&self, wasm: &[u8]) -> wasmtime::Result<&Shared> {
        if memchr::memmem::find(wasm, DIRECT_ACCESS.as_bytes()).is_some() {
            return Ok(&self.direct);
        }
        if let Some(plain) = self.plain.get() {
            return Ok(plain);
        }
        let plain = Shared::new(self.cache.clone(), None)?;
        Ok(self.plain.get_or_init(|| plain))
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
        check_binary(wasm)?;
        let shared = self.shared(wasm).map_err(LoadError::Invalid)?;
        let compiled = Compiled::new(&shared.engine, wasm).map_err(LoadError::Invalid)?;
        let contract = shared.contract(&compiled)?;
        let imports = shared.imports(&compiled);
        let pre = shared
            .instantiate_pre(&compiled, imports.is_empty())
            .map_err(|error| LoadError::Imports { error, imports: imports.clone() })?;
        let mut component = Component {
            shared: shared.clone(),
            deadline: self.deadline,
            pre,
            name: name.into(),
            description: Description {
                name: name.into(),
                version: String::new(),
                summary: String::new(),
                parameters: Vec::new(),
                bare_parameter: None,
            },
            contract,
            imports,
            spare: Arc::default(),
        };
        let budget = MemoryBudget::new(Self::DESCRIBE_MEMORY);
        let mut instance = Instance::start(&component, budget).await.map_err(LoadError::Fault)?;
        component.description = instance.describe().await.map_err(LoadError::Fault)?;
        // It can open a disk as well as any other, and starting one takes its time.
        component.spare = Arc::new(Mutex::new(Some(instance)));
        Ok(component)
    }
}

impl Shared {
    fn new(cache: Option<Cache>, regions: Option<Regions>) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.cache(cache);
        config.epoch_interruption(true);
        config.concurrency_support(false);
        // A trap is told in one line; nobody looks at guest frames.
        config.wasm_backtrace_max_frames(None);
        if let Some(regions) = &regions {
            config.with_host_memory(Arc::new(regions.clone()));
            // It needs wasmtime's own memories.
            config.memory_init_cow(false);
        }
        let engine = wasmtime::Engine::new(&config)?;
        let clock = Arc::new(Clock::start(engine.weak())?);
        Ok(Self { engine, wasi: Arc::default(), clock, regions })
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
        self.wasi.get_or_init(|| linker).instantiate_pre(compiled)
    }

    /// The contract as the component exports it, with its version. Tells a component of another
    /// world or version from one that is no backend at all.
    fn contract(&self, compiled: &Compiled) -> Result<String, LoadError> {
        let ty = compiled.component_type();
        let exports: Vec<String> =
            ty.exports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        // This finds the contract's other patch releases, too, but no pre-releases.
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

    fn imports(&self, compiled: &Compiled) -> Vec<String> {
        let ty = compiled.component_type();
        ty.imports(&self.engine)
            .filter(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

fn open_cache(directory: &Path) -> Option<Cache> {
    let mut config = CacheConfig::new();
    config.with_directory(directory);
    let opened = Cache::new(config);
    opened
        .inspect_err(|error| tracing::debug!("no cache in {}: {error:#}", directory.display()))
        .ok()
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
    shared: Shared,
    deadline: Duration,
    pre: InstancePre<State>,
    name: Arc<str>,
    description: Description,
    contract: String,
    imports: Vec<String>,
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

    /// The interface by which it is served, with its version, as `memnbd:block/block-store@0.1.0`.
    pub fn contract(&self) -> &str {
        &self.contract
    }

    /// The names of the interfaces that it imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    pub(super) fn pre(&self) -> &InstancePre<State> {
        &self.pre
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { clock: self.shared.clock.clone(), deadline: self.deadline }
    }

    /// The memories of its instances, if the host maps them.
    pub(super) fn regions(&self) -> Option<&Regions> {
        self.shared.regions.as_ref()
    }

    pub(super) fn take_spare(&self) -> Option<Instance> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A store in which one instance will live, with nothing granted but memory.
    pub(super) fn store(&self, budget: MemoryBudget) -> Store<State> {
        let state = State { share: Share::new(budget), component: self.name.clone(), wasi: None };
        let mut store = Store::new(&self.shared.engine, state);
        store.limiter(|state| &mut state.share);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a store holds for its instance.
pub(super) struct State {
    share: Share,
    component: Arc<str>,
    /// Made when the instance first calls an import of WASI: most never do.
    wasi: Option<Box<(WasiCtx, ResourceTable)>>,
}

impl State {
    /// What wasmtime keeps for a component that makes streams, clocks and the like and never drops
    /// them is bounded by their number.
    const RESOURCES: usize = 4096;

    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    pub(super) fn share_mut(&mut self) -> &mut Share {
        &mut self.share
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (ctx, table) = &mut **self.wasi.get_or_insert_with(|| {
            let output = LogStream::new(self.component.clone());
            let ctx = WasiCtx::builder().stdout(output.clone()).stderr(output).build();
            let mut table = ResourceTable::new();
            table.set_max_capacity(Self::RESOURCES);
            Box::new((ctx, table))
        });
        WasiCtxView { ctx, table }
    }
}

/// Why a component cannot be served.
#[derive(Debug)]
pub enum LoadError {
    /// Not WebAssembly.
    NotWasm,
    /// WebAssembly, but a core module.
    CoreModule,
    /// It does not compile.
    Invalid(wasmtime::Error),
    /// It exports the contract in a version that this host does not speak, or in "none".
    Version(String),
    /// It does not export the contract; what it exports instead.
    World(Vec<String>),
    /// It imports what the host does not have.
    Imports {
        /// The first import that failed.
        error: wasmtime::Error,
        /// All of them.
        imports: Vec<String>,
    },
    /// It could not be started, or could not describe itself.
    Fault(Fault),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWasm => {
                f.write_str("not a WebAssembly component (the file does not begin with \"\\0asm\")")
            }
            Self::CoreModule => f.write_str(
                "a WebAssembly core module, not a component; `wasm-tools component new` or a \
                 build for wasm32-wasip2 makes components",
            ),
            Self::Invalid(error) => write!(f, "not a valid component: {error:#}"),
            Self::Version(version) => write!(
                f,
                "exports {INTERFACE} in version {version:?}, but this host serves version \
                 {CONTRACT_VERSION}"
            ),
            Self::World(exports) if exports.is_empty() => {
                write!(f, "exports nothing; a backend exports {INTERFACE}@{CONTRACT_VERSION}")
            }
            Self::World(exports) => write!(
                f,
                "not a backend: it exports {}, but not {INTERFACE}@{CONTRACT_VERSION}",
                some_of(exports)
            ),
            Self::Imports { error, imports } => write!(
                f,
                "imports what there is not: {error:#} (it imports {}; the host has WASI 0.2 and \
                 nothing else)",
                some_of(imports)
            ),
            Self::Fault(Fault::OutOfMemory { limit, error }) => write!(
                f,
                "needs more memory to describe itself than the {limit} bytes that a component \
                 may have for it: {}",
                error.root_cause()
            ),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

/// The first few of a list that may be long.
fn some_of(names: &[String]) -> String {
    const FEW: usize = 8;
    let more = if names.len() > FEW { ", ..." } else { "" };
    names[..names.len().min(FEW)].join(", ") + more
}

impl std::error::Error for LoadError {}
