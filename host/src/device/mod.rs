//! Devices: what an export serves.
//!
//! Connections know devices through the trait [`Device`] alone. [`guest`] implements it with the
//! instances of a component, [`file`](mod@file) with a file or block device, `stacked` with a component
//! and the devices on which its disk stands; programs that use this library may implement it natively.
//! [`open`] opens the device of a component, whichever it is.
//!
//! A command takes one of two ways. Where the bytes are at hand, a [`Lease`] gives access to them;
//! all else is executed by [`Device::execute`]. Each connection has a [`Gate`], through which all
//! of its commands go, and a [`Port`], at which it waits while the device is replaced by another.

mod account;
mod answer;
mod beneath;
mod buffers;
mod control;
mod copy;
mod description;
pub mod file;
mod gate;
pub mod guest;
mod heat;
mod held_back;
mod lease;
mod located;
mod lower;
mod piped;
mod port;
mod renewable;
pub mod snapshot;
mod stacked;
#[cfg(test)]
mod tests;
mod text;
mod turnstile;
mod zero;

use std::future::Future;
use std::iter::successors;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::select_all;
use tokio::sync::Notify;
use tokio_util::sync::ReusableBoxFuture;

use crate::block::{Command, Error, ErrorCode, Geometry, Span};
pub use account::{Account, Entry, Latency, Meter, OperationTotals, Totals};
pub use answer::{Answer, Chunks, Content, Described, Part};
pub use beneath::{Divided, NotReplacedBeneath};
pub use buffers::{Buffer, Buffers, ProcessBuffers, SharedBuffers};
pub use control::{Control, ControlError};
pub use copy::{CopyError, copy, copy_stream};
pub use description::{MetaContext, describe};
pub use gate::{Gate, Pass};
use guest::GuestTime;
pub use heat::{HALF_LIFE, Heat, HeatMap, KEPT, REGIONS, Tap, Transferred};
pub use lease::{Lease, Leased, Mode};
pub use located::{Located, LowerLayer};
pub(crate) use lower::execute;
pub use lower::{Lower, LowerError, LowerSource, OpenDevice};
pub use piped::Piped;
pub use port::{Drained, Ended, InUse, Port, Ports, Replacing};
pub use stacked::{MAX_DEPTH, OwnDisk, ScratchDisk, list_exports, open};
pub use text::Text;
pub use turnstile::Turnstile;

/// A block device.
///
/// Commands come from several connections at once; which of them wait for which is for the device
/// to decide. An execution that was begun is driven to its end, whatever becomes of the client.
pub trait Device: Send + Sync + 'static {
    /// The size of the device and what it offers to clients.
    fn geometry(&self) -> &Geometry;

    /// The budget for the payloads of commands that are under way.
    fn buffers(&self) -> &Buffers;

    /// A lease of the first bytes of a span, if they are at hand and nobody else is using them. It
    /// may cover less than the span. A device that does not keep its content in memory has none.
    fn try_lease(&self, _span: Span, _mode: Mode) -> Option<Lease<'_>> {
        None
    }

    /// Prepares an execution that allocates memory for a span that cannot be leased yet, so that the
    /// payload of a write can be received directly into it. The content stays as it is. Returns `None`
    /// if the device does not keep its content in memory.
    fn make_room(self: Arc<Self>, _span: Span) -> Option<Execution> {
        None
    }

    /// Hints that several spans are needed soon, so that the processor can fetch their first bytes.
    fn prefetch(&self, _spans: &[Span]) {}

    /// Prepares the execution of a command, in the memory of `place` if there is one. Nothing
    /// happens before it is polled.
    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution;

    /// The number of bytes of a write that may be executed as a write of their own when only the
    /// first `here` bytes of its data have come. With 0, a write is executed as a whole.
    fn partial_write_len(&self, _span: Span, _here: u64) -> u64 {
        0
    }

    /// Returns what the processor time of a command is charged to, if a guest executes it whose share of the
    /// processors is limited. It is asked for each command that has no lease.
    fn limited_time(&self, _command: Command) -> Option<GuestTime> {
        None
    }

    /// Whether executions may be polled on the calling thread; if not, they are given to
    /// [`Self::spawn`]. `own_thread` says that the thread serves a single connection. Without it, the answer
    /// is always the same; if it is true, it is with `own_thread` as well.
    fn may_run_here(&self, _own_thread: bool) -> bool {
        true
    }

    /// Polls an execution on the calling thread. If it is pending, the flag tells whether that is
    /// because it computes for long.
    fn poll(&self, execution: Polled<'_>, cx: &mut Context<'_>) -> (Poll<Outcome>, bool) {
        (execution.poll(cx), false)
    }

    /// Spawns a task that drives an execution, on threads where it delays nobody else. The task is
    /// dropped if there are none.
    fn spawn(&self, task: Task, _computes: bool) {
        tokio::spawn(task);
    }

    /// Called when an execution has panicked. Returns the error for its client.
    fn panicked(&self) -> ErrorCode {
        ErrorCode::Io
    }

    /// Waits until the leases that were given before have ended. A device with leases implements this.
    fn end_leases(self: Arc<Self>) -> Task {
        Box::pin(std::future::ready(()))
    }

    /// Returns the components that take commands: that of the device, and those of lower devices that
    /// nobody else uses. The one nearest to the client comes first.
    fn controls(self: Arc<Self>) -> Vec<Control> {
        Vec::new()
    }

    /// Returns the first lower device, if the device is a filter on it and nobody else uses it.
    fn base(&self) -> Option<Arc<dyn Device>> {
        None
    }

    /// Returns this device on another base, which has the same content as [`Self::base`] and offers at least
    /// as much. The instances of its component go with it, and keep their state, so nobody may use the
    /// present device during this call or after it. The caller makes sure that no more than [`MAX_DEPTH`]
    /// devices stand on each other. Returns `None` if the device has no base.
    fn on_base(self: Arc<Self>, _base: Arc<dyn Device>) -> Option<Arc<dyn Device>> {
        None
    }

    /// The number of devices on the longest way down, with this one.
    fn depth(&self) -> usize {
        1
    }

    /// Whether [`Self::last_flush`] has anything to do.
    fn needs_last_flush(&self) -> bool {
        let capabilities = self.geometry().capabilities;
        capabilities.writable && capabilities.flush
    }

    /// Flushes the device before the process stops. The device logs a failure.
    fn last_flush(self: Arc<Self>) -> Execution;
}

/// A command to execute.
pub struct Order {
    /// The command. Its span lies within the device.
    pub command: Command,
    /// The data of a write, as long as its span; empty for other commands.
    pub payload: Bytes,
    /// Set when nobody waits for the answer any more.
    pub cancelled: Cancelled,
    /// The execution is first polled on a thread that serves a single connection, so calls that block for
    /// a short time delay nobody else there.
    pub alone: bool,
    /// The content of a read goes into a socket as it is, and the answer may be [`Answer::Piped`].
    pub to_socket: bool,
    /// Of a command for extents: a device whose bytes are on others answers with
    /// [`Answer::Located`], and does not ask those. Other devices answer as usual.
    pub locate: bool,
}

impl Order {
    /// Creates an order that is not known to run on a connection's own thread.
    pub fn new(command: Command, payload: Bytes, cancelled: Cancelled) -> Self {
        Self { command, payload, cancelled, alone: false, to_socket: false, locate: false }
    }
}

/// The result of a command.
pub type Outcome = Result<Answer, Error>;

/// A command under way.
pub type Execution = ReusableBoxFuture<'static, Outcome>;

/// An execution, pinned to be polled.
pub type Polled<'a> = Pin<&'a mut (dyn Future<Output = Outcome> + Send)>;

/// A future that drives an execution and delivers its result.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells the executions of a connection that its client has gone away. Work of many steps may end
/// early then, but what a client has sent to be written is written.
#[derive(Clone, Debug, Default)]
pub struct Cancelled(Arc<Cancellation>);

#[derive(Debug, Default)]
struct Cancellation {
    cancelled: AtomicBool,
    /// Notified when it is cancelled.
    notify: Notify,
    parent: Option<Cancelled>,
}

impl Cancelled {
    /// Creates another one that is cancelled with this one, or alone.
    pub(super) fn child(&self) -> Self {
        Self(Arc::new(Cancellation { parent: Some(self.clone()), ..Cancellation::default() }))
    }

    /// Says that the client has gone away.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// Waits until the client has gone away.
    pub(super) async fn cancelled(&self) {
        let own = async |one: &Self| {
            let mut notified = pin!(one.0.notify.notified());
            notified.as_mut().enable();
            if !one.0.cancelled.load(Ordering::Acquire) {
                notified.await;
            }
        };
        let all = successors(Some(self), |one| one.0.parent.as_ref());
        select_all(all.map(|one| Box::pin(own(one)))).await;
    }

    /// Whether the client has gone away.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
            || self.0.parent.as_ref().is_some_and(Self::is_cancelled)
    }
}

/// Makes an execution of a future, in the memory of `place`, which has ended, if there is one.
pub fn execution(
    future: impl Future<Output = Outcome> + Send + 'static,
    place: Option<Execution>,
) -> Execution {
    match place {
        Some(mut place) => {
            place.set(future);
            place
        }
        None => ReusableBoxFuture::new(future),
    }
}
