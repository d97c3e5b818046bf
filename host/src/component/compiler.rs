//! Turning components into machine code, where nobody else has to wait for it or suffer from it.
//!
//! A component may be made so that compiling it takes hours or all of the memory. So the program
//! starts itself again for it (`process`), and that child process limits itself before it
//! reads a byte (`child`). What comes out is kept in a cache. What is compiled, and what for, is not
//! known here.

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
pub use child::main as child_main;
pub use process::{CompileError, CompileLimits};

/// The longest component, in bytes. One with a Python interpreter inside has 18 MB.
pub const MAX_COMPONENT: u64 = 256 << 20;

/// How many components are compiled at once; further ones wait.
const AT_ONCE: usize = 2;

/// How long compiling goes on before anything is told of it, and how often it is from then on.
const FIRST_PROGRESS: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_secs(5);

/// Where components are compiled.
#[derive(Clone, Default)]
pub enum Compiler {
    /// In this process, without limits and without a cache: for the tests of this crate, and for
    /// programs that trust their components.
    #[default]
    InProcess,
    /// In child processes, see [`ChildCompiler`].
    Child(ChildCompiler),
}

/// Compiles in child processes with limits, and keeps what comes out.
///
/// The children execute the program of this process, which must call [`child_main`] before it does
/// anything else.
#[derive(Clone)]
pub struct ChildCompiler {
    parts: Arc<Parts>,
}

struct Parts {
    limits: CompileLimits,
    /// Where compiled components are kept.
    directory: Option<PathBuf>,
    /// It is opened when something is to be compiled.
    cache: OnceLock<Option<Cache>>,
    permits: Semaphore,
    /// What the child processes take their memory from, if there is a bound for all.
    budget: Option<MemoryBudget>,
}

/// How far the compiling of a component has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for others to be compiled, for so long.
    Waiting(Duration),
    /// It is compiled, for so long.
    Compiling(Duration),
    /// It was compiled, within this time.
    Compiled(Duration),
}

/// Somebody who wants to know of progress.
pub type Observer<'a> = &'a (dyn Fn(Progress) + Sync);

impl ChildCompiler {
    /// A compiler that keeps its work in a directory, if there is one. A directory that cannot be
    /// used, or that other users could change, is done without.
    ///
    /// A child has the memory that its limit allows, or half of a `budget` where that is less, and takes
    /// it from the budget as long as it runs.
    pub fn new(
        limits: CompileLimits,
        directory: Option<&Path>,
        budget: Option<MemoryBudget>,
    ) -> Self {
        let most = budget.as_ref().map_or(u64::MAX, |budget| budget.limit() / 2);
        let limits = CompileLimits { memory: limits.memory.min(most), ..limits };
        let directory = directory.map(Path::to_owned);
        let (permits, cache) = (Semaphore::new(AT_ONCE), OnceLock::new());
        Self { parts: Arc::new(Parts { limits, directory, cache, permits, budget }) }
    }

    /// The code of a component, from the cache or from a child process. `direct` is whether it is for
    /// memories that the host maps. `observer` is told nothing if nothing has to be compiled.
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
                tracing::info!("a compiled component is not kept: {error}");
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
        // A thread of its own, for the kernel ends the child with the thread that started it.
        thread::Builder::new()
            .name("compile".into())
            .spawn(move || {
                // Whoever waited may be gone.
                let _ = sender.send(process::run(&job, &limits));
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

    /// What the cache has under a key and can be loaded here.
    fn kept(&self, engine: &Engine, key: &Key) -> Option<Compiled> {
        let cache = self.cache()?;
        let artifact = cache.read(key)?;
        code::load(engine, &artifact)
            .inspect_err(|error| {
                // Perhaps of another machine, with the same home directory.
                tracing::info!("a compiled component that was kept is made again: {error:#}");
                cache.remove(key);
            })
            .ok()
    }
}

/// Waits, and tells so at once, after a second, and then every few seconds.
async fn observed<T>(waiting: impl Future<Output = T>, tell: impl Fn(Duration)) -> T {
    let began = Instant::now();
    tokio::pin!(waiting);
    // What is ready needs no telling.
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

/// Does what takes a while on a thread that nobody waits for.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| LoadError::Compiler(CompileError::Panicked))
}
