//! The NBD protocol without sockets and clocks: bytes in, decisions and bytes out.
//!
//! A connection begins with a [`Handshake`], which ends in a [`Session`]. The session turns what
//! comes over the wire into a [`Request`], the request into an [`Admission`], and gives out the
//! [`ReplyTo`] that encodes whatever is answered. Storage is spoken of in the words of
//! [`crate::block`]; of WebAssembly nothing is known here.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | `codes` | the numbers of the specification, by their names |
//! | `limits` | every bound on what a client may ask for |
//! | `config` | what the handshake offers |
//! | `handshake` | option haggling as a state machine |
//! | `screen`, `opened` | its decisions: by an option's header, by the export asked for |
//! | `option`, `option_reply` | the data of options, the replies to them |
//! | `style`, `session` | what was negotiated |
//! | `request` | the headers of requests |
//! | `admit` | the one place that judges requests |
//! | `reply`, `read` | replies, and how reads are cut into content chunks |
//! | `error` | what ends a connection |
//!
//! "The spec" is `doc/proto.md` of the NetworkBlockDevice project together with its branch
//! `extension-ext-header`; sections are quoted by their titles.

mod admit;
pub mod codes;
mod config;
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
pub use error::ProtocolError;
pub use handshake::{Event, Handshake, Purpose};
pub use opened::OpenError;
pub use option_reply::{ExportInfo, ExportSummary};
pub use read::{Piece, Run, Runs};
pub use reply::ReplyTo;
pub use request::{MAX_HEADER_LEN, Request};
pub use session::{Negotiated, Session};
pub use style::ReplyStyle;
