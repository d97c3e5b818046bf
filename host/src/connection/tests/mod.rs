//! Connections over streams that take a byte at a time, or none: what is sent must not depend on
//! how it is taken.

mod account;
mod client;
mod decode;
mod dedicated;
mod deferred;
mod file;
mod guests;
mod long_writes;
mod native;
mod other_names;
mod output;
mod piped;
mod private;
mod relied;
mod remove;
mod replace;
mod serve;
mod snapshots;
mod streams;
mod waiting;

use crate::block::{BlockSizes, Capabilities, Geometry};
use crate::nbd::{Contexts, Negotiated, ReplyStyle, Session};

const STYLES: [ReplyStyle; 3] = [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended];

/// A session on a disk of 1 GiB that can do everything.
fn session(style: ReplyStyle) -> Session {
    let contexts = Contexts::ALLOCATION;
    Session::new(&geometry(1 << 30), Negotiated { style, block_sizes: false, contexts })
}

/// That of a disk which can do everything.
fn geometry(size: u64) -> Geometry {
    Geometry {
        size,
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
        description: String::new(),
    }
}
