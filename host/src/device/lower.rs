//! Lower devices: those on which another device stands.
//!
//! The module does not know who stands on them, or why.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::renewable::{Renewable, cannot_be_reopened};
use super::zero::{MAX_WRITTEN, ZEROES};
use super::{Answer, Cancelled, Device, Order, Outcome, Part};
use crate::block::{Command, Error, ErrorCode, Geometry, Span};
use crate::component::{Client, Executing, OwnedChunk, Reply};
use crate::parameters::Link;

/// A lower device.
#[derive(Clone)]
pub struct Lower {
    /// The device.
    pub device: Arc<dyn Device>,
    /// Keeps the device from being removed or replaced while another stands on it. `None` if it has no
    /// other users: then it is flushed for the last time with the device that stands on it.
    pub link: Option<Arc<dyn Send + Sync>>,
}

/// Where a lower device comes from.
pub trait LowerSource: fmt::Debug + Send + Sync {
    /// Opens the device, or finds it open. With a client, it is for that one alone.
    fn open<'a>(&'a self, client: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>>;
}

/// A lower device that is open already.
pub enum OpenDevice {
    /// One that has no other users.
    Own(Arc<dyn Device>),
    /// One that others use as well, and flush.
    Shared(Arc<dyn Device>),
}

impl LowerSource for OpenDevice {
    fn open<'a>(&'a self, _: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        let (device, link): (_, Option<Arc<dyn Send + Sync>>) = match self {
            Self::Own(device) => (device, None),
            Self::Shared(device) => (device, Some(Arc::new(()))),
        };
        let lower = Lower { device: device.clone(), link };
        Box::pin(async { Ok(lower) })
    }
}

impl fmt::Debug for OpenDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "an open device",
            Self::Shared(_) => "an open device that others use as well",
        })
    }
}

/// Why a lower device could not be opened.
#[derive(Debug)]
pub struct LowerError {
    /// The reason, for people.
    pub message: String,
    /// True if a retry may succeed.
    pub may_pass: bool,
}

/// The lower devices of a device, in the order of their numbers.
pub(super) struct Lowers {
    list: Vec<Lower>,
    /// Their properties, as they are for the device above.
    geometries: Vec<Geometry>,
    /// Those whose executions must not be polled on any thread, mostly none. They are asked for each
    /// request.
    particular: Vec<Arc<dyn Device>>,
    /// Those that can be opened anew.
    renewables: Vec<Option<Arc<Renewable>>>,
}

impl Lowers {
    /// Creates a list of devices, with how each is used.
    pub(super) fn new(list: Vec<(Lower, Link)>) -> Self {
        let geometries = list.iter().map(|(lower, link)| {
            let geometry = lower.device.geometry();
            if link.writes { geometry.clone() } else { geometry.read_only() }
        });
        let geometries = geometries.collect();
        let renewables = vec![None; list.len()];
        let list: Vec<Lower> = list.into_iter().map(|(lower, _)| lower).collect();
        let particular = particular(&list);
        Self { list, geometries, particular, renewables }
    }

    /// Returns those whose executions must not be polled on any thread.
    pub(super) fn particular(&self) -> &[Arc<dyn Device>] {
        &self.particular
    }

    /// Makes the device of a number one that can be opened anew from its source, unless it has other
    /// users.
    pub(super) fn make_renewable(
        &mut self,
        number: usize,
        source: Arc<dyn LowerSource>,
        client: Option<&Client>,
        export_name: &str,
    ) {
        let lower = &mut self.list[number];
        if lower.link.is_none() {
            let first = lower.device.clone();
            let renewable = Renewable::new(source, client.cloned(), export_name, first);
            lower.device = renewable.clone();
            self.renewables[number] = Some(renewable);
            self.particular = particular(&self.list);
        }
    }

    /// Opens a device anew.
    pub(super) fn reopen(&self, number: usize) -> Executing<'static, Result<(), Error>> {
        match self.renewables.get(number).cloned().flatten() {
            Some(renewable) => Box::pin(renewable.reopen()),
            None => Box::pin(async { Err(cannot_be_reopened()) }),
        }
    }

    /// Returns the same devices, but for the first one, which is used as the other was. It cannot be opened
    /// anew.
    pub(super) fn on_base(&self, base: Arc<dyn Device>) -> Self {
        let mut list: Vec<Lower> = self.list.clone();
        if let Some(first) = list.first_mut() {
            first.device = base;
        }
        let mut renewables = self.renewables.clone();
        if let Some(first) = renewables.first_mut() {
            *first = None;
        }
        let particular = particular(&list);
        Self { list, geometries: self.geometries.clone(), particular, renewables }
    }

    pub(super) fn list(&self) -> &[Lower] {
        &self.list
    }

    /// Returns those that the device above writes to.
    pub(super) fn writable(&self) -> impl Iterator<Item = &Arc<dyn Device>> {
        let all = self.list.iter().zip(&self.geometries);
        let writable = all.filter(|(_, geometry)| geometry.capabilities.writable);
        writable.map(|(lower, _)| &lower.device)
    }

    /// Returns a device. Those of routes exist, because routes are checked.
    pub(super) fn device(&self, number: usize) -> &Arc<dyn Device> {
        &self.list[number].device
    }

    /// Returns the depth of the deepest device.
    pub(super) fn depth(&self) -> usize {
        self.list.iter().map(|lower| lower.device.depth()).max().unwrap_or(0)
    }

    /// Returns the properties of the devices, as they are for the device above.
    pub(super) fn geometries(&self) -> &[Geometry] {
        &self.geometries
    }

    /// Executes a command for a guest that waits for it.
    pub(super) fn execute(
        &self,
        number: usize,
        command: Command,
        payload: Bytes,
    ) -> Executing<'static, Result<Reply, Error>> {
        let device = self.device(number).clone();
        Box::pin(async move {
            let order = Order::new(command, payload, Cancelled::default());
            Ok(match execute(device, order).await? {
                Answer::Done => Reply::Done,
                Answer::Read(content) => {
                    Reply::Read(content.into_parts().into_iter().map(OwnedChunk::from).collect())
                }
                Answer::Piped(_) => unreachable!("it does not go to a socket"),
                Answer::Located(_) | Answer::Described(_) => unreachable!("nothing asked for it"),
                Answer::Extents(extents) => Reply::Extents(extents.as_slice().to_vec()),
            })
        })
    }
}

fn particular(list: &[Lower]) -> Vec<Arc<dyn Device>> {
    let devices = list.iter().map(|lower| lower.device.clone());
    devices.filter(|device| !device.may_run_here(false)).collect()
}

impl From<Part> for OwnedChunk {
    fn from(part: Part) -> Self {
        match part {
            Part::Data(bytes) => Self::Data(bytes),
            Part::Shared(bytes) => Self::Data(bytes.into()),
            Part::Hole(length) => Self::Hole(length),
        }
    }
}

/// Executes a command that the device supports, or which needs no support: a trim or a cache of a
/// device without it does nothing. The future must be driven to its end: if it is dropped, the device
/// finishes what is under way, but a command that consists of several is not completed.
pub(crate) async fn execute(device: Arc<dyn Device>, order: Order) -> Outcome {
    let offers = device.geometry().capabilities;
    let possible = match order.command {
        Command::Trim { .. } => offers.trim,
        Command::Cache { .. } => offers.cache,
        Command::Flush => offers.flush,
        _ => true,
    };
    if !possible {
        return Ok(Answer::Done);
    }
    if let Command::Zero { span, fua, fast, .. } = order.command {
        if fast && !offers.fast_zero {
            return Err(ErrorCode::NotSup.into());
        }
        if !offers.zero {
            return Box::pin(write_zeroes(device, span, fua, fast, order)).await;
        }
    }
    let (command, fua) = without_fua(order.command, offers.fua);
    let cancelled = order.cancelled.clone();
    let outcome = run(device.clone(), Order { command, ..order }).await?;
    if fua {
        run(device, Order::new(Command::Flush, Bytes::new(), cancelled)).await?;
    }
    Ok(outcome)
}

/// Zeroes by writing. Stops early if the client has gone away.
pub(super) async fn write_zeroes(
    device: Arc<dyn Device>,
    span: Span,
    fua: bool,
    fast: bool,
    order: Order,
) -> Outcome {
    if fast {
        return Err(ErrorCode::NotSup.into());
    }
    if span.length > MAX_WRITTEN {
        return Err(ErrorCode::Overflow.into());
    }
    let mut left = span;
    while left.length > 0 && !order.cancelled.is_cancelled() {
        let length = left.length.min(ZEROES.len() as u64);
        let command = Command::Write { span: Span { length, ..left }, fua };
        let payload = Bytes::from_static(&ZEROES[..length as usize]);
        let write = Order::new(command, payload, order.cancelled.clone());
        execute(device.clone(), write).await?;
        left = left.after(length);
    }
    Ok(Answer::Done)
}

/// Returns a command without FUA, and whether it had it, unless the device supports it.
fn without_fua(mut command: Command, supported: bool) -> (Command, bool) {
    let fua = match &mut command {
        Command::Write { fua, .. } | Command::Zero { fua, .. } | Command::Trim { fua, .. } => fua,
        _ => return (command, false),
    };
    let had = *fua && !supported;
    *fua &= supported;
    (command, had)
}

/// Executes a command: at once where possible, otherwise in a task of the device.
pub(super) async fn run(device: Arc<dyn Device>, order: Order) -> Outcome {
    let alone = order.alone;
    let mut execution = device.clone().execute(order, None);
    let mut computes = false;
    if device.may_run_here(alone) {
        let polled = poll_fn(|cx| {
            let pinned = Pin::new(&mut execution);
            let polled = catch_unwind(AssertUnwindSafe(|| device.poll(pinned, cx)));
            let failed = |_| (Poll::Ready(Err(device.panicked().into())), false);
            Poll::Ready(polled.unwrap_or_else(failed))
        });
        match polled.await {
            (Poll::Ready(outcome), _) => return outcome,
            (Poll::Pending, long) => computes = long,
        }
    }
    let (sender, receiver) = oneshot::channel();
    let owner = device.clone();
    let task = async move {
        let ended = AssertUnwindSafe(execution).catch_unwind().await;
        // Nobody waits for it if the device above failed.
        let _ = sender.send(ended.unwrap_or_else(|_| Err(owner.panicked().into())));
    };
    device.spawn(Box::pin(task), computes);
    // The task was dropped because there are no threads for it.
    receiver.await.unwrap_or_else(|_| Err(ErrorCode::NoMem.into()))
}

/// Moves a command to another offset, and cuts off what is behind `length` bytes.
pub(super) fn moved(command: Command, to: u64, length: u64) -> Command {
    let mut command = command;
    match &mut command {
        Command::Read { span }
        | Command::Write { span, .. }
        | Command::Zero { span, .. }
        | Command::Trim { span, .. }
        | Command::Cache { span }
        | Command::Extents { span, .. } => {
            span.offset = to;
            span.length = length;
        }
        Command::Flush => {}
    }
    command
}
