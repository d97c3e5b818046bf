//! memnbd serves block devices over NBD (Network Block Device). Where the blocks come from is a sandboxed
//! WebAssembly component behind the interface `block-store`, or a [`Device`](device::Device) of your own.
//!
//! A program that needs a disk, such as a test suite, starts a server of its own:
//!
//! ```
//! # fn main() -> Result<(), memnbd::StartError> {
//! let server = memnbd::Server::builder().memory("2G").unix_private().start()?;
//! // Any client connects to this: libnbd, qemu-img, nbdcopy, ...
//! assert!(server.uri().starts_with("nbd+unix:///memory?socket="));
//! # Ok(())
//! # }
//! ```
//!
//! The command `memnbd-host` is a package of its own, in `program/`. It is this library and what a command
//! line needs.
//!
//! # Features
//!
//! Both are on by default.
//!
//! - `tls`: encrypted connections, by the system's OpenSSL
//! - `vsock`: sockets between a virtual machine and its host
//!
//! # Layout
//!
//! | module | what it does | what it does not know |
//! |---|---|---|
//! | [`block`] | the vocabulary: command, extent, geometry, error code | NBD's bytes, WebAssembly |
//! | [`nbd`] | the protocol: bytes to requests, requests to commands, answers to bytes | sockets, clocks, components |
//! | [`component`] | wasmtime: compiling in a child process, starting and bounding components, checking what they return | NBD, clients |
//! | [`device`] | the trait of what is served, leases of its bytes, a connection's way to it, and its replacement by another; `guest`: commands to calls of instances, shards, emulation, death; `file`: commands to calls of the kernel on a file or block device; `stacked`: routes of a component to commands of the devices beneath it | NBD's messages, wasmtime |
//! | [`exports`] | the registry, one for each namespace: devices by name, opened when first needed, tried again or failed for good, removed; their accounts and shares of the memory | how they are reached, where components come from |
//! | [`tls`] | encrypted streams: certificates, keys, OpenSSL | what is said over them |
//! | [`compute`] | threads of low priority | what is computed |
//! | [`confinement`] | files and system calls that the kernel refuses to this process | who needs what |
//! | [`connection`] | one client: the IO of the protocol | listening, what a disk is made of |
//! | [`budget`] | bounds on what foreign parties hold | what is counted |
//! | [`parameters`] | the parameters of components: their types, and parsing what people typed for them | where they are typed |
//! | [`places`] | places for connections | who has them |
//! | [`access`] | rules of who may use an export, by where clients connect from; who they are by TLS | what they use |
//! | [`rate`] | limits of what clients transfer and request in a second, and turns of those who wait | what is transferred |
//! | `clock` | the time as a number | what it is for |
//! | `client_log` | warnings about clients, throttled | what clients do |
//! | `last_flush` | flushing all exports in time | how a disk is flushed |
//! | [`output`] | files that components write to | who writes, or what |
//! | `owned_file` | files that are removed in the end | what they are for |
//! | `throttle` | a bound on what is logged | what that is |
//! | `machine` | processors and memory | what they are for |
//! | `sync` | atomics, to be replaced by loom's | what they are for |
//! | [`remote`] | a disk of another NBD server as a device: an NBD client | sockets, what its content is for |
//! | [`transport`] | connected sockets and their options, sending without waiting | what is said over them |
//! | [`server`] | listening, accepting, stopping, the handle to that | the protocol |
//! | [`embed`] | a server inside another program | the command |
//!
//! # The way of a request
//!
//! ```text
//! bytes -> nbd::Request -> admit -> block::Command -> device::Gate -> a lease, else Device::execute
//!       <- nbd::ReplyTo <- device::Answer (chunks in the component's own memory) <-
//! ```
//!
//! Three things make it short. All requests that one receive brings are executed before their
//! replies are sent together. A connection that is busy has a thread of its own, which looks at its
//! socket again before it sleeps (`connection::dedicated`). And a component that keeps the disk in its
//! memory tells once where a page is; until the page is zeroed or trimmed it is then read and written
//! without a call (`component::direct`, `wit/direct-access.wit`).
//!
//! A request is untrusted until [`nbd::Session::admit`] has judged it; after that nothing checks
//! again. A component's answer is untrusted until [`component::Instance`] has checked it.

pub mod access;
pub mod block;
pub mod budget;
mod client_log;
mod clock;
pub mod component;
pub mod compute;
pub mod confinement;
pub mod connection;
pub mod device;
pub mod embed;
pub mod exports;
mod last_flush;
pub mod machine;
pub mod nbd;
pub mod output;
mod owned_file;
pub mod parameters;
pub mod places;
pub mod rate;
pub mod remote;
pub mod server;
mod sync;
mod throttle;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;
pub mod transport;

pub use embed::{Builder, Running, StartError};
pub use server::Server;
