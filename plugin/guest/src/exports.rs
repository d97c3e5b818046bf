//! The exports of the contract for a type that implements [`Backend`] or [`Filter`](crate::Filter),
//! and the imports that a filter has, on wasm32.

mod control;
mod events;
pub(crate) mod lower;
mod routing;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::marker::PhantomData;
use core::time::Duration;

use crate::bindings::exports::memnbd::block::block_store as contract;
use crate::bindings::memnbd::block::log as contract_log;
use crate::bindings::memnbd::block::types;
use crate::bindings::output::memnbd::block::output as contract_output;
use crate::bindings::sharding::exports::memnbd::block::sharding;
use crate::{
    Argument, Backend, Chunk, Client, Description, Disk, Error, ErrorCode, Extent, Level, Link,
    Lower, OpenRequest, Output, Parameter, ParameterType, Sharded, Status, Value, ZeroOptions,
};

/// Exports a type that implements [`Backend`] as the component. A crate invokes this once.
#[macro_export]
macro_rules! backend {
    ($backend:ty) => {
        const _: () = {
            static OPENED: $crate::exports::Slot<$backend> = $crate::exports::Slot::new();

            impl $crate::exports::Opened for $backend {
                fn slot() -> &'static $crate::exports::Slot<Self> {
                    &OPENED
                }
            }

            type Component = $crate::exports::Component<$backend>;
    $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
        $crate::export_realloc!();
    };
}

/// Exports a type that implements [`Filter`](crate::Filter) as the component. A crate invokes this
/// once, instead of [`backend!`](crate::backend!).
#[macro_export]
macro_rules! filter {
    ($filter:ty) => {
        $crate::backend!($filter);

        const _: () = {
            type Component = $crate::exports::Component<$filter>;
    $crate::bindings::routing::export!(Component with_types_in $crate::bindings::routing);
        };
    };
}

/// Exports [`Control`](crate::Control), in addition to [`backend!`](crate::backend!) or
/// [`filter!`](crate::filter!).
#[macro_export]
macro_rules! control {
    ($backend:ty) => {
        const _: () = {
            type Component = $crate::exports::Component<$backend>;
    $crate::bindings::control::export!(Component with_types_in $crate::bindings::control);
        };
    };
}

/// Exports [`Events`](crate::Events), in addition to [`backend!`](crate::backend!) or
/// [`filter!`](crate::filter!).
#[macro_export]
macro_rules! events {
    ($backend:ty) => {
        const _: () = {
            type Component = $crate::exports::Component<$backend>;
    $crate::bindings::events::export!(Component with_types_in $crate::bindings::events);
        };
    };
}

/// Exports [`Listing`](crate::Listing), in addition to [`backend!`](crate::backend!) or
/// [`filter!`](crate::filter!).
#[macro_export]
macro_rules! listing {
    ($backend:ty) => {
        const _: () = {
            type Component = $crate::exports::Component<$backend>;
    $crate::bindings::listing::export!(Component with_types_in $crate::bindings::listing);
        };
    };
}

/// Exports a type that implements [`Sharded`](crate::Sharded) as the component. A crate invokes this
/// once, instead of [`backend!`](crate::backend!).
#[macro_export]
macro_rules! sharded {
    ($backend:ty) => {
        $crate::backend!($backend);

        const _: () = {
            type Component = $crate::exports::Component<$backend>;
    $crate::bindings::sharding::export!(Component with_types_in $crate::bindings::sharding);
        };
    };
}

/// Exports nothing: the C library of a component with `std` exports `cabi_realloc`.
#[cfg(not(feature = "runtime"))]
#[doc(hidden)]
#[macro_export]
macro_rules! export_realloc {
    () => {};
}

/// The place of the disk, empty until it is opened.
#[derive(Debug)]
pub struct Slot<B>(RefCell<Option<B>>);

// SAFETY: a component has one thread.
unsafe impl<B> Sync for Slot<B> {}

impl<B> Slot<B> {
    /// Returns an empty slot.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }
}

/// A backend with a place for the open disk. [`backend!`](crate::backend!) implements this.
pub trait Opened: Backend {
    /// Returns the place of the disk.
    fn slot() -> &'static Slot<Self>;
}

/// The component that exports a backend.
#[derive(Debug)]
pub struct Component<B>(PhantomData<B>);

impl<B: Opened> Component<B> {
    /// Passes the open disk to a function.
    fn with<T>(function: impl FnOnce(&mut B) -> T) -> T {
        let mut opened = B::slot().0.borrow_mut();
        function(opened.as_mut().expect("the host opens the disk first"))
    }

    /// Calls a function of the open disk that can fail.
    fn call<T>(function: impl FnOnce(&mut B) -> Result<T, Error>) -> Result<T, types::Error> {
        Self::with(function).map_err(types::Error::from)
    }
}

impl<B: Opened> contract::Guest for Component<B> {
    fn describe() -> contract::Description {
        B::describe().into()
    }

    fn open(request: types::OpenRequest) -> Result<contract::Disk, types::Error> {
        let backend = B::open(&request.into())?;
        let disk = backend.disk().into();
        *B::slot().0.borrow_mut() = Some(backend);
        Ok(disk)
    }

    fn read(offset: u64, length: u32) -> Result<Vec<types::Chunk>, types::Error> {
        let chunks = Self::call(|backend| backend.read_chunks(offset, length))?;
        Ok(chunks.into_iter().map(types::Chunk::from).collect())
    }

    fn write(offset: u64, data: Vec<u8>, fua: bool) -> Result<(), types::Error> {
        Self::call(|backend| backend.write(offset, &data, fua))
    }

    fn zero(offset: u64, length: u64, options: types::ZeroOptions) -> Result<(), types::Error> {
        Self::call(|backend| backend.zero(offset, length, options.into()))
    }

    fn trim(offset: u64, length: u64, fua: bool) -> Result<(), types::Error> {
        Self::call(|backend| backend.trim(offset, length, fua))
    }

    fn flush() -> Result<(), types::Error> {
        Self::call(B::flush)
    }

    fn extents(offset: u64, length: u64) -> Result<Vec<types::Extent>, types::Error> {
        let extents = Self::call(|backend| backend.extents(offset, length))?;
        Ok(extents.into_iter().map(types::Extent::from).collect())
    }

    fn cache(offset: u64, length: u64) -> Result<(), types::Error> {
        Self::call(|backend| backend.cache(offset, length))
    }
}

impl<B: Opened + Sharded> sharding::Guest for Component<B> {
    fn stripe_size() -> u64 {
        Self::with(|backend| backend.stripe_size())
    }

    fn stored() -> u64 {
        Self::with(|backend| backend.stored())
    }
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Error => contract_log::Level::Error,
        Level::Warn => contract_log::Level::Warn,
        Level::Info => contract_log::Level::Info,
        Level::Debug => contract_log::Level::Debug,
        Level::Trace => contract_log::Level::Trace,
    };
    contract_log::log(level, message);
}

pub(crate) fn append(output: Output, data: &[u8]) -> Result<(), Error> {
    Ok(contract_output::append(output.number(), data)?)
}

impl From<Description> for contract::Description {
    fn from(description: Description) -> Self {
        Self {
            name: description.name.to_string(),
            version: description.version.to_string(),
            summary: description.summary.to_string(),
            parameters: description.parameters.into_iter().map(types::Parameter::from).collect(),
            bare_parameter: description.bare_parameter.map(String::from),
            other_parameters: description.other_parameters,
        }
    }
}

impl From<Parameter> for types::Parameter {
    fn from(parameter: Parameter) -> Self {
        Self {
            name: parameter.name.to_string(),
            summary: parameter.summary.to_string(),
            type_: match parameter.kind {
                ParameterType::Text => types::ParameterType::Text,
                ParameterType::Choice(words) => {
                    types::ParameterType::Choice(words.iter().copied().map(String::from).collect())
                }
                ParameterType::Boolean => types::ParameterType::Boolean,
                ParameterType::Number(minimum, maximum) => {
                    types::ParameterType::Number(types::NumberRange { minimum, maximum })
                }
                ParameterType::Size(minimum, maximum) => {
                    types::ParameterType::Size(types::SizeRange { minimum, maximum })
                }
                ParameterType::Duration => types::ParameterType::Duration,
                ParameterType::Probability => types::ParameterType::Probability,
                ParameterType::Device(link) => types::ParameterType::Device(link.into()),
                ParameterType::File(link) => types::ParameterType::File(link.into()),
                ParameterType::Secret => types::ParameterType::Secret,
                ParameterType::Output(append) => {
                    types::ParameterType::Output(append.map(String::from))
                }
            },
            required: parameter.required,
            repeatable: parameter.repeatable,
            default: parameter.default.map(String::from),
        }
    }
}

impl From<Link> for types::Link {
    fn from(link: Link) -> Self {
        let mut flags = Self::empty();
        if link.writes {
            flags = flags | Self::WRITES;
        }
        if link.unshared {
            flags = flags | Self::UNSHARED;
        }
        if link.scratch {
            flags = flags | Self::SCRATCH;
        }
        flags
    }
}

impl From<types::OpenRequest> for OpenRequest {
    fn from(request: types::OpenRequest) -> Self {
        Self {
            export_name: request.export_name,
            read_only: request.read_only,
            arguments: request.arguments.into_iter().map(Argument::from).collect(),
            memory_limit: request.memory_limit,
            client: request.client.map(|types::Client { tls, peer }| Client { tls, peer }),
        }
    }
}

impl From<types::Argument> for Argument {
    fn from(argument: types::Argument) -> Self {
        let value = match argument.value {
            types::Value::Text(text) => Value::Text(text),
            types::Value::Boolean(boolean) => Value::Boolean(boolean),
            types::Value::Number(number) => Value::Number(number),
            types::Value::Size(size) => Value::Size(size),
            types::Value::Duration(nanoseconds) => {
                Value::Duration(Duration::from_nanos(nanoseconds))
            }
            types::Value::Probability(probability) => Value::Probability(probability),
            types::Value::Device(number) => Value::Device(Lower::new(number)),
            types::Value::Secret(bytes) => Value::Secret(bytes),
            types::Value::Output(number) => Value::Output(Output::new(number)),
        };
        Self { name: argument.name, value }
    }
}

impl From<Disk> for contract::Disk {
    fn from(disk: Disk) -> Self {
        Self {
            size: disk.size,
            minimum_block: disk.minimum_block,
            preferred_block: disk.preferred_block,
            maximum_transfer: disk.maximum_transfer,
            capabilities: types::Capabilities::from_bits_retain(disk.capabilities.bits()),
            description: disk.description.into_owned(),
        }
    }
}

impl From<Error> for types::Error {
    fn from(error: Error) -> Self {
        let code = match error.code {
            ErrorCode::Eperm => types::ErrorCode::Eperm,
            ErrorCode::Eio => types::ErrorCode::Eio,
            ErrorCode::Enomem => types::ErrorCode::Enomem,
            ErrorCode::Einval => types::ErrorCode::Einval,
            ErrorCode::Enospc => types::ErrorCode::Enospc,
            ErrorCode::Eoverflow => types::ErrorCode::Eoverflow,
            ErrorCode::Enotsup => types::ErrorCode::Enotsup,
            ErrorCode::Eshutdown => types::ErrorCode::Eshutdown,
        };
        Self { code, message: error.message.map(String::from) }
    }
}

impl From<Chunk> for types::Chunk {
    fn from(chunk: Chunk) -> Self {
        match chunk {
            Chunk::Data(bytes) => Self::Data(bytes),
            Chunk::Hole(length) => Self::Hole(length),
        }
    }
}

impl From<Extent> for types::Extent {
    fn from(extent: Extent) -> Self {
        let Status { hole, zero } = extent.status;
        let mut status = types::Status::empty();
        if hole {
            status = status | types::Status::HOLE;
        }
        if zero {
            status = status | types::Status::ZERO;
        }
        Self { length: extent.length, status }
    }
}

impl From<types::ZeroOptions> for ZeroOptions {
    fn from(options: types::ZeroOptions) -> Self {
        let has = |option: types::ZeroOptions| options.bits() & option.bits() != 0;
        Self {
            fua: has(types::ZeroOptions::FUA),
            keep_allocated: has(types::ZeroOptions::KEEP_ALLOCATED),
            fast: has(types::ZeroOptions::FAST),
        }
    }
}
