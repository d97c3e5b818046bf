//! What the fuzzers run, one function for each target; the tests replay their corpus by it.
//!
//! Each takes any bytes and panics if something is wrong. The first bytes choose a configuration, the
//! others are what a client sends, or what a component or a server answers.

mod client;
mod component;
mod connection;
mod decoders;
mod handshake;
mod transmission;

pub(crate) use client::client;
pub(crate) use component::{chunks, description, disk, extents, routes};
pub(crate) use connection::connection;
pub(crate) use decoders::{gzip, qcow2, tar, vhd, vmdk, xz, zstd};
pub(crate) use handshake::handshake;
pub(crate) use transmission::transmission;

/// The bytes from which choices are made.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    /// The next byte, zero after the last.
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn bool(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn u32(&mut self) -> u32 {
        (0..4).fold(0, |number, _| number << 8 | u32::from(self.byte()))
    }

    fn u64(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }
}
