//! What components share that decode formats of files: caches of bounded size, and the numbers in
//! headers.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod cache;
mod numbers;

pub use cache::{Cache, Pages};
pub use numbers::Header;
