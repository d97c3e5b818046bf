//! A disk whose content is given on the command line: in the language of nbdkit's data plugin, in
//! base64, or as it is. The disk can be written to; writes are kept in memory.
//!
//! # Layout
//!
//! - [`language`]: parses and evaluates expressions like `(0x55 0xAA)*2048 @^512 "end"`.
//! - [`encoded`]: makes an image of raw or base64 text.
//! - [`image`]: the content of a disk, as a tree of pieces in which repeats are shared.
//! - `piece`: the pieces of an image.
//! - `builder`: builds an image in the order in which an expression writes, within a budget.
//! - [`store`]: an image that can be written to, with written pages on top.
//! - `files`: the files that the host opened for an expression.
//! - `backend`: the component, with its parameters.
//!
//! An image takes memory for the data of its text, not for the size of the disk: a hole or a repeat
//! costs the same whatever its length. The limits in [`language`] keep any expression below 100 MB
//! and a second, apart from the files that it reads.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod backend;
mod builder;
pub mod encoded;
mod files;
pub mod image;
pub mod language;
mod piece;
pub mod store;

pub use memnbd_guest::MAX_SIZE;
