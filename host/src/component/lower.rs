//! The interface `lower`, through which a component uses the devices on which its disk stands.
//!
//! This module does not know what those devices are: [`Below`] stands for them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, WasmList};

use super::bindings::{self, Capabilities, OwnedChunk};
use super::contract::{LOWER_LIMIT, MAX_EXTENTS, MAX_LOWER_TRANSFER};
use super::functions::Answer;
use super::state::State;
use super::{CONTRACT_VERSION, LOWER, Location, limits};
use crate::block::{Command, Error, ErrorCode, Extent, Geometry, Operation, Span};

/// The devices on which a disk stands. They have the numbers from 0 on.
pub trait Below: Send + Sync {
    /// Returns the number of devices.
    fn count(&self) -> usize;

    /// Returns the properties of a device, or `None` if there is none of this number.
    fn geometry(&self, device: usize) -> Option<&Geometry>;

    /// Executes a command on a device. The future must be driven to its end.
    fn execute(
        &self,
        device: usize,
        command: Command,
        payload: Bytes,
    ) -> Executing<'static, Result<Reply, Error>>;

    /// Withdraws all stable routes of the disk, and waits until no request relies on them.
    fn withdraw_routes(self: Arc<Self>) -> Executing<'static, ()>;

    /// Sets the stable route of a span for some operations: to a device and an offset there, or none.
    ///
    /// # Errors
    ///
    /// Returns a message if that breaks the contract.
    fn set_route(
        &self,
        operations: Operations,
        span: Span,
        place: Option<Location>,
    ) -> Result<(), String>;

    /// Opens a device anew, within [`LOWER_LIMIT`]. It goes on if the future is dropped.
    fn reopen(&self, device: usize) -> Executing<'static, Result<(), Error>>;

    /// Holds a request under a number, until [`Self::release`].
    fn hold(&self, number: u64) -> Hold;

    /// Releases all requests that are held under a number.
    fn release(&self, number: u64);
}

/// The operations of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(bindings::Operations);

impl Operations {
    /// Returns true if an operation is among these.
    pub fn contains(self, operation: Operation) -> bool {
        let flag = match operation {
            Operation::Read => bindings::Operations::READ,
            Operation::Write => bindings::Operations::WRITE,
            Operation::Zero => bindings::Operations::ZERO,
            Operation::Trim => bindings::Operations::TRIM,
            Operation::Cache => bindings::Operations::CACHE,
            Operation::Extents => bindings::Operations::EXTENTS,
            Operation::Flush => return false,
        };
        self.0 & flag == flag
    }
}

impl From<bindings::Operations> for Operations {
    fn from(operations: bindings::Operations) -> Self {
        Self(operations)
    }
}

/// A request that is held. It is completed when the request is released.
pub type Hold = oneshot::Receiver<()>;

/// A future of [`Below`].
pub type Executing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer of a lower device.
#[derive(Debug)]
pub enum Reply {
    /// To commands without a result.
    Done,
    /// The content of a read.
    Read(Vec<OwnedChunk>),
    /// The extents.
    Extents(Vec<Extent>),
}

/// No lower devices, for disks that stand on no others.
pub(super) struct Nothing;

impl Below for Nothing {
    fn count(&self) -> usize {
        0
    }

    fn geometry(&self, _: usize) -> Option<&Geometry> {
        None
    }

    fn execute(&self, _: usize, _: Command, _: Bytes) -> Executing<'static, Result<Reply, Error>> {
        Box::pin(async { Err(ErrorCode::Inval.into()) })
    }

    fn withdraw_routes(self: Arc<Self>) -> Executing<'static, ()> {
        Box::pin(async {})
    }

    fn set_route(&self, _: Operations, _: Span, _: Option<Location>) -> Result<(), String> {
        Ok(())
    }

    fn reopen(&self, _: usize) -> Executing<'static, Result<(), Error>> {
        Box::pin(async { Err(ErrorCode::Inval.into()) })
    }

    fn hold(&self, _: u64) -> Hold {
        oneshot::channel().1
    }

    fn release(&self, _: u64) {}
}

/// Provides the interface to components.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut lower = linker.instance(&format!("{LOWER}@{CONTRACT_VERSION}"))?;
    lower.func_wrap("describe", |store: StoreContextMut<'_, State>, (device,): (u32,)| {
        let below = &**store.data().below();
        let geometry = below.geometry(device as usize).ok_or_else(|| unknown(device, below))?;
        Ok((describe(geometry),))
    })?;
    add_read(&mut lower)?;
    add_write(&mut lower)?;
    let zero = |(device, offset, length, options): (u32, u64, u64, bindings::ZeroOptions)| {
        let has = |option| options & option == option;
        let span = Span { offset, length };
        let command = Command::Zero {
            span,
            fua: has(bindings::ZeroOptions::FUA),
            keep_allocated: has(bindings::ZeroOptions::KEEP_ALLOCATED),
            fast: has(bindings::ZeroOptions::FAST),
        };
        (device, command)
    };
    add_command(&mut lower, "zero", zero)?;
    add_command(&mut lower, "trim", |(device, offset, length, fua): (u32, u64, u64, bool)| {
        (device, Command::Trim { span: Span { offset, length }, fua })
    })?;
    add_command(&mut lower, "flush", |(device,): (u32,)| (device, Command::Flush))?;
    add_command(&mut lower, "cache", |(device, offset, length): (u32, u64, u64)| {
        (device, Command::Cache { span: Span { offset, length } })
    })?;
    add_extents(&mut lower)?;
    type Route = (bindings::Operations, u64, u64, Option<u32>, u64);
    lower.func_wrap(
        "set-route",
        |store: StoreContextMut<'_, State>, (operations, offset, length, device, to): Route| {
            let place = device.map(|device| Location { device: device as usize, offset: to });
            let below = store.data().below();
            let set = below.set_route(operations.into(), Span { offset, length }, place);
            set.map_err(|message| {
                wasmtime::format_err!("set-route of {length} bytes at {offset}: {message}")
            })
        },
    )?;
    add_reopen(&mut lower)?;
    lower.func_wrap("release", |store: StoreContextMut<'_, State>, (number,): (u64,)| {
        store.data().below().release(number);
        Ok(())
    })?;
    lower.func_wrap_async("withdraw-routes", |store: StoreContextMut<'_, State>, (): ()| {
        let withdrawing = store.data().below().clone().withdraw_routes();
        Box::new(async move {
            // However long it takes: there is no other answer than that nobody relies on a route.
            uncounted(withdrawing).await;
            Ok(())
        })
    })
}

/// Adds a function whose result is nothing but success or an error.
fn add_command<P>(
    lower: &mut LinkerInstance<'_, State>,
    name: &str,
    command: impl Fn(P) -> (u32, Command) + Send + Sync + 'static + Copy,
) -> wasmtime::Result<()>
where
    P: wasmtime::component::ComponentNamedList + wasmtime::component::Lift + Send + 'static,
{
    lower.func_wrap_async(name, move |store: StoreContextMut<'_, State>, parameters: P| {
        let (device, command) = command(parameters);
        Box::new(async move { Ok((execute(&store, device, command).await?.map(drop),)) })
    })
}

fn add_read(lower: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    type Parameters = (u32, u64, u32);
    lower.func_wrap_async(
        "read",
        |store: StoreContextMut<'_, State>, (device, offset, length): Parameters| {
            Box::new(async move {
                let span = Span { offset, length: length.into() };
                let prepared = match prepare(&store, device, Command::Read { span })? {
                    Ok(prepared) => prepared,
                    Err(error) => return Ok((Err(error.into()),)),
                };
                // The data is in the host's memory until it has been copied into the guest's.
                let Some(_held) = store.data().share().hold(span.length) else {
                    return Ok((Err(Error::from(ErrorCode::NoMem).into()),));
                };
                let chunks = |reply| match reply {
                    Reply::Read(chunks) => chunks,
                    Reply::Done | Reply::Extents(_) => Vec::new(),
                };
                Ok((prepared.execute(Bytes::new()).await.map(chunks),))
            })
        },
    )
}

fn add_write(lower: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    type Parameters = (u32, u64, WasmList<u8>, bool);
    lower.func_wrap_async(
        "write",
        |store: StoreContextMut<'_, State>, (device, offset, data, fua): Parameters| {
            Box::new(async move {
                let span = Span { offset, length: data.len() as u64 };
                let prepared = match prepare(&store, device, Command::Write { span, fua })? {
                    Ok(prepared) => prepared,
                    Err(error) => return Ok((Err(error.into()),)),
                };
                let Some(_held) = store.data().share().hold(span.length) else {
                    return Ok((Err(Error::from(ErrorCode::NoMem).into()),));
                };
                let payload = Bytes::copy_from_slice(data.as_le_slice(&store));
                Ok((prepared.execute(payload).await.map(drop),))
            })
        },
    )
}

fn add_extents(lower: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    type Parameters = (u32, u64, u64);
    lower.func_wrap_async(
        "extents",
        |store: StoreContextMut<'_, State>, (device, offset, length): Parameters| {
            Box::new(async move {
                let span = Span { offset, length };
                let command = Command::Extents { span, limit: MAX_EXTENTS };
                let executed = execute(&store, device, command).await?;
                let extents = |reply| match reply {
                    Reply::Extents(extents) => {
                        extents.into_iter().map(bindings::Extent::from).collect()
                    }
                    Reply::Done | Reply::Read(_) => Vec::new(),
                };
                Ok((executed.map(extents),))
            })
        },
    )
}

fn add_reopen(lower: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    lower.func_wrap_async("reopen", |store: StoreContextMut<'_, State>, (device,): (u32,)| {
        let below = store.data().below().clone();
        Box::new(async move {
            let number = device as usize;
            below.geometry(number).ok_or_else(|| unknown(device, &*below))?;
            let reopened = uncounted(below.reopen(number)).await;
            Ok((reopened.map_err(bindings::Error::from),))
        })
    })
}

fn unknown(device: u32, below: &dyn Below) -> wasmtime::Error {
    let devices = below.count();
    wasmtime::format_err!(
        "it used the lower device {device}, which was not among its arguments; it has {devices}"
    )
}

/// A command that the lower device may be asked to execute.
struct Prepared {
    below: Arc<dyn Below>,
    device: usize,
    command: Command,
}

impl Prepared {
    async fn execute(self, payload: Bytes) -> Answer<Reply> {
        let executing = self.below.execute(self.device, self.command, payload);
        let late = || Error {
            code: ErrorCode::Io,
            message: Some(format!("the lower device did not answer within {LOWER_LIMIT:?}").into()),
        };
        waiting(executing).await.unwrap_or_else(|| Err(late())).map_err(bindings::Error::from)
    }
}

/// Checks a command. A number that is not one of the component's own is an error that traps.
fn prepare(
    store: &StoreContextMut<'_, State>,
    device: u32,
    command: Command,
) -> wasmtime::Result<Result<Prepared, Error>> {
    let below = store.data().below().clone();
    let number = device as usize;
    let geometry = below.geometry(number).ok_or_else(|| unknown(device, &*below))?;
    let checked = check(&command, geometry);
    Ok(checked.map(|()| Prepared { below, device: number, command }))
}

/// Checks a command without a payload, and executes it.
async fn execute(
    store: &StoreContextMut<'_, State>,
    device: u32,
    command: Command,
) -> wasmtime::Result<Answer<Reply>> {
    Ok(match prepare(store, device, command)? {
        Ok(prepared) => prepared.execute(Bytes::new()).await,
        Err(error) => Err(error.into()),
    })
}

fn check(command: &Command, geometry: &Geometry) -> Result<(), Error> {
    let invalid = |text: String| Error { code: ErrorCode::Inval, message: Some(text.into()) };
    let Span { offset, length } = command.span();
    if *command == Command::Flush {
        return Ok(());
    }
    if length == 0 || offset.checked_add(length).is_none_or(|end| end > geometry.size) {
        let size = geometry.size;
        return Err(invalid(format!(
            "{length} bytes at {offset} are not within the lower device, which has {size} bytes"
        )));
    }
    match command {
        Command::Read { .. } | Command::Write { .. } if length > MAX_LOWER_TRANSFER => {
            return Err(invalid(format!(
                "{length} bytes at once; at most {MAX_LOWER_TRANSFER} are possible"
            )));
        }
        _ => {}
    }
    match command {
        Command::Write { .. } | Command::Zero { .. } | Command::Trim { .. }
            if !geometry.capabilities.writable =>
        {
            Err(ErrorCode::Perm.into())
        }
        _ => Ok(()),
    }
}

/// Drives a future for a guest that waits for it. Returns `None` after [`LOWER_LIMIT`]; the future is
/// driven to its end all the same.
async fn waiting<T: Send + 'static>(mut future: Executing<'static, T>) -> Option<T> {
    let first = poll_fn(|cx| Poll::Ready(limits::poll_below(future.as_mut(), cx))).await;
    if let Poll::Ready(ready) = first {
        return Some(ready);
    }
    let waited = uncounted(tokio::time::timeout(LOWER_LIMIT, &mut future)).await;
    if waited.is_err() {
        // It may be several commands, of which only one is under way.
        tokio::spawn(future);
    }
    waited.ok()
}

/// Drives a future for a guest that waits for it, for which its deadline does not count.
async fn uncounted<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| limits::poll_below(future.as_mut(), cx)).await
}

fn describe(geometry: &Geometry) -> bindings::Geometry {
    let offers = &geometry.capabilities;
    let flags = [
        (true, Capabilities::FLUSH),
        (true, Capabilities::FUA),
        (true, Capabilities::EXTENTS),
        (offers.writable, Capabilities::WRITABLE),
        (offers.trim, Capabilities::TRIM),
        (offers.zero, Capabilities::ZERO),
        (offers.fast_zero, Capabilities::FAST_ZERO),
        (offers.cache, Capabilities::CACHE),
        (offers.multi_conn, Capabilities::MULTI_CONN),
        (offers.rotational, Capabilities::ROTATIONAL),
    ];
    let mut capabilities = Capabilities::default();
    for (_, flag) in flags.into_iter().filter(|(set, _)| *set) {
        capabilities |= flag;
    }
    bindings::Geometry {
        size: geometry.size,
        minimum_block: geometry.block_sizes.minimum,
        preferred_block: geometry.block_sizes.preferred,
        capabilities,
    }
}

impl From<Error> for bindings::Error {
    fn from(error: Error) -> Self {
        Self { code: error.code.into(), message: error.message.map(String::from) }
    }
}

impl From<Extent> for bindings::Extent {
    fn from(extent: Extent) -> Self {
        let mut status = bindings::Status::default();
        if extent.status.hole {
            status |= bindings::Status::HOLE;
        }
        if extent.status.zero {
            status |= bindings::Status::ZERO;
        }
        Self { length: extent.length, status }
    }
}
