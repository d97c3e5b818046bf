//! Loading components: each is read once, loaded once for all exports that use it, and loaded again
//! after a failure that may be temporary.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{Mutex, watch};

use super::Failure;
use super::args::Args;
use super::components::{self, Source};
use super::privileges::Identity;
use memnbd::component::{
    Broker, BuiltIn, ChildCompiler, CompileLimits, Compiler, Component, Engine, LoadError,
    MAX_COMPONENT, MemoryBudget, Progress,
};
use memnbd::exports::{Backoff, Stage};

/// Compilations that take longer than this are logged.
const LONG: Duration = Duration::from_secs(1);

/// Finds each component once, and caches it.
pub(super) struct Loader {
    engine: Engine,
    found: HashMap<String, Arc<Supply>>,
}

impl Loader {
    pub(super) fn new(
        args: &Args,
        cache_directory: Option<PathBuf>,
        budget: Option<MemoryBudget>,
        broker: Option<Broker>,
    ) -> Self {
        let compiling = &args.compiling;
        let limits = CompileLimits {
            time: compiling.compile_timeout,
            processor: compiling.compile_cpu,
            memory: compiling.compile_memory,
        };
        let compiler = ChildCompiler::new(limits, cache_directory.as_deref(), budget, broker);
        let engine = Engine::with_compiler(args.deadline, Compiler::Child(compiler));
        Self { engine, found: HashMap::new() }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the component with this name. A component from a file is read, but not loaded.
    pub(super) async fn supply(&mut self, name: &str) -> Result<Arc<Supply>, Failure> {
        if let Some(supply) = self.found.get(name) {
            return Ok(supply.clone());
        }
        let source = components::find(name).map_err(Failure::Usage)?;
        let built_in = match &source {
            Source::BuiltIn(built_in) => Some(*built_in),
            Source::File(_) => None,
        };
        let state = match source {
            // A built-in component is trusted, so it can be loaded before privileges are dropped.
            Source::BuiltIn(built_in) if built_in.is_compiled() => {
                let component = self.engine.load_built_in(built_in).await;
                State::Loaded(component.with_context(|| format!("load component {name}"))?)
            }
            Source::BuiltIn(built_in) => State::new(Bytes::from_static(built_in.wasm())),
            Source::File(wasm) if wasm.len() as u64 > MAX_COMPONENT => {
                return Err(Failure::Usage(format!(
                    "component {name:?}: it has {} bytes, at most {MAX_COMPONENT} are possible",
                    wasm.len()
                )));
            }
            Source::File(wasm) => State::new(wasm.into()),
        };
        let supply = Arc::new(Supply {
            name: name.to_owned(),
            built_in,
            engine: self.engine.clone(),
            state: Mutex::new(state),
            compiling: watch::Sender::new(false),
        });
        self.found.insert(name.to_owned(), supply.clone());
        Ok(supply)
    }

    /// Loads the component with this name, to print information about it. A third-party component
    /// is loaded as the user given by the options.
    pub(super) async fn component(args: &Args, name: &str) -> Result<Component, Failure> {
        let identity = Identity::find(&args.life)?;
        let cache_directory = super::exports::cache_directory(identity.home());
        let mut loader = Self::new(args, cache_directory, None, None);
        let supply = loader.supply(name).await?;
        if let Some(component) = supply.loaded() {
            return Ok(component);
        }
        identity.drop_privileges()?;
        let component = supply.component(&|_| ()).await;
        Ok(component.map_err(|error| anyhow::anyhow!("load component {name}: {error}"))?)
    }
}

/// A component, loaded or still to be loaded.
pub(super) struct Supply {
    /// The name as typed by the user.
    name: String,
    /// The built-in component, if it is one.
    built_in: Option<BuiltIn>,
    engine: Engine,
    state: Mutex<State>,
    /// True while the component is compiled, so that tasks that wait for another one to load it can
    /// report this stage.
    compiling: watch::Sender<bool>,
}

enum State {
    Loaded(Component),
    /// Loaded when first needed.
    ToLoad {
        wasm: Bytes,
        failed: Option<(Arc<LoadError>, Backoff)>,
    },
    /// Failed permanently.
    Failed(Arc<LoadError>),
}

impl State {
    fn new(wasm: Bytes) -> Self {
        Self::ToLoad { wasm, failed: None }
    }
}

impl Supply {
    /// Returns the user's name for the component.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if it is the built-in component of this name.
    pub(super) fn is_built_in(&self, name: &str) -> bool {
        self.built_in.is_some_and(|built_in| built_in.name() == name)
    }

    /// Returns the component if it is loaded.
    pub(super) fn loaded(&self) -> Option<Component> {
        match &*self.state.try_lock().ok()? {
            State::Loaded(component) => Some(component.clone()),
            _ => None,
        }
    }

    /// Returns the component. The first caller loads it while the others wait.
    pub(super) async fn component(
        &self,
        stage: &(dyn Fn(Stage) + Send + Sync),
    ) -> Result<Component, Arc<LoadError>> {
        let mut compiling = self.compiling.subscribe();
        let state = tokio::select! {
            biased;
            state = self.state.lock() => Some(state),
            _ = compiling.wait_for(|compiling| *compiling) => None,
        };
        let mut state = match state {
            Some(state) => state,
            None => {
                stage(Stage::Compiling);
                self.state.lock().await
            }
        };
        let (wasm, failed) = match &*state {
            State::Loaded(component) => return Ok(component.clone()),
            State::Failed(error) => return Err(error.clone()),
            State::ToLoad { wasm, failed } => (wasm.clone(), failed),
        };
        if let Some((error, backoff)) = failed
            && backoff.left(Instant::now()).is_some()
        {
            return Err(error.clone());
        }
        let before = failed.as_ref().map(|(_, backoff)| *backoff);
        let name = components::short_name(&self.name);
        let size = wasm.len();
        let observer = |progress| self.tell(progress, size, stage);
        let loaded = self.engine.load_observed(&name, wasm.clone(), &observer).await;
        self.compiling.send_replace(false);
        match loaded {
            Ok(component) => {
                *state = State::Loaded(component.clone());
                Ok(component)
            }
            Err(error) if error.may_pass() => {
                let error = Arc::new(error);
                let backoff = Backoff::after(before, Instant::now());
                *state = State::ToLoad { wasm, failed: Some((error.clone(), backoff)) };
                Err(error)
            }
            Err(error) => {
                let error = Arc::new(error);
                *state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    fn tell(&self, progress: Progress, size: usize, stage: &(dyn Fn(Stage) + Send + Sync)) {
        let (name, size) = (&self.name, Size(size));
        match progress {
            Progress::Waiting(elapsed) if elapsed >= LONG => tracing::info!(
                "compiling {name}, {size}: waits for other components to be compiled, {} s",
                elapsed.as_secs()
            ),
            Progress::Compiling(elapsed) if elapsed >= LONG => {
                tracing::info!("compiling {name}, {size}: {} s", elapsed.as_secs());
            }
            Progress::Compiled(elapsed) if elapsed >= LONG => {
                tracing::info!("compiled {name}, {size}, in {:.1} s", elapsed.as_secs_f64());
            }
            _ => {}
        }
        match progress {
            Progress::Waiting(_) | Progress::Compiling(_) => {
                self.compiling.send_replace(true);
                stage(Stage::Compiling);
            }
            Progress::Compiled(_) => stage(Stage::Loading),
        }
    }
}

/// A human-readable number of bytes.
struct Size(usize);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes @ ..1_000 => write!(f, "{bytes} bytes"),
            bytes @ ..1_000_000 => write!(f, "{} kB", (bytes + 500) / 1_000),
            bytes => write!(f, "{} MB", (bytes + 500_000) / 1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(9, "9 bytes"), (9_500, "10 kB"), (49_000, "49 kB"), (18_200_000, "18 MB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
