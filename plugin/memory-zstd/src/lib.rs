//! A component that keeps a sparse disk in memory, compressed with zstd: what `memory` is with
//! `allocator=zstd`. It is a component of its own because the codec is several times as large as
//! everything else in `memory`, which most users start without it.
//!
//! # Layout
//!
//! - [`store`]: the disk, which implements reads, writes and zeroing in pages of 32 KiB.
//! - `answer`: what the functions of the disk return.
//! - `part`: ranges in terms of pages.
//! - `cache`: the few pages that are uncompressed.
//! - `codec`: compresses and decompresses a page.
//! - [`heap`]: allocates what stays, such that there is always memory left for what does not.
//! - `backend`: the component, with its parameters.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod answer;
mod backend;
mod cache;
mod codec;
pub mod heap;
mod part;
pub mod store;
