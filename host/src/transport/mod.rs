//! Connected byte streams: sockets, what is set for them, and writing without waiting.
//!
//! It knows nothing of what is said over them.

mod socket;
mod tcp;
mod write;

pub use socket::{Stream, StreamSocket};
pub(crate) use socket::{Transport, Watched};
pub(crate) use tcp::set_options;
pub(crate) use write::poll_write_rest;
