//! The protocol byte by byte, by a client that shares nothing with the server and believes nothing.
//!
//! The client is strict: every reply of every test is checked for its magic, flags, lengths, order
//! and content, so that a test needs to look at no more than what it is about.

mod haggle;
mod numbers;
mod reply;
mod session;
mod stream;

mod chunks;
mod commands;
mod comparison;
mod crowds;
mod flow;
mod greeting;
mod info;
mod options;
mod positions;
mod ranges;
mod shutdown;
mod space;
