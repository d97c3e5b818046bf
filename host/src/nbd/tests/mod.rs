//! The protocol as a client sees it: transcripts against a small server around a model disk.

mod admission;
mod contexts;
mod extended;
mod greeting;
mod hostile;
mod info;
mod options;
mod server;
mod structured;
mod tls;
mod transcript;
mod transmission;

use super::*;
use crate::block::{BlockSizes, Capabilities, Geometry};

/// A disk of 128 KiB that can do everything.
fn geometry() -> Geometry {
    Geometry {
        size: 128 << 10,
        block_sizes: BlockSizes { minimum: 1, preferred: 4096, maximum: 64 << 20 },
        capabilities: Capabilities {
            writable: true,
            flush: true,
            fua: true,
            trim: true,
            zero: true,
            fast_zero: true,
            cache: true,
            multi_conn: true,
            rotational: false,
        },
        description: "a disk for tests".into(),
    }
}

fn session(geometry: &Geometry, style: ReplyStyle) -> Session {
    Session::new(geometry, Negotiated { style, block_sizes: false, contexts: Contexts::ALLOCATION })
}

/// Haggling that ends in transmission with simple replies.
const SIMPLE: &str = "C: 'IHAVEOPT' 00000001 ['disk']
    S: 0000000000020000 0d6d\n";

/// Haggling that ends in transmission with structured replies and `base:allocation`.
const STRUCTURED: &str = "C: 'IHAVEOPT' 00000008 00000000
    S: 0003e889045565a9 00000008 00000001 00000000
    C: 'IHAVEOPT' 0000000a [ ['disk'] 00000001 ['base:allocation'] ]
    S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
    S: 0003e889045565a9 0000000a 00000001 00000000
    C: 'IHAVEOPT' 00000001 ['disk']
    S: 0000000000020000 0ded\n";

/// Haggling that ends in transmission with extended headers and `base:allocation`.
const EXTENDED: &str = "C: 'IHAVEOPT' 0000000b 00000000
    S: 0003e889045565a9 0000000b 00000001 00000000
    C: 'IHAVEOPT' 0000000a [ ['disk'] 00000001 ['base:allocation'] ]
    S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
    S: 0003e889045565a9 0000000a 00000001 00000000
    C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
    S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 1ded ]
    S: 0003e889045565a9 00000007 00000001 00000000\n";

/// SplitMix64: the same numbers for the same seed, on every machine.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
