//! Devices: what an export serves.
//!
//! [`Device`] is all that a connection knows of one. [`guest`] implements it by the instances of a
//! component; a program that uses the library may implement it natively.
//!
//! There are two ways to execute a command. Where the bytes can be had without doing anything for them, a
//! [`Lease`] gives them; everything else is [`Device::execute`]. A connection has a device through its
//! [`Gate`].

mod answer;
mod buffers;
mod gate;
pub mod guest;
mod lease;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio_util::sync::ReusableBoxFuture;

use crate::block::{Command, ErrorCode, Geometry, Span};
pub use answer::{Answer, Content, Part};
pub use buffers::{Buffer, Buffers, ProcessBuffers};
pub use gate::Gate;
pub use lease::{Lease, Leased, Mode};

/// A block device.
///
/// Commands come from several connections at once, and a device decides by itself which of them wait
/// for which. A command that was given is driven to its end, whatever becomes of the client.
pub trait Device: Send + Sync + 'static {
    /// What clients are told.
    fn geometry(&self) -> &Geometry;

    /// The memory for requests to this device that are not executed at once.
    fn buffers(&self) -> &Buffers;

    /// The beginning of a span, if it can be read or written right now without executing anything. It may
    /// be shorter than the span.
    fn try_lease(&self, span: Span, mode: Mode) -> Option<Lease>;

    /// A span is needed soon: has the processor fetch the beginning of what there is a lease for. To say
    /// so of several spans, one after the other, is what helps.
    fn prefetch(&self, _span: Span) {}

    /// Begins to execute a command, in `place` if there is one. Nothing happens before it is polled.
    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution;

    /// How much of a write may be executed as a write of its own when only so many bytes of its data are
    /// `here`. Perhaps nothing: then a write is given as one.
    fn splits_write(&self, _span: Span, _here: u64) -> u64 {
        0
    }

    /// Whether an execution may be polled on this thread, which serves one connection alone or others
    /// as well. If not, [`Self::spawn`] has threads for it.
    fn may_run_here(&self, _own_thread: bool) -> bool {
        true
    }

    /// Polls an execution on this thread. If it is not ready, tells whether it is one that computes at
    /// length.
    fn poll(&self, execution: Polled<'_>, cx: &mut Context<'_>) -> (Poll<Outcome>, bool) {
        (execution.poll(cx), false)
    }

    /// Makes what becomes of an execution a task, on threads where it keeps nobody else waiting. It is
    /// dropped when there are none.
    fn spawn(&self, task: Task, _computes: bool) {
        tokio::spawn(task);
    }

    /// An execution has panicked. Returns what its client is told.
    fn panicked(&self) -> ErrorCode {
        ErrorCode::Io
    }

    /// Whether [`Self::last_flush`] has anything to do.
    fn needs_last_flush(&self) -> bool {
        let capabilities = self.geometry().capabilities;
        capabilities.writable && capabilities.flush
    }

    /// Makes durable what was written, before the process stops. A failure is logged by the device.
    fn last_flush(self: Arc<Self>) -> Execution;
}

/// A command to execute.
pub struct Order {
    /// It lies within the device.
    pub command: Command,
    /// What a write writes, of the span's length; other commands have none.
    pub payload: Bytes,
    /// Whether anybody still waits for the answer.
    pub cancelled: Cancelled,
}

/// How a command ends.
pub type Outcome = Result<Answer, ErrorCode>;

/// A command that is being executed.
pub type Execution = ReusableBoxFuture<'static, Outcome>;

/// An execution that is polled.
pub type Polled<'a> = Pin<&'a mut (dyn Future<Output = Outcome> + Send)>;

/// What is to be done for a request, without its answer.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether the client has gone away. Work that comes in many steps ends early then, but for what was
/// written.
#[derive(Clone, Debug, Default)]
pub struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// Nobody waits any more.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An execution, in the place of another one that has ended if there is one.
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
