//! A sparse disk in memory, as a component: all zeroes at first, up to 2^63-1 bytes, gone with
//! its instance.
//!
//! # Layout
//!
//! - [`store`]: the disk: what reading, writing, zeroing mean, in pages of 32 KiB.
//! - [`directory`]: which page holds which part of the disk.
//! - [`pages`]: where pages come from.
//! - `linear`: the memory of the component as pages. Only here and in `abi` is there unsafe code.
//! - `abi`: the exports of the contract in `wit/`.
//!
//! The first three are plain code over a trait for memory, and tested natively against a model.
//! The last two exist only on wasm32.
//!
//! # Running out of memory
//!
//! After `open` nothing here allocates from a heap. A payload arrives in memory set aside for it;
//! chunks and extents are told from static memory. So a write for which there is no page
//! fails with `enospc`, and everything else goes on.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(target_arch = "wasm32")]
mod abi;
pub mod directory;
#[cfg(target_arch = "wasm32")]
mod linear;
pub mod pages;
pub mod store;
#[cfg(test)]
mod testing;
mod zero;
