//! The NBD protocol without sockets or clocks: bytes in, decisions and bytes out.
//!
//! A connection begins with a [`Handshake`], which ends in a [`Session`]. The session parses what
//! it receives into a [`Request`], turns the request into an [`Admission`], and provides the
//! [`ReplyTo`] that encodes the reply. Storage is described by the types of [`crate::block`]; this
//! module knows nothing of WebAssembly.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | `codes` | the numeric constants of the specification, by name |
//! | `limits` | every bound on what a client may ask for |
//! | `config` | what the handshake offers |
//! | `handshake` | option haggling as a state machine |
//! | `screen`, `opened` | its decisions: by an option's header, by the requested export |
//! | `contexts` | metadata contexts: their names and ids |
//! | `option`, `option_reply` | option data and option replies |
//! | `style`, `session` | what was negotiated |
//! | `request` | request headers |
//! | `admit` | the only place that admits or refuses requests |
//! | `reply`, `read` | replies, and how reads are split into content chunks |
//! | `error` | errors that end a connection |
//!
//! "The spec" is `doc/proto.md` of the NetworkBlockDevice project together with its branch
//! `extension-ext-header`; sections are quoted by their titles.

mod admit;
pub mod codes;
mod config;
mod contexts;
mod error;
mod handshake;
pub mod limits;
mod opened;
mod option;
mod option_reply;
mod read;
mod reply;
mod request;
mod screen;
mod session;
mod style;
#[cfg(test)]
mod tests;
mod text;

pub use admit::{Admission, Refusal, Verdict};
pub use config::{HandshakeConfig, TlsMode};
pub use contexts::{Bitmaps, ContextName, Contexts, index_of};
pub use error::ProtocolError;
pub use handshake::{Event, Handshake, Purpose};
pub use opened::OpenError;
pub use option_reply::{ExportInfo, ExportSummary};
pub use read::{Piece, Run, Runs};
pub use reply::{ReplyTo, State};
pub use request::{MAX_HEADER_LEN, Request};
pub use session::{Negotiated, Session};
pub use style::ReplyStyle;
