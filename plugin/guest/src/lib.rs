//! Code shared by the components in `plugin/`: parsing of sizes, and the minimal runtime that a
//! component without `std` needs.
//!
//! The module `runtime` exists only on wasm32, where components run. It provides a heap, a panic
//! handler and the allocation function of the canonical ABI. Everything else is plain code that is
//! tested natively. Nothing here depends on the contract in `wit/`.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(target_arch = "wasm32")]
pub mod runtime;
mod size;

pub use size::{MAX_SIZE, SizeError, parse_size};
