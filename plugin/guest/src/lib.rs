//! A crate for writing backends for memnbd: components that implement a disk.
//!
//! A backend is a type that implements [`Backend`]. The macro [`backend!`] exports the type as the
//! component:
//!
//! ```
//! use memnbd_guest::{Backend, Capabilities, Description, Disk, Error, OpenRequest, Parameter};
//!
//! /// A disk that holds one byte, repeated.
//! struct Repeat {
//!     size: u64,
//!     byte: u8,
//! }
//!
//! impl Backend for Repeat {
//!     fn describe() -> Description {
//!         Description::new("repeat", env!("CARGO_PKG_VERSION"), "a disk that repeats one byte")
//!             .parameter(Parameter::size("size", "the size of the disk").required())
//!             .parameter(Parameter::number("byte", "the byte", 0, 255).default("170"))
//!             .bare_parameter("size")
//!     }
//!
//!     fn open(request: &OpenRequest) -> Result<Self, Error> {
//!         let size = request.size("size").ok_or(Error::EINVAL)?;
//!         let byte = request.number("byte").unwrap_or(170) as u8;
//!         Ok(Self { size, byte })
//!     }
//!
//!     fn disk(&self) -> Disk {
//!         let capabilities = Capabilities::MULTI_CONN | Capabilities::INTERCHANGEABLE;
//!         Disk { capabilities, ..Disk::new(self.size) }
//!     }
//!
//!     fn read(&mut self, _offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
//!         buffer.fill(self.byte);
//!         Ok(())
//!     }
//! }
//!
//! memnbd_guest::backend!(Repeat);
//! ```
//!
//! A type that implements [`Filter`] as well is a disk that stands on others, which [`filter!`]
//! exports; one that implements [`Sharded`] is divided among instances, and [`sharded!`] exports it.
//!
//! Build it with `crate-type = ["cdylib"]` for the target `wasm32-wasip2`. On other targets the
//! macros export nothing, and the backend is plain code that unit tests can call.
//!
//! # Layout
//!
//! - [`Backend`], [`OpenRequest`], [`Description`], [`Disk`] and [`Error`]: what a backend
//!   implements, receives and returns. The types are plain and exist on all targets.
//! - [`Filter`], [`Request`] and [`Route`]: the same for a filter, which says where the bytes of
//!   requests are. [`Lower`]: the devices on which it stands.
//! - `testing`: lower devices in memory for unit tests, and a model of what the host does with
//!   routes, on other targets than wasm32.
//! - [`Control`]: commands to a disk that is in use. [`Listing`]: components whose exports have names.
//!   [`Events`]: flushes, and the end of a disk.
//! - [`log`], [`random_u64`], [`time`] and [`uptime`]: what the host offers to a backend.
//! - [`Output`]: files to which a component writes.
//! - [`content`]: helpers for disks whose content is computed from the offset.
//! - [`parse_size`] and [`crc32()`]: for parameters and formats that contain such.
//! - `bindings`: the generated bindings of the contract in `wit/`, on wasm32.
//! - `exports`: the exports of the contract for a type that implements [`Backend`] or [`Filter`],
//!   on wasm32.
//! - `runtime`: a heap, a panic handler and `cabi_realloc` for components without `std`, on wasm32
//!   with the feature `runtime`. Such a component is a few tens of kilobytes.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod backend;
#[cfg(target_arch = "wasm32")]
pub mod bindings;
pub mod content;
mod control;
mod crc32;
mod description;
mod disk;
mod error;
mod events;
#[cfg(target_arch = "wasm32")]
pub mod exports;
mod filter;
mod host;
mod listing;
mod lower;
mod output;
mod repeats;
mod request;
mod route;
#[cfg(all(target_arch = "wasm32", feature = "runtime"))]
pub mod runtime;
mod sharded;
mod size;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use backend::Backend;
pub use control::{Command, Control};
pub use crc32::crc32;
pub use description::{Description, Link, Parameter, ParameterType};
pub use disk::{Capabilities, Chunk, Disk, Extent, MAX_SIZE, Status, ZeroOptions};
pub use error::{Error, ErrorCode};
pub use events::Events;
pub use filter::Filter;
pub use host::{Level, log, random_u64, time, uptime};
pub use listing::{Listed, ListedExport, Listing};
pub use lower::{Geometry, Lower, release, set_route, withdraw_routes};
pub use output::Output;
pub use repeats::Repeats;
pub use request::{Argument, Client, OpenRequest, Value};
pub use route::{
    Location, Lock, MAX_COPY, MAX_DELAY, MAX_PARTS, Operation, Operations, Place, RangeCopy,
    Request, Results, Route, Rules, Segment, StableRoute,
};
pub use sharded::Sharded;
pub use size::parse_size;

/// Exports a type that implements [`Backend`] as the component. A crate invokes this once.
///
/// On targets other than wasm32, this only checks that the type implements the trait.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! backend {
    ($backend:ty) => {
        const _: fn() -> $crate::Description = <$backend as $crate::Backend>::describe;
    };
}

/// Exports a type that implements [`Filter`] as the component. A crate invokes this once, instead
/// of [`backend!`].
///
/// On targets other than wasm32, this only checks that the type implements the trait.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! filter {
    ($filter:ty) => {
        const _: fn(&$filter) -> $crate::Rules = <$filter as $crate::Filter>::rules;
    };
}

/// Exports [`Control`], in addition to [`backend!`] or [`filter!`].
///
/// On targets other than wasm32, this only checks that the type implements the trait.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! control {
    ($backend:ty) => {
        const _: fn() = || {
            fn takes_commands<T: $crate::Control>() {}
            takes_commands::<$backend>();
        };
    };
}

/// Exports [`Events`], in addition to [`backend!`] or [`filter!`].
///
/// On targets other than wasm32, this only checks that the type implements the trait.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! events {
    ($backend:ty) => {
        const _: fn(&mut $backend) = <$backend as $crate::Events>::closing;
    };
}

/// Exports [`Listing`], in addition to [`backend!`] or [`filter!`].
///
/// On targets other than wasm32, this only checks that the type implements the trait.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! listing {
    ($backend:ty) => {
        const _: fn(&$crate::OpenRequest) -> Result<$crate::Listed, $crate::Error> =
            <$backend as $crate::Listing>::exports;
    };
}

/// Exports a type that implements [`Sharded`] as the component. A crate invokes this once, instead
/// of [`backend!`].
///
/// On targets other than wasm32, this only checks that the type implements the trait.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! sharded {
    ($backend:ty) => {
        $crate::backend!($backend);
        const _: fn(&$backend) -> u64 = <$backend as $crate::Sharded>::stripe_size;
    };
}
