//! The components that are part of the program. The build script compiles them, so that no start has
//! to.

use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use wasmtime::Config;

use super::code::{BuiltInCode, InPlace, Pages};
use super::prepared::{Prepared, Shared};
use super::region::Regions;

/// A component that is part of the program.
#[derive(Clone, Copy)]
pub struct BuiltIn {
    name: &'static str,
    wasm: &'static [u8],
    /// Compiled for any processor of the kind that the program is for.
    code: BuiltInCode,
    /// What comes of the code, once it is loaded, or why it cannot be.
    prepared: &'static OnceLock<Result<Prepared, String>>,
}

macro_rules! built_in {
    ($name:literal, $variable:literal) => {{
        static CODE: &Pages<[u8]> =
            &Pages(*include_bytes!(env!(concat!("MEMNBD_CODE_", $variable))));
        static PREPARED: OnceLock<Result<Prepared, String>> = OnceLock::new();
        BuiltIn {
            name: $name,
            wasm: include_bytes!(env!(concat!("MEMNBD_COMPONENT_", $variable))),
            code: BuiltInCode::new(CODE),
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
    pub fn wasm(&self) -> &'static [u8] {
        self.wasm
    }

    /// Loads it, which a process does once. Whoever needs it waits for it.
    pub fn prepare(self) {
        // Whoever needs it is told of errors.
        let _ = self.prepared();
    }

    /// Whether it needs no compiling: the build script did that. Else it is as any other component.
    pub fn is_compiled(self) -> bool {
        self.prepared().is_ok()
    }

    /// What can be started, if what the build script compiled can be loaded.
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

/// What they share: an engine without a compiler, and memories that the host maps.
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
        for code in [&[][..], b"\x7fELF", memory.wasm, &pattern.code.bytes()[..1000]] {
            let code = BuiltInCode::damaged(code);
            let damaged = BuiltIn { code, prepared: Box::leak(Box::default()), ..memory };
            assert!(damaged.prepared().is_err());
            let component = Engine::new(DEADLINE).load_built_in(damaged).await.unwrap();
            assert_eq!(component.description().name, "memory");
        }
    }
}
