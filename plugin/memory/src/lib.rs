//! A component that keeps a sparse disk in memory. The disk has up to 2^63-1 bytes, is all zeroes
//! at first, and is lost when its instance is dropped.
//!
//! # Layout
//!
//! - [`allocator`]: the parameters that say when memory is allocated.
//! - [`store`]: the disk, which implements reads, writes and zeroing in pages of 32 KiB.
//! - [`directory`]: the map from parts of the disk to the pages that hold them.
//! - [`pages`]: the page allocator.
//! - `linear`: the component's memory as a source of pages. Only this module and `abi` contain
//!   unsafe code.
//! - `open`: the parameters, and the disk that they describe.
//! - `abi`: the exports of the contract in `wit/`.
//!
//! The first four are plain code that is generic over a trait for memory, and are tested natively
//! against a model. The last three exist only on wasm32.
//!
//! # Running out of memory
//!
//! After `open` nothing here allocates from a heap. Payloads arrive in memory that is reserved for
//! them, and chunks and extents are returned in static memory. Therefore a write that needs a page
//! when none is left fails with `enospc`, and everything else keeps working.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(target_arch = "wasm32")]
mod abi;
pub mod allocator;
pub mod directory;
#[cfg(target_arch = "wasm32")]
mod linear;
#[cfg(target_arch = "wasm32")]
mod open;
pub mod pages;
pub mod store;
#[cfg(test)]
mod testing;
mod zero;
