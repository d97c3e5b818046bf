//! Compiles the built-in components for the target processor. It sets `MEMNBD_COMPONENT_<NAME>` to
//! the path of each component, and `MEMNBD_CODE_<NAME>` to the path of its machine code.
//!
//! The components themselves are in `components/`; `.ci/components` builds them from `plugin/`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "src/component/settings.rs"]
mod settings;

const COMPONENTS: [&str; 2] = ["memory", "pattern"];

fn main() {
    if let Err(error) = compile_components() {
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn compile_components() -> Result<(), String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for name in COMPONENTS {
        let wasm = root.join("components").join(name).with_extension("wasm");
        println!("cargo::rerun-if-changed={}", wasm.display());
        let code = out.join(name).with_extension("cwasm");
        let compiled = compile(&wasm).unwrap_or_else(|error| {
            println!("cargo::warning={name} will be compiled at each start: {error:#}");
            Vec::new()
        });
        fs::write(&code, compiled).map_err(|error| format!("{}: {error}", code.display()))?;
        let name = name.to_uppercase();
        println!("cargo::rustc-env=MEMNBD_COMPONENT_{name}={}", wasm.display());
        println!("cargo::rustc-env=MEMNBD_CODE_{name}={}", code.display());
    }
    Ok(())
}

/// Compiles a component to machine code that the host can load without further processing. The code
/// uses only features that all processors of the target have.
fn compile(wasm: &Path) -> wasmtime::Result<Vec<u8>> {
    let mut config = wasmtime::Config::new();
    settings::of_code(&mut config);
    settings::of_mapped_memories(&mut config);
    config.target(&env::var("TARGET").expect("cargo sets it"))?;
    wasmtime::Engine::new(&config)?.precompile_component(&fs::read(wasm)?)
}
