//! The settings that compiled code depends on. The build script includes this file: what it compiles
//! is what the host then loads.

use wasmtime::Config;

/// Settings of all that is compiled.
pub(super) fn of_code(config: &mut Config) {
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
