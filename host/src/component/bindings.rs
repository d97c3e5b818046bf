//! The types of `wit/block-store.wit` as wasmtime passes them.
//!
//! They are written by hand rather than generated, so that chunks can be borrowed from the guest's
//! memory ([`LentChunk`]). Wasmtime checks them against the component's own types when the
//! functions are looked up.

use wasmtime::component::{ComponentType, Lift, Lower, WasmList, flags};

use crate::block;

/// `error-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by lifting")]
pub(super) enum ErrorCode {
    #[component(name = "eperm")]
    Perm,
    #[component(name = "eio")]
    Io,
    #[component(name = "enomem")]
    NoMem,
    #[component(name = "einval")]
    Inval,
    #[component(name = "enospc")]
    NoSpc,
    #[component(name = "eoverflow")]
    Overflow,
    #[component(name = "enotsup")]
    NotSup,
    #[component(name = "eshutdown")]
    Shutdown,
}

impl From<ErrorCode> for block::ErrorCode {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Perm => Self::Perm,
            ErrorCode::Io => Self::Io,
            ErrorCode::NoMem => Self::NoMem,
            ErrorCode::Inval => Self::Inval,
            ErrorCode::NoSpc => Self::NoSpc,
            ErrorCode::Overflow => Self::Overflow,
            ErrorCode::NotSup => Self::NotSup,
            ErrorCode::Shutdown => Self::Shutdown,
        }
    }
}

/// A parameter that a component takes.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub struct Parameter {
    /// The key.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// Whether the disk cannot be opened without it.
    pub required: bool,
    /// The value when it is not given.
    pub default: Option<String>,
}

/// What a component says of itself.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub struct Description {
    /// What people call it.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One line about it.
    pub summary: String,
    /// What it takes.
    pub parameters: Vec<Parameter>,
    /// The parameter that a bare value is for.
    #[component(name = "bare-parameter")]
    pub bare_parameter: Option<String>,
}

flags! {
    Capabilities {
        #[component(name = "writable")]
        const WRITABLE;
        #[component(name = "flush")]
        const FLUSH;
        #[component(name = "fua")]
        const FUA;
        #[component(name = "trim")]
        const TRIM;
        #[component(name = "zero")]
        const ZERO;
        #[component(name = "fast-zero")]
        const FAST_ZERO;
        #[component(name = "cache")]
        const CACHE;
        #[component(name = "extents")]
        const EXTENTS;
        #[component(name = "multi-conn")]
        const MULTI_CONN;
        #[component(name = "rotational")]
        const ROTATIONAL;
        #[component(name = "lends-chunks")]
        const LENDS_CHUNKS;
    }
}

/// `sharing`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum Sharing {
    #[component(name = "exclusive")]
    Exclusive,
    #[component(name = "interchangeable")]
    Interchangeable,
    #[component(name = "striped")]
    Striped(u64),
}

/// `disk`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Disk {
    pub(super) size: u64,
    #[component(name = "minimum-block")]
    pub(super) minimum_block: u32,
    #[component(name = "preferred-block")]
    pub(super) preferred_block: u32,
    #[component(name = "maximum-transfer")]
    pub(super) maximum_transfer: u32,
    pub(super) capabilities: Capabilities,
    pub(super) sharing: Sharing,
    pub(super) description: String,
}

/// `chunk`, its bytes copied out of the guest.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum OwnedChunk {
    #[component(name = "data")]
    Data(Vec<u8>),
    #[component(name = "hole")]
    Hole(u32),
}

/// `chunk`, its bytes where the guest keeps them.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum LentChunk {
    #[component(name = "data")]
    Data(WasmList<u8>),
    #[component(name = "hole")]
    Hole(u32),
}

flags! {
    Status {
        #[component(name = "hole")]
        const HOLE;
        #[component(name = "zero")]
        const ZERO;
    }
}

/// `extent`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Extent {
    pub(super) length: u64,
    pub(super) status: Status,
}

flags! {
    ZeroOptions {
        #[component(name = "fua")]
        const FUA;
        #[component(name = "keep-allocated")]
        const KEEP_ALLOCATED;
        #[component(name = "fast")]
        const FAST;
    }
}
