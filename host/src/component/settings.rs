//! The settings that compiled code depends on. The build script includes this file: what it compiles
//! is what the host then loads.

use wasmtime::{Config, WasmFeatures};

/// The WebAssembly that a component may be made of. Everything else is refused when it is loaded:
/// what is not used is not there to be attacked.
///
/// In particular there are no memories of 64 bits, whose bounds are checked in other ways than by the
/// reservation and the guard that `region` gives to a memory; nothing that is shared between threads;
/// no garbage collection, exceptions, tail calls, stack switching, relaxed SIMD, wide arithmetic or
/// pages of other sizes, which no supported language needs; and of the component model nothing that
/// is asynchronous or unfinished.
const FEATURES: [WasmFeatures; 11] = [
    WasmFeatures::COMPONENT_MODEL,
    // Every language has numbers with fractions.
    WasmFeatures::FLOATS,
    // The stack pointer of what LLVM compiles, where modules share it.
    WasmFeatures::MUTABLE_GLOBAL,
    // These four are on in Rust's and clang's wasm32 targets.
    WasmFeatures::SIGN_EXTENSION,
    WasmFeatures::SATURATING_FLOAT_TO_INT,
    WasmFeatures::MULTI_VALUE,
    WasmFeatures::BULK_MEMORY,
    // Function tables of what is linked of several modules, as Python is, and the long form of table
    // indexes that LLVM writes.
    WasmFeatures::REFERENCE_TYPES,
    // Addresses of data in modules that are linked when they are started, as Python's are.
    WasmFeatures::EXTENDED_CONST,
    // What C, Rust and JavaScript engines use when they are built for speed.
    WasmFeatures::SIMD,
    // Wasmtime's own adapters between the parts of a composed component, which panics without it.
    // The number of memories is bounded where instances are started.
    WasmFeatures::MULTI_MEMORY,
];

/// Settings of all that is compiled.
pub(super) fn of_code(config: &mut Config) {
    config.wasm_features(WasmFeatures::all(), false);
    for feature in FEATURES {
        config.wasm_features(feature, true);
    }
    config.epoch_interruption(true);
    config.concurrency_support(false);
    // A trap is told in one line; nobody looks at guest frames.
    config.wasm_backtrace_max_frames(None);
    config.generate_address_map(false);
    config.native_unwind_info(false);
}

/// Settings of what runs in memories that the host maps, besides [`of_code`].
pub(super) fn of_mapped_memories(config: &mut Config) {
    // It needs wasmtime's own memories.
    config.memory_init_cow(false);
}
