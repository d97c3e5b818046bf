//! The types of `wit/` as wasmtime passes them.
//!
//! They are written by hand rather than generated, so that chunks can be borrowed from the guest's
//! memory ([`LentChunk`]). Wasmtime checks them against the component's own types when the
//! functions are looked up.

use wasmtime::component::{ComponentType, Lift, Lower, WasmList, flags};

use crate::block;
use crate::parameters;

/// `error-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
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

impl From<block::ErrorCode> for ErrorCode {
    fn from(code: block::ErrorCode) -> Self {
        match code {
            block::ErrorCode::Perm => Self::Perm,
            block::ErrorCode::Io => Self::Io,
            block::ErrorCode::NoMem => Self::NoMem,
            block::ErrorCode::Inval => Self::Inval,
            block::ErrorCode::NoSpc => Self::NoSpc,
            block::ErrorCode::Overflow => Self::Overflow,
            block::ErrorCode::NotSup => Self::NotSup,
            block::ErrorCode::Shutdown => Self::Shutdown,
        }
    }
}

/// `error`.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Error {
    pub(super) code: ErrorCode,
    pub(super) message: Option<String>,
}

/// `number-range`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct NumberRange {
    pub(super) minimum: i64,
    pub(super) maximum: i64,
}

/// `size-range`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct SizeRange {
    pub(super) minimum: u64,
    pub(super) maximum: u64,
}

flags! {
    Link {
        #[component(name = "writes")]
        const WRITES;
        #[component(name = "unshared")]
        const UNSHARED;
        #[component(name = "scratch")]
        const SCRATCH;
    }
}

/// `parameter-type`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum ParameterType {
    #[component(name = "text")]
    Text,
    #[component(name = "choice")]
    Choice(Vec<String>),
    #[component(name = "boolean")]
    Boolean,
    #[component(name = "number")]
    Number(NumberRange),
    #[component(name = "size")]
    Size(SizeRange),
    #[component(name = "duration")]
    Duration,
    #[component(name = "probability")]
    Probability,
    #[component(name = "device")]
    Device(Link),
    #[component(name = "file")]
    File(Link),
    #[component(name = "secret")]
    Secret,
    #[component(name = "output")]
    Output(Option<String>),
}

/// `parameter`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) summary: String,
    #[component(name = "type")]
    pub(super) kind: ParameterType,
    pub(super) required: bool,
    pub(super) repeatable: bool,
    pub(super) default: Option<String>,
}

/// `value`.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(variant)]
pub(super) enum Value {
    #[component(name = "text")]
    Text(String),
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "number")]
    Number(i64),
    #[component(name = "size")]
    Size(u64),
    #[component(name = "duration")]
    Duration(u64),
    #[component(name = "probability")]
    Probability(f64),
    #[component(name = "device")]
    Device(u32),
    #[component(name = "secret")]
    Secret(Vec<u8>),
    #[component(name = "output")]
    Output(u32),
}

/// The numbers that were given to arguments.
#[derive(Default)]
struct Numbers {
    devices: u32,
    outputs: u32,
}

impl Value {
    /// Converts the value of an argument. `numbers` counts the lower devices and the outputs, which have
    /// their numbers in the order of the arguments.
    fn of(value: &parameters::Value, numbers: &mut Numbers) -> Self {
        let next = |number: &mut u32| {
            *number += 1;
            *number - 1
        };
        match value {
            parameters::Value::Text(text) => Self::Text(text.clone()),
            &parameters::Value::Boolean(boolean) => Self::Boolean(boolean),
            &parameters::Value::Number(number) => Self::Number(number),
            &parameters::Value::Size(size) => Self::Size(size),
            &parameters::Value::Duration(nanoseconds) => Self::Duration(nanoseconds),
            &parameters::Value::Probability(probability) => Self::Probability(probability),
            parameters::Value::Device(..) | parameters::Value::File(..) => {
                Self::Device(next(&mut numbers.devices))
            }
            parameters::Value::Output(_) => Self::Output(next(&mut numbers.outputs)),
            parameters::Value::Secret(secret) => Self::Secret(secret.bytes().to_vec()),
        }
    }
}

/// `argument`.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Argument {
    pub(super) name: String,
    pub(super) value: Value,
}

impl Argument {
    /// Converts the arguments of `open`.
    pub(super) fn list(arguments: &[parameters::Argument]) -> Vec<Self> {
        let mut numbers = Numbers::default();
        let arguments = arguments.iter().map(|parameters::Argument { name, value }| Self {
            name: name.clone(),
            value: Value::of(value, &mut numbers),
        });
        arguments.collect()
    }
}

/// `client`.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Client {
    pub(super) tls: bool,
    pub(super) peer: String,
}

impl From<super::Client> for Client {
    fn from(client: super::Client) -> Self {
        Self { tls: client.tls, peer: (*client.peer).to_owned() }
    }
}

/// `open-request`.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct OpenRequest {
    #[component(name = "export-name")]
    pub(super) export_name: String,
    #[component(name = "read-only")]
    pub(super) read_only: bool,
    pub(super) arguments: Vec<Argument>,
    #[component(name = "memory-limit")]
    pub(super) memory_limit: u64,
    pub(super) client: Option<Client>,
}

/// `description`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Description {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) summary: String,
    pub(super) parameters: Vec<Parameter>,
    #[component(name = "bare-parameter")]
    pub(super) bare_parameter: Option<String>,
    #[component(name = "other-parameters")]
    pub(super) other_parameters: bool,
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
        #[component(name = "interchangeable")]
        const INTERCHANGEABLE;
    }
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
    pub(super) description: String,
}

/// `chunk`, its bytes copied out of the guest, or to be copied into it.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum OwnedChunk {
    /// These bytes.
    #[component(name = "data")]
    Data(Vec<u8>),
    /// This many zeroes.
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
#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Extent {
    pub(super) length: u64,
    pub(super) status: Status,
}

flags! {
    Operations {
        #[component(name = "read")]
        const READ;
        #[component(name = "write")]
        const WRITE;
        #[component(name = "zero")]
        const ZERO;
        #[component(name = "trim")]
        const TRIM;
        #[component(name = "cache")]
        const CACHE;
        #[component(name = "extents")]
        const EXTENTS;
    }
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

/// `level`, of the interface `log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by lifting")]
pub(super) enum Level {
    #[component(name = "error")]
    Error,
    #[component(name = "warn")]
    Warn,
    #[component(name = "info")]
    Info,
    #[component(name = "debug")]
    Debug,
    #[component(name = "trace")]
    Trace,
}

/// `geometry`, of the interface `lower`.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Geometry {
    pub(super) size: u64,
    #[component(name = "minimum-block")]
    pub(super) minimum_block: u32,
    #[component(name = "preferred-block")]
    pub(super) preferred_block: u32,
    pub(super) capabilities: Capabilities,
}

/// `operation`, of the interface `routing`.
#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Operation {
    #[component(name = "read")]
    Read,
    #[component(name = "write")]
    Write,
    #[component(name = "zero")]
    Zero,
    #[component(name = "trim")]
    Trim,
    #[component(name = "cache")]
    Cache,
    #[component(name = "extents")]
    Extents,
}

/// `request`.
#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Request {
    pub(super) operation: Operation,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) fua: bool,
    #[component(name = "keep-allocated")]
    pub(super) keep_allocated: bool,
    pub(super) fast: bool,
}

/// `lock`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by lifting")]
pub(super) enum Lock {
    #[component(name = "none")]
    None,
    #[component(name = "shared")]
    Shared,
    #[component(name = "exclusive")]
    Exclusive,
}

/// `lock-rules`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Rules {
    pub(super) granule: u64,
    pub(super) read: Lock,
    pub(super) write: Lock,
    pub(super) zero: Lock,
    pub(super) trim: Lock,
    pub(super) cache: Lock,
}

/// `location`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Location {
    pub(super) device: u32,
    pub(super) offset: u64,
}

/// `command`, of the interface `control`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) summary: String,
    pub(super) parameters: Vec<Parameter>,
}

/// `listed-export`, of the interface `listing`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct ListedExport {
    pub(super) name: String,
    pub(super) description: String,
}

/// `listed`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Listed {
    pub(super) exports: Vec<ListedExport>,
    pub(super) default: Option<String>,
}

/// `place`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum Place {
    #[component(name = "lower")]
    Below(Location),
    #[component(name = "own")]
    Own,
    #[component(name = "hole")]
    Hole,
}

/// `segment`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Segment {
    pub(super) place: Place,
    pub(super) length: u64,
}

/// `copy`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct CopyBetween {
    pub(super) from: Location,
    pub(super) to: Location,
    pub(super) length: u64,
}

/// `plan`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Route {
    pub(super) copies: Vec<CopyBetween>,
    pub(super) segments: Vec<Segment>,
    pub(super) delay: u64,
    pub(super) done: Option<u64>,
    pub(super) hold: Option<u64>,
}

/// `results`.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Results {
    pub(super) copies: Vec<Option<ErrorCode>>,
    pub(super) segments: Vec<Option<ErrorCode>>,
}

/// `stable-route`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct StableRoute {
    pub(super) length: u64,
    pub(super) place: Place,
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}
