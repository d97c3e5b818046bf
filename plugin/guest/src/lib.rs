//! What the components in `plugin/` share: how sizes are spelled, and the few pieces of a runtime
//! that a component without `std` must bring along.
//!
//! The runtime (`runtime`) exists only where components run, on wasm32: a heap, a panic handler
//! and the allocation function of the canonical ABI. Everything else is plain code that is tested
//! natively. Nothing here knows the contract in `wit/`.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(target_arch = "wasm32")]
pub mod runtime;
mod size;

pub use size::{MAX_SIZE, SizeError, parse_size};
