//! The exports of the contract.
//!
//! `describe`, `open` and the functions without lists are implemented with generated bindings. The
//! others are written by hand, for two reasons: `read` lends out the pages themselves (the interface
//! `lending`), which generated code would copy and free; and nothing may be
//! allocated once the disk is open, because running out of memory would then be a trap.
//!
//! # Safety
//!
//! A component has one thread, and the host never calls one of its functions during a call of
//! another; it calls `cabi_realloc` before the export that the memory is for. Therefore only one
//! call at a time borrows statics. Everything that is returned by address lies in statics or in
//! pages, and stays unchanged until the next call.

use alloc::string::{String, ToString};
use core::cell::UnsafeCell;

use exports::memnbd::block::block_store::{
    Capabilities, Description, Disk, Error, Guest, OpenRequest, ZeroOptions,
};
use exports::memnbd::block::{direct_access, sharding};
use memnbd::block::types::ErrorCode;

use crate::linear::Linear;
use crate::open;
use crate::pages::{LANDING_SIZE, PAGE_SIZE};
use crate::store::{Chunk, NoSpace, Status, Store};

wit_bindgen::generate!({
    path: "wit",
    world: "memory-backend",
    skip: ["read", "write", "extents", "page", "make-page"],
});

/// A static that only the call in progress accesses.
struct Static<T>(UnsafeCell<T>);

// SAFETY: there is one thread.
unsafe impl<T> Sync for Static<T> {}

impl<T> Static<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Borrows the value for the duration of a call.
    ///
    /// # Safety
    ///
    /// Only exports may call this, at most once per call for each static.
    #[allow(clippy::mut_from_ref)]
    unsafe fn borrow(&self) -> &mut T {
        // SAFETY: calls do not overlap; see the module's documentation.
        unsafe { &mut *self.0.get() }
    }
}

/// The length of the stripes into which a disk is divided that has several instances, in bytes.
const STRIPE_SIZE: u64 = 2 << 20;

static STORE: Static<Option<Store<Linear>>> = Static::new(None);

/// Borrows the open disk.
///
/// # Panics
///
/// Panics if the disk is not open.
///
/// # Safety
///
/// See [`Static::borrow`].
unsafe fn store() -> &'static mut Store<Linear> {
    // SAFETY: guaranteed by the caller.
    let store = unsafe { STORE.borrow() };
    store.as_mut().expect("the host opens the disk first")
}

struct Memory;

impl Guest for Memory {
    fn describe() -> Description {
        Description {
            name: "memory".to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            summary: "a sparse disk in memory, all zeroes at first, gone at exit".to_string(),
            parameters: open::parameters(),
            bare_parameter: Some("size".to_string()),
            other_parameters: false,
        }
    }

    fn open(request: OpenRequest) -> Result<Disk, Error> {
        let opened = open::open(&request)?;
        let size = opened.size();
        // SAFETY: the only borrow in this call.
        *unsafe { STORE.borrow() } = Some(opened);
        Ok(Disk {
            size,
            minimum_block: 1,
            preferred_block: 4096,
            maximum_transfer: LANDING_SIZE,
            capabilities: Capabilities::WRITABLE
                | Capabilities::FLUSH
                | Capabilities::FUA
                | Capabilities::TRIM
                | Capabilities::ZERO
                | Capabilities::FAST_ZERO
                | Capabilities::CACHE
                | Capabilities::EXTENTS
                | Capabilities::MULTI_CONN,
            description: String::new(),
        })
    }

    fn zero(offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        // SAFETY: the only borrow in this call.
        let store = unsafe { store() };
        if options.bits() & ZeroOptions::KEEP_ALLOCATED.bits() != 0 {
            store.zero_allocated(offset, length).map_err(|_| error(ErrorCode::Enospc))
        } else {
            store.zero(offset, length);
            Ok(())
        }
    }

    fn trim(offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
        // SAFETY: the only borrow in this call.
        unsafe { store() }.zero(offset, length);
        Ok(())
    }

    fn flush() -> Result<(), Error> {
        Ok(())
    }

    fn cache(_offset: u64, _length: u64) -> Result<(), Error> {
        Ok(())
    }
}

impl sharding::Guest for Memory {
    fn stripe_size() -> u64 {
        // SAFETY: the only borrow in this call.
        match unsafe { store() }.is_allocated() {
            // Another instance would not know which parts it needs memory for.
            true => 0,
            false => STRIPE_SIZE,
        }
    }

    fn stored() -> u64 {
        // SAFETY: the only borrow in this call.
        unsafe { store() }.stored()
    }
}

/// An error without a message: nothing may be allocated once the disk is open.
const fn error(code: ErrorCode) -> Error {
    Error { code, message: None }
}

impl direct_access::Guest for Memory {
    fn page_size() -> u32 {
        PAGE_SIZE
    }
}

export!(Memory);

/// The maximum number of chunks of a read, which touches no more pages than this.
const MAX_CHUNKS: usize = (LANDING_SIZE / PAGE_SIZE) as usize + 1;
/// The maximum number of extents that the contract allows.
const MAX_EXTENTS: usize = 4096;

/// `result<list<T>, error>` in the layout of the canonical ABI. It is never an error here.
#[repr(C)]
struct ListResult<T, const N: usize> {
    tag: u8,
    list: *const T,
    length: usize,
    /// The storage of the list. The host sees only the items that `list` and `length` describe.
    items: [T; N],
}

impl<T: Copy, const N: usize> ListResult<T, N> {
    const fn new(item: T) -> Self {
        Self { tag: 0, list: core::ptr::null(), length: 0, items: [item; N] }
    }

    fn clear(&mut self) {
        self.list = self.items.as_ptr();
        self.length = 0;
    }

    fn push(&mut self, item: T) {
        self.items[self.length] = item;
        self.length += 1;
    }
}

/// `chunk`: tag 0 is `data`, with the address and length of a list; tag 1 is `hole`, with its
/// length.
#[derive(Clone, Copy)]
#[repr(C)]
struct RawChunk {
    tag: u8,
    address_or_hole: u32,
    length: u32,
}

/// `extent`. In its status, bit 0 is `hole` and bit 1 is `zero`.
#[derive(Clone, Copy)]
#[repr(C)]
struct RawExtent {
    length: u64,
    status: u8,
}

static CHUNKS: Static<ListResult<RawChunk, MAX_CHUNKS>> =
    Static::new(ListResult::new(RawChunk { tag: 0, address_or_hole: 0, length: 0 }));
static EXTENTS: Static<ListResult<RawExtent, MAX_EXTENTS>> =
    Static::new(ListResult::new(RawExtent { length: 0, status: 0 }));

// SAFETY: no other symbol has this name, and the signature is the canonical ABI's.
#[unsafe(export_name = "memnbd:block/block-store@0.2.0#read")]
extern "C" fn read(offset: u64, length: u32) -> *const ListResult<RawChunk, MAX_CHUNKS> {
    lend(offset, length)
}

// SAFETY: as above.
#[unsafe(export_name = "memnbd:block/lending@0.2.0#read")]
extern "C" fn lend(offset: u64, length: u32) -> *const ListResult<RawChunk, MAX_CHUNKS> {
    // SAFETY: the only borrows in this call, one for each.
    let (store, chunks) = unsafe { (store(), CHUNKS.borrow()) };
    chunks.clear();
    store.read(offset, length, |chunk| {
        chunks.push(match chunk {
            Chunk::Data { address, length } => {
                RawChunk { tag: 0, address_or_hole: address, length }
            }
            Chunk::Hole(length) => RawChunk { tag: 1, address_or_hole: length, length: 0 },
        });
    });
    chunks
}

// SAFETY: as above.
#[unsafe(export_name = "memnbd:block/block-store@0.2.0#extents")]
extern "C" fn extents(offset: u64, length: u64) -> *const ListResult<RawExtent, MAX_EXTENTS> {
    // SAFETY: the only borrows in this call, one for each.
    let (store, extents) = unsafe { (store(), EXTENTS.borrow()) };
    extents.clear();
    store.extents(offset, length, MAX_EXTENTS, |length, status| {
        extents.push(RawExtent {
            length,
            status: match status {
                Status::Hole => 0b11,
                Status::Zero => 0b10,
                Status::Data => 0b00,
            },
        });
    });
    extents
}

/// `option<list<u8>>`: a tag and, if that is 1, an address and a length.
#[repr(C)]
struct OptionalList {
    tag: u8,
    address: u32,
    length: u32,
}

static PAGE: Static<OptionalList> = Static::new(OptionalList { tag: 0, address: 0, length: 0 });

// SAFETY: as above.
#[unsafe(export_name = "memnbd:block/direct-access@0.2.0#page")]
extern "C" fn page(offset: u64) -> *const OptionalList {
    // SAFETY: the only borrow of the store in this call.
    found(unsafe { store() }.page(offset))
}

// SAFETY: as above.
#[unsafe(export_name = "memnbd:block/direct-access@0.2.0#make-page")]
extern "C" fn make_page(offset: u64) -> *const OptionalList {
    // SAFETY: the only borrow of the store in this call.
    found(unsafe { store() }.make_page(offset).ok())
}

fn found(place: Option<(u32, u32)>) -> *const OptionalList {
    // SAFETY: the only borrow of the static in this call.
    let page = unsafe { PAGE.borrow() };
    *page = match place {
        Some((address, length)) => OptionalList { tag: 1, address, length },
        None => OptionalList { tag: 0, address: 0, length: 0 },
    };
    page
}

/// `result<_, error>`, without a message. The host sees no more of it than the tags demand.
#[repr(C)]
struct EmptyResult {
    /// 1 for an error.
    tag: u32,
    code: u32,
    /// 0 for no message.
    message: u32,
    text: [u32; 2],
}

impl EmptyResult {
    const OK: Self = Self { tag: 0, code: 0, message: 0, text: [0; 2] };
    const NO_SPACE: Self = Self { tag: 1, code: ErrorCode::Enospc as u32, ..Self::OK };
}

// SAFETY: as above.
#[unsafe(export_name = "memnbd:block/block-store@0.2.0#write")]
extern "C" fn write(offset: u64, data: u32, length: u32, _fua: u32) -> *const EmptyResult {
    // SAFETY: the only borrow in this call.
    let store = unsafe { store() };
    // `cabi_realloc` ensures this.
    assert!(data == store.landing() && length <= LANDING_SIZE);
    match store.write(offset, length) {
        Ok(()) => &EmptyResult::OK,
        Err(NoSpace) => &EmptyResult::NO_SPACE,
    }
}

/// Allocates memory for the arguments of the host's calls.
///
/// Before the disk is open, this allocates the arguments of `open` from the heap. Afterwards the
/// host only allocates the payloads of writes, which go into the landing zone.
///
/// # Safety
///
/// See [`memnbd_guest::runtime::reallocate`].
// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(
    old: *mut u8,
    old_size: usize,
    align: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the host calls this before the export borrows anything.
    let Some(store) = (unsafe { STORE.borrow() }) else {
        // SAFETY: guaranteed by the caller.
        return unsafe { memnbd_guest::runtime::reallocate(old, old_size, align, new_size) };
    };
    assert!(old_size == 0 && align == 1 && new_size <= LANDING_SIZE as usize);
    core::ptr::with_exposed_provenance_mut(store.landing() as usize)
}
