//! The reasons why a component cannot be served, as errors for users.

use std::{fmt, io};

use super::compiler::CompileError;
use super::fault::{Fault, Limit};
use super::{CONTRACT_VERSION, INTERFACE};

/// What the author of a component for version 0.1 has to change.
const CHANGES: &str = "; what changed since 0.1: types are in the interface `types`; an error is a \
    record of a code and a message; `open` takes a record, with parsed arguments of the types that \
    `describe` declares, and returns a disk without `sharing`; instances of a disk without state \
    have the capability `interchangeable`; stripes and `stored` are in the interface `sharding`, \
    reading without a copy in `lending` (`memnbd-host --wit` prints all of it)";

/// Why a component cannot be served.
#[derive(Debug)]
pub enum LoadError {
    /// Components cannot be compiled for this machine, or cannot run on it.
    Machine(wasmtime::Error),
    /// It is not WebAssembly.
    NotWasm,
    /// It is WebAssembly, but a core module.
    CoreModule,
    /// It does not compile.
    Invalid(wasmtime::Error),
    /// It was not compiled, even though it may be valid.
    Compiler(CompileError),
    /// It exports the contract in this version, which the host does not implement, or without a
    /// version ("none").
    Version(String),
    /// It does not export the contract, but these interfaces instead.
    World(Vec<String>),
    /// It imports something that the host does not provide.
    Imports {
        /// The first import that failed.
        error: wasmtime::Error,
        /// All imports.
        imports: Vec<String>,
    },
    /// The threads that it would run on could not be started, or failed.
    Threads(io::Error),
    /// It could not be started, or failed to describe itself.
    Fault(Fault),
}

impl LoadError {
    /// Returns whether loading it may succeed another time.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Compiler(error) => error.may_pass(),
            Self::Fault(fault) => fault.may_pass(),
            _ => false,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(error) => write!(f, "no component can run on this machine: {error:#}"),
            Self::NotWasm => {
                f.write_str("not a WebAssembly component (the file does not begin with \"\\0asm\")")
            }
            Self::CoreModule => f.write_str(
                "a WebAssembly core module, not a component; `wasm-tools component new` or a \
                 build for wasm32-wasip2 makes components",
            ),
            Self::Invalid(error) => write!(f, "not a valid component: {error:#}"),
            Self::Compiler(error) => error.fmt(f),
            Self::Version(version) => {
                write!(
                    f,
                    "exports {INTERFACE} in version {version:?}, but this host serves version \
                     {CONTRACT_VERSION}"
                )?;
                match version.starts_with("0.1.") {
                    true => f.write_str(CHANGES),
                    false => Ok(()),
                }
            }
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
            Self::Threads(error) => write!(f, "no thread could run it: {error}"),
            Self::Fault(Fault::OutOfMemory { limit: Limit::Budget(bytes), error, .. }) => write!(
                f,
                "needs more memory to describe itself than the {bytes} bytes that a component \
                 may have for it: {}",
                error.root_cause()
            ),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

/// Formats the first few names of a list that may be long.
fn some_of(names: &[String]) -> String {
    const FEW: usize = 8;
    let more = if names.len() > FEW { ", ..." } else { "" };
    names[..names.len().min(FEW)].join(", ") + more
}

impl std::error::Error for LoadError {}
