//! Finds the contract's functions among the exports of an instance.

use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Func, TypedFunc, WasmList};

use super::bindings::{self, Description, LentChunk, OwnedChunk, ZeroOptions};
use super::state::State;
use super::{CONTRACT_VERSION, DIRECT_ACCESS, INTERFACE};

/// A result in the contract: an error code is an answer like any other.
pub(super) type Answer<T> = Result<T, bindings::ErrorCode>;

/// The functions of one instance, with their types checked.
pub(super) struct Functions {
    pub(super) describe: TypedFunc<(), (Description,)>,
    #[expect(clippy::type_complexity, reason = "it is the function's type in the contract")]
    pub(super) open:
        TypedFunc<(String, bool, Vec<(String, String)>), (Result<bindings::Disk, String>,)>,
    pub(super) read_owned: TypedFunc<(u64, u32), (Answer<Vec<OwnedChunk>>,)>,
    pub(super) read_lent: TypedFunc<(u64, u32), (Answer<WasmList<LentChunk>>,)>,
    /// Typed at each call, because a type that borrows its bytes cannot be stored.
    pub(super) write: Func,
    pub(super) zero: TypedFunc<(u64, u64, ZeroOptions), (Answer<()>,)>,
    pub(super) trim: TypedFunc<(u64, u64, bool), (Answer<()>,)>,
    pub(super) flush: TypedFunc<(), (Answer<()>,)>,
    pub(super) extents: TypedFunc<(u64, u64), (Answer<Vec<bindings::Extent>>,)>,
    pub(super) cache: TypedFunc<(u64, u64), (Answer<()>,)>,
    pub(super) stored: TypedFunc<(), (u64,)>,
    pub(super) direct: Option<DirectFunctions>,
}

/// The functions of `direct-access`, which is optional.
#[derive(Clone, Copy)]
pub(super) struct DirectFunctions {
    pub(super) page_size: TypedFunc<(), (u32,)>,
    pub(super) page: TypedFunc<(u64,), (Option<WasmList<u8>>,)>,
}

impl Functions {
    pub(super) fn find(
        store: &mut Store<State>,
        instance: &wasmtime::component::Instance,
    ) -> wasmtime::Result<Self> {
        let interface = format!("{INTERFACE}@{CONTRACT_VERSION}");
        let interface = instance
            .get_export_index(&mut *store, None, &interface)
            .ok_or_else(|| wasmtime::format_err!("it does not export {interface}"))?;
        let direct = format!("{DIRECT_ACCESS}@{CONTRACT_VERSION}");
        let direct = instance.get_export_index(&mut *store, None, &direct);
        let mut find_in = |interface: &ComponentExportIndex, name: &str| {
            let index = instance
                .get_export_index(&mut *store, Some(interface), name)
                .ok_or_else(|| wasmtime::format_err!("it does not export the function {name}"))?;
            instance
                .get_func(&mut *store, index)
                .ok_or_else(|| wasmtime::format_err!("its export {name} is not a function"))
        };
        let direct = match direct {
            Some(direct) => Some((find_in(&direct, "page-size")?, find_in(&direct, "page")?)),
            None => None,
        };
        let mut find = |name: &str| find_in(&interface, name);
        let describe = find("describe")?;
        let open = find("open")?;
        let read = find("read")?;
        let write = find("write")?;
        let zero = find("zero")?;
        let trim = find("trim")?;
        let flush = find("flush")?;
        let extents = find("extents")?;
        let cache = find("cache")?;
        let stored = find("stored")?;
        let wrong = |name: &'static str| {
            move |error: wasmtime::Error| {
                error.context(format!("its function {name} has another type than the contract's"))
            }
        };
        write.typed::<(u64, &[u8], bool), (Answer<()>,)>(&mut *store).map_err(wrong("write"))?;
        Ok(Self {
            describe: describe.typed(&mut *store).map_err(wrong("describe"))?,
            open: open.typed(&mut *store).map_err(wrong("open"))?,
            read_owned: read.typed(&mut *store).map_err(wrong("read"))?,
            read_lent: read.typed(&mut *store).map_err(wrong("read"))?,
            write,
            zero: zero.typed(&mut *store).map_err(wrong("zero"))?,
            trim: trim.typed(&mut *store).map_err(wrong("trim"))?,
            flush: flush.typed(&mut *store).map_err(wrong("flush"))?,
            extents: extents.typed(&mut *store).map_err(wrong("extents"))?,
            cache: cache.typed(&mut *store).map_err(wrong("cache"))?,
            stored: stored.typed(&mut *store).map_err(wrong("stored"))?,
            direct: match direct {
                Some((page_size, page)) => Some(DirectFunctions {
                    page_size: page_size.typed(&mut *store).map_err(wrong("page-size"))?,
                    page: page.typed(&mut *store).map_err(wrong("page"))?,
                }),
                None => None,
            },
        })
    }
}
