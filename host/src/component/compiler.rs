//! Compiling components to machine code, in isolation from the server.
//!
//! A malicious component may take hours or all of the memory to compile. So the program starts
//! itself again to compile it (`process`), and that child process limits and confines itself before it
//! reads a byte (`child`). Where the program is confined and cannot start processes, a broker does
//! (`broker`). The result is kept in a cache. This module does not know what the components are or what
//! they are for.

mod broker;
mod child;
mod process;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{MissedTickBehavior, interval_at};
use wasmtime::Engine;
use wasmtime::component::Component as Compiled;

use super::LoadError;
use super::artifact::{Artifact, Key};
use super::cache::Cache;
use super::code;
use super::memory::MemoryBudget;
pub use broker::Broker;
pub use child::main as child_main;
pub use process::{CompileError, CompileLimits};

/// The longest component, in bytes. One with an embedded Python interpreter has 18 MB.
pub const MAX_COMPONENT: u64 = 256 << 20;

/// How many components are compiled at once. Others wait.
const AT_ONCE: usize = 2;

/// How long compiling takes before its progress is reported, and the interval of reports from then
/// on.
const FIRST_PROGRESS: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_secs(5);

/// Where components are compiled.
#[derive(Clone, Default)]
pub enum Compiler {
    /// In this process, without limits and without a cache: for the tests of this crate, and for
    /// programs that trust their components.
    #[default]
    InProcess,
    /// In child processes; see [`ChildCompiler`].
    Child(ChildCompiler),
}

/// Compiles components in child processes with limits, and caches the results.
///
/// The children run the program of this process, which must call [`child_main`] before it does
/// anything else.
#[derive(Clone)]
pub struct ChildCompiler {
    parts: Arc<Parts>,
}

struct Parts {
    limits: CompileLimits,
    /// The directory of the cache, if there is one.
    directory: Option<PathBuf>,
    /// The cache, opened when the first component is to be compiled.
    cache: OnceLock<Option<Cache>>,
    permits: Semaphore,
    /// The budget that the child processes take their memory from, if there is a common limit.
    budget: Option<MemoryBudget>,
    /// What starts the child processes, unless this process can.
    broker: Option<Broker>,
}

/// How far the compiling of a component has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has been waiting for this long while others are compiled.
    Waiting(Duration),
    /// It has been compiling for this long.
    Compiling(Duration),
    /// It was compiled in this time.
    Compiled(Duration),
}

/// A callback that receives progress reports.
pub type Observer<'a> = &'a (dyn Fn(Progress) + Sync);

impl ChildCompiler {
    /// Creates a compiler that caches its results in a directory, if one is given. If the directory
    /// cannot be used, or other users could change it, there is no cache.
    ///
    /// A child may use the memory that its limit allows, or half of `budget` if that is less, and
    /// holds that much of the budget while it runs. The `broker` starts the children; without one, this
    /// process does.
    pub fn new(
        limits: CompileLimits,
        directory: Option<&Path>,
        budget: Option<MemoryBudget>,
        broker: Option<Broker>,
    ) -> Self {
        let most = budget.as_ref().map_or(u64::MAX, |budget| budget.limit() / 2);
        let limits = CompileLimits { memory: limits.memory.min(most), ..limits };
        let directory = directory.map(Path::to_owned);
        let (permits, cache) = (Semaphore::new(AT_ONCE), OnceLock::new());
        Self { parts: Arc::new(Parts { limits, directory, cache, permits, budget, broker }) }
    }

    /// Returns the code of a component, from the cache or from a child process. `direct` is whether
    /// the code is for memories mapped by the host. `observer` is not called if nothing has to be
    /// compiled.
    pub(super) async fn component(
        &self,
        engine: &Engine,
        direct: bool,
        wasm: Bytes,
        observer: Observer<'_>,
    ) -> Result<Compiled, LoadError> {
        let (key, kept) = {
            let (parts, engine, wasm) = (self.parts.clone(), engine.clone(), wasm.clone());
            blocking(move || {
                let key = Key::of(&engine, &wasm);
                (key, parts.kept(&engine, &key))
            })
            .await?
        };
        if let Some(compiled) = kept {
            return Ok(compiled);
        }
        let artifact = self.compile(process::Job { wasm, key, direct }, observer).await?;
        let (parts, engine) = (self.parts.clone(), engine.clone());
        blocking(move || {
            let compiled = code::load(&engine, &artifact).map_err(LoadError::Machine)?;
            if let Some(Err(error)) = parts.cache().map(|cache| cache.store(&key, &artifact)) {
                tracing::info!("cannot cache a compiled component: {error}");
            }
            Ok(compiled)
        })
        .await?
    }

    async fn compile(
        &self,
        job: process::Job,
        observer: Observer<'_>,
    ) -> Result<Artifact, LoadError> {
        let waiting = self.parts.permits.acquire();
        let permit = observed(waiting, |elapsed| observer(Progress::Waiting(elapsed))).await;
        let _permit = permit.expect("it is never closed");
        let limits = self.parts.limits;
        let held = self.parts.budget.as_ref().map(|budget| budget.hold(limits.memory));
        let Some(_held) = held.map_or(Some(None), |held| held.map(Some)) else {
            return Err(LoadError::Compiler(CompileError::NoMemory(limits.memory)));
        };
        let began = Instant::now();
        let (sender, receiver) = oneshot::channel();
        let broker = self.parts.broker.clone();
        // This needs a dedicated thread, because the kernel kills the child when the thread that
        // started it ends.
        thread::Builder::new()
            .name("compile".into())
            .spawn(move || {
                // The receiver may be gone.
                let _ = sender.send(process::run(&job, &limits, broker.as_ref()));
            })
            .map_err(|error| LoadError::Compiler(CompileError::Start(error)))?;
        let done = observed(receiver, |elapsed| observer(Progress::Compiling(elapsed))).await;
        let artifact = done.map_err(|_| LoadError::Compiler(CompileError::Panicked))??;
        observer(Progress::Compiled(began.elapsed()));
        Ok(artifact)
    }
}

impl Parts {
    fn cache(&self) -> Option<&Cache> {
        let open = || self.directory.as_deref().and_then(Cache::open);
        self.cache.get_or_init(open).as_ref()
    }

    /// Returns the cache entry for a key, if there is one that can be loaded here.
    fn kept(&self, engine: &Engine, key: &Key) -> Option<Compiled> {
        let cache = self.cache()?;
        let artifact = cache.read(key)?;
        code::load(engine, &artifact)
            .inspect_err(|error| {
                // It may come from another machine that shares the home directory.
                tracing::info!("a cached component is unusable and is compiled again: {error:#}");
                cache.remove(key);
            })
            .ok()
    }
}

/// Waits for a future, and reports that at once, after a second, and then every few seconds.
async fn observed<T>(waiting: impl Future<Output = T>, tell: impl Fn(Duration)) -> T {
    let began = Instant::now();
    tokio::pin!(waiting);
    // Report nothing if the future is ready at once.
    tokio::select! {
        biased;
        done = &mut waiting => return done,
        () = std::future::ready(()) => {}
    }
    tell(Duration::ZERO);
    let mut ticks = interval_at(tokio::time::Instant::now() + FIRST_PROGRESS, PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            done = &mut waiting => return done,
            _ = ticks.tick() => tell(began.elapsed()),
        }
    }
}

/// Runs lengthy work on a thread for blocking tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| LoadError::Compiler(CompileError::Panicked))
}
