//! End to end: the real program, driven by its command line and by the clients people use.
//!
//! Each test starts servers of its own, on a Unix socket in a directory of its own or on a free port.
//! A test that needs a client which is not installed is skipped, or fails where `CI` is set.

mod support;
mod tenants;

mod backends;
mod bench_driver;
mod clients;
mod components;
mod control;
mod decoders;
mod exports;
mod filters;
mod foreign;
mod fuzz;
mod help;
mod hostile;
mod layers;
mod life;
mod memory;
mod mistakes;
mod pattern;
mod requirements;
mod spelling;
mod threats;
mod tls;
mod wire;
