//! The protocol byte by byte, by a client that shares nothing with the server and believes nothing.
//!
//! The client is strict: every reply of every test is checked for its magic, flags, lengths, order
//! and content, so that a test needs to look at no more than what it is about.

pub(crate) mod haggle;
pub(crate) mod numbers;
mod reply;
pub(crate) mod session;
pub(crate) mod stream;

pub(crate) mod chunks;
pub(crate) mod commands;
mod comparison;
pub(crate) mod crowds;
pub(crate) mod flow;
mod greeting;
pub(crate) mod info;
pub(crate) mod options;
mod positions;
pub(crate) mod ranges;
pub(crate) mod shutdown;
mod space;
