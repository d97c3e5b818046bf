//! Compiles the built-in components for the target processor, and writes `built_in.rs`, a list of
//! them with the paths of each component and of its machine code.
//!
//! The components themselves are in `components/`; `.ci/components` builds them from `plugin/`.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[path = "src/component/settings.rs"]
mod settings;

fn main() {
    if let Err(error) = compile_components() {
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn compile_components() -> Result<(), String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let directory = root.join("components");
    println!("cargo::rerun-if-changed={}", directory.display());
    let mut list = String::from("&[");
    for wasm in components(&directory).map_err(|e| format!("{}: {e}", directory.display()))? {
        println!("cargo::rerun-if-changed={}", wasm.display());
        let name = wasm.file_stem().unwrap_or_default().to_string_lossy();
        let code = out.join(&*name).with_extension("cwasm");
        let compiled = compile(&wasm).unwrap_or_else(|error| {
            println!("cargo::warning={name} will be compiled at each start: {error:#}");
            Vec::new()
        });
        fs::write(&code, compiled).map_err(|error| format!("{}: {error}", code.display()))?;
        list.push_str(&format!("built_in!({name:?}, {wasm:?}, {code:?}),\n"));
    }
    list.push_str("]\n");
    let path = out.join("built_in.rs");
    fs::write(&path, list).map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns the paths of the components, in the order of their names.
fn components(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            paths.push(path);
        }
    }
    paths.sort_by(|one, other| one.file_stem().cmp(&other.file_stem()));
    Ok(paths)
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
