//! The settings that compiled code depends on. The build script includes this file, so that the
//! host can load what the build script compiled.

use std::num::NonZeroUsize;

use wasmtime::{Config, WasmFeatures};

/// How many frames of a guest are collected when it traps.
const MAX_FRAMES: usize = 16;

/// The WebAssembly features that a component may use. A component that uses any other is refused
/// when it is loaded, which keeps the attack surface small.
///
/// In particular, there are no 64-bit memories, whose bounds are checked in other ways than by the
/// reservation and the guard region that `region` gives a memory; nothing shared between threads;
/// no garbage collection, exceptions, tail calls, stack switching, relaxed SIMD, wide arithmetic or
/// custom page sizes, which no supported language needs; and nothing of the component model that is
/// asynchronous or unfinished.
const FEATURES: [WasmFeatures; 11] = [
    WasmFeatures::COMPONENT_MODEL,
    // Every language has floating-point numbers.
    WasmFeatures::FLOATS,
    // The stack pointer of code compiled by LLVM, where modules share it.
    WasmFeatures::MUTABLE_GLOBAL,
    // Rust's and clang's wasm32 targets enable these four.
    WasmFeatures::SIGN_EXTENSION,
    WasmFeatures::SATURATING_FLOAT_TO_INT,
    WasmFeatures::MULTI_VALUE,
    WasmFeatures::BULK_MEMORY,
    // Function tables of programs linked from several modules, such as Python's, and the long form
    // of table indexes that LLVM emits.
    WasmFeatures::REFERENCE_TYPES,
    // Data addresses in modules that are linked when they are started, such as Python's.
    WasmFeatures::EXTENDED_CONST,
    // C and Rust programs and JavaScript engines use it when they are built for speed.
    WasmFeatures::SIMD,
    // Wasmtime's own adapters between the parts of a composed component need this; wasmtime panics
    // without it. The number of memories is limited where instances are started.
    WasmFeatures::MULTI_MEMORY,
];

/// Applies the settings for all compiled code.
pub(super) fn of_code(config: &mut Config) {
    config.wasm_features(WasmFeatures::all(), false);
    for feature in FEATURES {
        config.wasm_features(feature, true);
    }
    config.epoch_interruption(true);
    config.concurrency_support(false);
    // A trap is reported in one line, with the names of a few functions.
    config.wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES));
    config.generate_address_map(false);
    config.native_unwind_info(false);
}

/// Applies the additional settings for code that runs in memories mapped by the host. To be used
/// together with [`of_code`].
pub(super) fn of_mapped_memories(config: &mut Config) {
    // Copy-on-write initialization only works with wasmtime's own memories.
    config.memory_init_cow(false);
}
