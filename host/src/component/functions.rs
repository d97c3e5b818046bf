//! Finds the contract's functions among the exports of an instance.

use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Func, TypedFunc, WasmList};
use wasmtime::component::{Instance, Lift, Lower};

use super::bindings::{self, Description, LentChunk, OpenRequest, OwnedChunk, ZeroOptions};
use super::state::State;
use super::{
    CONTRACT_VERSION, CONTROL, DIRECT_ACCESS, EVENTS, INTERFACE, LENDING, LISTING, ROUTING,
    SHARDING,
};

/// A result in the contract: an error is an answer like any other.
pub(super) type Answer<T> = Result<T, bindings::Error>;

/// The functions of `block-store`.
const FUNCTIONS: [&str; 9] =
    ["describe", "open", "read", "write", "zero", "trim", "flush", "extents", "cache"];

/// The functions of one instance, with their types checked.
pub(super) struct Functions {
    pub(super) describe: TypedFunc<(), (Description,)>,
    pub(super) open: TypedFunc<(OpenRequest,), (Answer<bindings::Disk>,)>,
    pub(super) read: Read,
    /// Typed at each call, because a type that borrows its bytes cannot be stored.
    pub(super) write: Func,
    pub(super) zero: TypedFunc<(u64, u64, ZeroOptions), (Answer<()>,)>,
    pub(super) trim: TypedFunc<(u64, u64, bool), (Answer<()>,)>,
    pub(super) flush: TypedFunc<(), (Answer<()>,)>,
    pub(super) extents: TypedFunc<(u64, u64), (Answer<Vec<bindings::Extent>>,)>,
    pub(super) cache: TypedFunc<(u64, u64), (Answer<()>,)>,
    pub(super) direct: Option<DirectFunctions>,
    pub(super) sharding: Option<ShardingFunctions>,
    pub(super) routing: Option<RoutingFunctions>,
    pub(super) control: Option<ControlFunctions>,
    pub(super) listing: Option<TypedFunc<(OpenRequest,), (Answer<bindings::Listed>,)>>,
    pub(super) events: Option<EventFunctions>,
}

/// The function that reads.
#[derive(Clone, Copy)]
pub(super) enum Read {
    /// `block-store.read`, whose chunks are copied.
    Owned(TypedFunc<(u64, u32), (Answer<Vec<OwnedChunk>>,)>),
    /// `lending.read`, whose chunks stay where they are.
    Lent(TypedFunc<(u64, u32), (Answer<WasmList<LentChunk>>,)>),
}

/// The functions of `direct-access`.
#[derive(Clone, Copy)]
pub(super) struct DirectFunctions {
    pub(super) page_size: TypedFunc<(), (u32,)>,
    pub(super) page: TypedFunc<(u64,), (Option<WasmList<u8>>,)>,
    pub(super) make_page: TypedFunc<(u64,), (Option<WasmList<u8>>,)>,
}

/// The functions of `sharding`.
#[derive(Clone, Copy)]
pub(super) struct ShardingFunctions {
    pub(super) stripe_size: TypedFunc<(), (u64,)>,
    pub(super) stored: TypedFunc<(), (u64,)>,
}

/// The functions of `routing`.
#[derive(Clone, Copy)]
pub(super) struct RoutingFunctions {
    pub(super) rules: TypedFunc<(), (bindings::Rules,)>,
    pub(super) route: TypedFunc<(bindings::Request,), (Answer<bindings::Route>,)>,
    pub(super) done: TypedFunc<(u64, bindings::Results), (Answer<Option<u64>>,)>,
    pub(super) stable: TypedFunc<(bindings::Operation, u64), (Option<bindings::StableRoute>,)>,
}

/// The functions of `control`.
#[derive(Clone, Copy)]
pub(super) struct ControlFunctions {
    pub(super) commands: TypedFunc<(), (Vec<bindings::Command>,)>,
    pub(super) execute: TypedFunc<(String, Vec<bindings::Argument>), (Answer<String>,)>,
}

/// The functions of `events`.
#[derive(Clone, Copy)]
pub(super) struct EventFunctions {
    pub(super) flush_began: TypedFunc<(), (u64,)>,
    pub(super) flush_ended: TypedFunc<(u64, Option<bindings::ErrorCode>), ()>,
    pub(super) closing: TypedFunc<(), ()>,
}

/// An interface that an instance exports.
struct Interface<'a> {
    store: &'a mut Store<State>,
    instance: &'a Instance,
    name: &'static str,
    index: ComponentExportIndex,
}

impl<'a> Interface<'a> {
    /// Finds an interface in the contract's version, or a later patch release of it.
    fn find(
        store: &'a mut Store<State>,
        instance: &'a Instance,
        name: &'static str,
    ) -> Option<Self> {
        let wanted = format!("{name}@{CONTRACT_VERSION}");
        let index = instance.get_export_index(&mut *store, None, &wanted)?;
        Some(Self { store, instance, name, index })
    }

    /// Finds a function.
    fn func(&mut self, name: &str) -> wasmtime::Result<Func> {
        let Self { store, instance, index, .. } = self;
        let found =
            instance.get_export_index(&mut **store, Some(index), name).ok_or_else(|| {
                wasmtime::format_err!("its interface {} has no function {name}", self.name)
            })?;
        instance.get_func(&mut **store, found).ok_or_else(|| {
            wasmtime::format_err!("the export {name} of its interface {} is no function", self.name)
        })
    }

    /// Finds a function and checks its type.
    fn typed<P, R>(&mut self, name: &str) -> wasmtime::Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let typed = self.func(name)?.typed(&mut *self.store);
        typed.map_err(|error| wrong(self.name, name, error))
    }
}

fn wrong(interface: &str, name: &str, error: wasmtime::Error) -> wasmtime::Error {
    error.context(format!(
        "its function {name} of {interface} has another type than in the contract"
    ))
}

impl Functions {
    pub(super) fn find(store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Self> {
        let sharding = match Interface::find(store, instance, SHARDING) {
            Some(mut sharding) => Some(ShardingFunctions {
                stripe_size: sharding.typed("stripe-size")?,
                stored: sharding.typed("stored")?,
            }),
            None => None,
        };
        let routing = match Interface::find(store, instance, ROUTING) {
            Some(mut routing) => Some(RoutingFunctions {
                rules: routing.typed("rules")?,
                route: routing.typed("route")?,
                done: routing.typed("done")?,
                stable: routing.typed("stable")?,
            }),
            None => None,
        };
        let control = match Interface::find(store, instance, CONTROL) {
            Some(mut control) => Some(ControlFunctions {
                commands: control.typed("commands")?,
                execute: control.typed("execute")?,
            }),
            None => None,
        };
        let listing = match Interface::find(store, instance, LISTING) {
            Some(mut listing) => Some(listing.typed("exports")?),
            None => None,
        };
        let events = match Interface::find(store, instance, EVENTS) {
            Some(mut events) => Some(EventFunctions {
                flush_began: events.typed("flush-began")?,
                flush_ended: events.typed("flush-ended")?,
                closing: events.typed("closing")?,
            }),
            None => None,
        };
        let direct = match Interface::find(store, instance, DIRECT_ACCESS) {
            Some(mut direct) => Some(DirectFunctions {
                page_size: direct.typed("page-size")?,
                page: direct.typed("page")?,
                make_page: direct.typed("make-page")?,
            }),
            None => None,
        };
        let lent = match Interface::find(store, instance, LENDING) {
            Some(mut lending) => Some(Read::Lent(lending.typed("read")?)),
            None => None,
        };
        let mut block_store = Interface::find(store, instance, INTERFACE).ok_or_else(|| {
            wasmtime::format_err!("it does not export {INTERFACE}@{CONTRACT_VERSION}")
        })?;
        // That one is missing says more than that another is of the wrong type.
        for name in FUNCTIONS {
            block_store.func(name)?;
        }
        let read = Read::Owned(block_store.typed("read")?);
        let write = block_store.func("write")?;
        write
            .typed::<(u64, &[u8], bool), (Answer<()>,)>(&*block_store.store)
            .map_err(|error| wrong(INTERFACE, "write", error))?;
        Ok(Self {
            describe: block_store.typed("describe")?,
            open: block_store.typed("open")?,
            read: lent.unwrap_or(read),
            write,
            zero: block_store.typed("zero")?,
            trim: block_store.typed("trim")?,
            flush: block_store.typed("flush")?,
            extents: block_store.typed("extents")?,
            cache: block_store.typed("cache")?,
            direct,
            sharding,
            routing,
            control,
            listing,
            events,
        })
    }
}
