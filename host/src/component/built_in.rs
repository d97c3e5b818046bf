//! The components that are part of the program. The build script compiles them, so that they need
//! not be compiled at startup.

use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use wasmtime::Config;

use super::code::{BuiltInCode, InPlace, Pages};
use super::prepared::{Prepared, Shared};
use super::region::Regions;
use crate::parameters::key_value;

/// A component that is part of the program.
#[derive(Clone, Copy)]
pub struct BuiltIn {
    name: &'static str,
    wasm: &'static [u8],
    /// Code for any processor of the program's target architecture.
    code: BuiltInCode,
    /// The result of loading the code, once that has been done, or why it failed.
    prepared: &'static OnceLock<Result<Prepared, String>>,
}

macro_rules! built_in {
    ($name:literal, $wasm:literal, $code:literal) => {{
        static CODE: &Pages<[u8]> = &Pages(*include_bytes!($code));
        static PREPARED: OnceLock<Result<Prepared, String>> = OnceLock::new();
        BuiltIn {
            name: $name,
            wasm: include_bytes!($wasm),
            code: BuiltInCode::new(CODE),
            prepared: &PREPARED,
        }
    }};
}

impl BuiltIn {
    /// All built-in components, in the order of their names. The build script writes the list.
    pub const ALL: &'static [Self] = include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

    /// Returns the component with this name, or with that of nbdkit's filter that does the same.
    pub fn find(name: &str) -> Option<Self> {
        let name = match name {
            "qcow2dec" => "qcow2",
            name => name,
        };
        Self::ALL.iter().copied().find(|known| known.name == name)
    }

    /// Returns the component that serves these parameters, each KEY=VALUE: the codec of `memory` with
    /// `allocator=zstd` is in a component of its own, so that the others need not load it.
    #[must_use]
    pub fn for_parameters<T: AsRef<str>>(self, parameters: &[T]) -> Self {
        let is_zstd = |parameter: &T| key_value(parameter.as_ref()) == Some(("allocator", "zstd"));
        match self.name == "memory" && parameters.iter().any(is_zstd) {
            true => Self::find("memory-zstd").unwrap_or(self),
            false => self,
        }
    }

    /// The name by which users refer to it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The WebAssembly component itself.
    pub fn wasm(&self) -> &'static [u8] {
        self.wasm
    }

    /// Loads the component, which is done once per process. Anyone who needs it meanwhile waits for
    /// it.
    pub fn prepare(self) {
        // Errors are reported to those who need the component.
        let _ = self.prepared();
    }

    /// Returns whether the build script compiled the component. This loads nothing.
    pub fn has_code(self) -> bool {
        self.code.exists()
    }

    /// Returns whether the code compiled by the build script can be used. If not, the component has
    /// to be compiled like any other.
    pub fn is_compiled(self) -> bool {
        self.prepared().is_ok()
    }

    /// Returns the component ready to be started, or the reason why the code compiled by the build
    /// script cannot be loaded.
    pub(super) fn prepared(self) -> Result<&'static Prepared, &'static str> {
        let load = || {
            let shared = SHARED.as_ref().map_err(String::clone)?;
            if !self.code.exists() {
                return Err("it was not compiled when the program was built".into());
            }
            let compiled = self.code.load(&shared.engine).map_err(|error| format!("{error:#}"))?;
            Prepared::new(shared, &compiled).map_err(|error| error.to_string())
        };
        self.prepared.get_or_init(load).as_ref().map_err(String::as_str)
    }
}

impl fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltIn").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the built-in components share: an engine without a compiler, and memories mapped by the
/// host.
static SHARED: LazyLock<Result<Shared, String>> = LazyLock::new(|| {
    let mut config = Config::new();
    config.enable_compiler(false);
    config.with_custom_code_memory(Some(Arc::new(InPlace)));
    Shared::new(config, Some(Regions)).map_err(|error| format!("{error:#}"))
});

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::component::Engine;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn all_were_compiled() {
        for &built_in in BuiltIn::ALL {
            assert!(built_in.prepared().is_ok(), "{:?}", built_in.prepared().err());
            let component = Engine::new(DEADLINE).load_built_in(built_in).await.unwrap();
            assert_eq!(component.name(), built_in.name());
            assert_eq!(component.description().name, built_in.name());
            // One that imports nothing starts sooner, which matters for the default.
            assert!(built_in.name != "memory" || component.imports().is_empty());
        }
    }

    #[test]
    fn parameters_may_select_another_component() {
        let served = |name, parameters: &[&str]| {
            BuiltIn::find(name).unwrap().for_parameters(parameters).name()
        };
        assert_eq!(served("memory", &["1G"]), "memory");
        assert_eq!(served("memory", &["1G", "allocator=sparse"]), "memory");
        assert_eq!(served("memory", &["size=1G", "allocator=zstd"]), "memory-zstd");
        assert_eq!(served("data", &["0", "allocator=zstd"]), "data");
    }

    #[tokio::test]
    async fn what_cannot_be_loaded_is_compiled() {
        let [memory, pattern] = ["memory", "pattern"].map(|name| BuiltIn::find(name).unwrap());
        for code in [&[][..], b"\x7fELF", memory.wasm, &pattern.code.bytes()[..1000]] {
            let code = BuiltInCode::damaged(code);
            let damaged = BuiltIn { code, prepared: Box::leak(Box::default()), ..memory };
            assert!(damaged.prepared().is_err());
            let component = Engine::new(DEADLINE).load_built_in(damaged).await.unwrap();
            assert_eq!(component.description().name, "memory");
        }
    }
}
