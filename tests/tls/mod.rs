//! TLS: the real program, by clients that believe nothing and by the clients people use.

pub(crate) mod client;
pub(crate) mod pki;

mod again;
mod ciphers;
mod files;
mod handshake;
mod hello;
mod hostile;
mod keys;
mod peers;
mod programs;
