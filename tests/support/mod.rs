//! What the tests share: commands that end in time, servers, clients, hand-made components.

mod client;
mod named;
mod probe;
mod process;
mod server;
mod wat;

pub(crate) use client::{assert_served_with, client, is_missing, nbdsh, python_component_tool};
pub(crate) use named::{known_tests, rows, unknown};
pub(crate) use probe::{Probe, probe};
pub(crate) use process::{Finished, LIMIT, finish_within, run, wait_until};
pub(crate) use server::{STOP_LIMIT, Server, free_port, memnbd, shell};
pub(crate) use wat::{LOOP, bomb, guest, uninterruptible, wasm};

/// The built-in components, as files.
pub(crate) const MEMORY_WASM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../components/memory.wasm");
pub(crate) const PATTERN_WASM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../components/pattern.wasm");

/// Ends the test where one of these programs is not installed.
macro_rules! require {
    ($($program:literal),+ $(,)?) => {
        if $(crate::support::is_missing($program))||+ {
            return;
        }
    };
}
pub(crate) use require;
