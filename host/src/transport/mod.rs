//! Connected byte streams: sockets, their options, and writing without blocking.
//!
//! This module knows nothing of what is sent over them.

mod socket;
mod tcp;
mod write;

pub use socket::{Stream, StreamSocket};
pub(crate) use socket::{Transport, Watched};
pub use tcp::set_options;
pub(crate) use write::poll_write_rest;
