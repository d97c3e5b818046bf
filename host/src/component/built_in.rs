//! The components that are part of the program. The build script compiles them, so that no start has
//! to.

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, OnceLock};

use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::component::Component as Compiled;
use wasmtime::{Config, CustomCodeMemory, Engine};

use super::prepared::{Prepared, Shared};
use super::region::Regions;

/// A component that is part of the program.
#[derive(Clone, Copy)]
pub struct BuiltIn {
    name: &'static str,
    wasm: &'static [u8],
    /// Compiled for any processor of the kind that the program is for; empty where the build script
    /// could not.
    code: &'static [u8],
    /// What comes of the code, once it is loaded, or why it cannot be.
    prepared: &'static OnceLock<Result<Prepared, String>>,
}

/// Bytes that begin with a page of memory, for pages are what can be made executable. Only x86-64
/// has none that are larger.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
struct Pages<T: ?Sized>(T);

macro_rules! built_in {
    ($name:literal, $variable:literal) => {{
        static CODE: &Pages<[u8]> =
            &Pages(*include_bytes!(env!(concat!("MEMNBD_CODE_", $variable))));
        static PREPARED: OnceLock<Result<Prepared, String>> = OnceLock::new();
        BuiltIn {
            name: $name,
            wasm: include_bytes!(env!(concat!("MEMNBD_COMPONENT_", $variable))),
            code: &CODE.0,
            prepared: &PREPARED,
        }
    }};
}

impl BuiltIn {
    /// All there are.
    pub const ALL: [Self; 2] = [built_in!("memory", "MEMORY"), built_in!("pattern", "PATTERN")];

    /// The one of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name == name)
    }

    /// What users call it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The component as it was built.
    pub(super) fn wasm(&self) -> &'static [u8] {
        self.wasm
    }

    /// Loads it, which a process does once. Whoever needs it waits for it.
    pub fn prepare(self) {
        // Whoever needs it is told of errors.
        let _ = self.prepared();
    }

    /// What can be started, if what the build script compiled can be loaded.
    pub(super) fn prepared(self) -> Result<&'static Prepared, &'static str> {
        let load = || {
            let shared = SHARED.as_ref().map_err(String::clone)?;
            let compiled = self.load(&shared.engine).map_err(|error| format!("{error:#}"))?;
            Prepared::new(shared, &compiled).map_err(|error| error.to_string())
        };
        self.prepared.get_or_init(load).as_ref().map_err(String::as_str)
    }

    /// What the build script compiled, where it is: it is part of the program, of which all processes
    /// share the memory.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not for such an engine or such a machine.
    fn load(self, engine: &Engine) -> wasmtime::Result<Compiled> {
        if self.code.is_empty() {
            wasmtime::bail!("it was not compiled when the program was built");
        }
        // SAFETY: these are the bytes that wasmtime's `Engine::precompile_component` returned to the
        // build script, and nobody has had them since but the compiler of this program: the fields are
        // private, and `built_in!` is what fills them. That it was the same wasmtime, with settings
        // that fit this engine and machine, is checked here. They are there for ever, and never
        // written.
        //
        // What it gains: from the start of a process to its first reply, 3.9 ms instead of 4.9 with
        // wasmtime's cache of compressed code, and instead of 35 with nothing cached. A copy of the
        // code would take 31 page faults, 0.1 ms.
        unsafe { Compiled::deserialize_raw(engine, NonNull::from(self.code)) }
    }
}

impl fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltIn").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What they share: an engine without a compiler, and memories that the host maps.
static SHARED: LazyLock<Result<Shared, String>> = LazyLock::new(|| {
    let mut config = Config::new();
    config.enable_compiler(false);
    config.with_custom_code_memory(Some(Arc::new(InPlace)));
    Shared::new(config, Some(Regions)).map_err(|error| format!("{error:#}"))
});

/// Makes code executable where it is, and leaves it so: it may have been loaded twice.
struct InPlace;

impl CustomCodeMemory for InPlace {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, start: *const u8, length: usize) -> wasmtime::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::EXEC;
        // SAFETY: the pages are of `BuiltIn::code`, as only `BuiltIn::load` brings code to the engine
        // with this. Nobody writes there, before or after.
        unsafe { mprotect(start.cast_mut().cast(), length, flags) }?;
        Ok(())
    }

    fn unpublish_executable(&self, _: *const u8, _: usize) -> wasmtime::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::component::Engine;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn all_were_compiled() {
        for built_in in BuiltIn::ALL {
            assert!(built_in.prepared().is_ok(), "{:?}", built_in.prepared().err());
            let component = Engine::new(DEADLINE).load_built_in(built_in).await.unwrap();
            assert_eq!(component.name(), built_in.name());
            assert_eq!(component.description().name, built_in.name());
            assert_eq!(component.imports(), [""; 0]);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_loaded_is_compiled() {
        let [memory, pattern] = BuiltIn::ALL;
        for code in [&[][..], b"\x7fELF", memory.wasm, &pattern.code[..1000]] {
            let damaged = BuiltIn { code, prepared: Box::leak(Box::default()), ..memory };
            assert!(damaged.prepared().is_err());
            let component = Engine::new(DEADLINE).load_built_in(damaged).await.unwrap();
            assert_eq!(component.description().name, "memory");
        }
    }
}
