//! What components share that decode formats of files: caches of bounded size, random access to what
//! can only be decoded forwards, decoded disks, disks in images that a table divides, checksums, and
//! the numbers in headers.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod blocks;
mod cache;
mod crc;
pub mod decoded;
pub mod image;
mod numbers;

pub use blocks::{BlockReader, Decode};
pub use cache::{Cache, Pages};
pub use crc::Crc;
pub use numbers::Header;
