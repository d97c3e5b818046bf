//! The way of a connection's commands to its device.

use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::FutureExt;

use super::description::memory_of;
use super::guest::{Begun, GuestTime, MustWait};
use super::{
    Buffers, Cancelled, Device, Ended, Execution, Lease, MetaContext, Mode, Order, Outcome, Polled,
    Port, describe,
};
use crate::block::{Command, Span};

/// The way to a device for the commands of one connection.
///
/// It may only be used inside of the connection's [`Port`]: by the connection between
/// [`Self::poll_enter`] and [`Self::leave`], and by its tasks through a [`Pass`].
///
/// A command that panics fails, and the connection goes on. Only what is done with a lease from
/// [`Self::try_lease`] is the caller's own: a panic there ends the connection.
pub struct Gate {
    port: Arc<Port>,
    device: Arc<dyn Device>,
    /// The generation of the port when this device was taken from it.
    generation: u64,
    cancelled: Cancelled,
    /// [`Order::to_socket`] of the connection's reads.
    to_socket: bool,
}

/// A gate for a task. Its device is not replaced while this lives.
pub struct Pass(Arc<Gate>);

impl Deref for Pass {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        &self.0
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.port.leave();
    }
}

impl Gate {
    /// Creates the gate of a new connection. `to_socket` is [`Order::to_socket`].
    pub fn new(port: Arc<Port>, to_socket: bool) -> Arc<Self> {
        Self::of_port(port, Cancelled::default(), to_socket)
    }

    fn of_port(port: Arc<Port>, cancelled: Cancelled, to_socket: bool) -> Arc<Self> {
        // In this order: with a generation that is too old, the gate is only made once more.
        let generation = port.generation();
        Arc::new(Self { device: port.device(), generation, port, cancelled, to_socket })
    }

    /// Enters, once the device is not being replaced. If it may have been replaced since this gate was
    /// made, `gate` becomes a gate to the present device, and the result is true. The caller must call
    /// [`Self::leave`] afterwards.
    ///
    /// # Errors
    ///
    /// Returns an error if the export was removed.
    #[inline]
    pub fn poll_enter(gate: &mut Arc<Self>, cx: &mut Context<'_>) -> Poll<Result<bool, Ended>> {
        ready!(gate.port.poll_enter(cx))?;
        let renewed = gate.port.generation() != gate.generation;
        if renewed {
            *gate = Self::of_port(gate.port.clone(), gate.cancelled.clone(), gate.to_socket);
        }
        Poll::Ready(Ok(renewed))
    }

    /// Whether the export was removed, and the time to finish requests under way is over.
    pub fn has_ended(&self) -> bool {
        self.port.has_ended()
    }

    /// Registers a waker for when the device was replaced, so that the connection drops the old one. It
    /// is used once: register again after [`Self::poll_enter`] has returned true.
    pub fn register(&self, waker: &Waker) {
        self.port.register(waker);
    }

    /// Leaves. The device may be replaced from now on.
    #[inline]
    pub fn leave(&self) {
        self.port.leave();
    }

    /// Returns a gate for a task. The caller must be inside.
    pub fn pass(self: &Arc<Self>) -> Pass {
        self.port.enter_again();
        Pass(self.clone())
    }

    /// Says that the client has gone away.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// [`Device::buffers`].
    pub fn buffers(&self) -> &Buffers {
        self.device.buffers()
    }

    /// [`Device::partial_write_len`].
    pub fn partial_write_len(&self, span: Span, here: u64) -> u64 {
        self.device.partial_write_len(span, here)
    }

    /// [`Device::may_run_here`].
    pub fn may_run_here(&self, own_thread: bool) -> bool {
        self.device.may_run_here(own_thread)
    }

    /// [`Device::try_lease`].
    #[inline]
    pub fn try_lease(&self, span: Span, mode: Mode) -> Option<Lease<'_>> {
        self.catch(|| self.device.try_lease(span, mode))
    }

    /// [`Device::make_room`]. The execution must be used like one of [`Self::execute`].
    pub fn make_room(&self, span: Span) -> Option<Execution> {
        self.device.clone().make_room(span)
    }

    /// [`Device::prefetch`].
    #[inline]
    pub fn prefetch(&self, spans: &[Span]) {
        self.device.prefetch(spans);
    }

    /// A lease for reading all of a span.
    #[inline]
    pub fn try_read(&self, span: Span) -> Option<Lease<'_>> {
        self.try_lease(span, Mode::Read).filter(|lease| lease.length() == span.length)
    }

    /// Writes `data`, as long as `span`, if there is a lease for all of it. If not, nothing is written.
    #[inline]
    pub fn try_write(&self, span: Span, data: &[u8], fua: bool) -> bool {
        let written = self.catch(|| {
            let mut lease = self.device.try_lease(span, Mode::Write { fua })?;
            (lease.length() == span.length).then(|| lease.write(data))
        });
        written.is_some()
    }

    /// Writes the first bytes of a write, of whose data `here` has come, as far as there is a lease
    /// for them. Returns how many bytes were written.
    pub fn try_write_some(&self, offset: u64, here: &[u8], fua: bool) -> usize {
        let span = Span { offset, length: here.len() as u64 };
        let written = self.catch(|| {
            let mut lease = self.device.try_lease(span, Mode::Write { fua })?;
            let written = lease.length() as usize;
            lease.write(&here[..written]);
            Some(written)
        });
        written.unwrap_or(0)
    }

    /// Runs a closure that uses a lease. Returns `None` if it panics.
    #[inline]
    fn catch<T>(&self, run: impl FnOnce() -> Option<T>) -> Option<T> {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            self.device.panicked();
            None
        })
    }

    /// [`Device::execute`]. The execution must be polled by [`Self::poll`] or driven by
    /// [`Self::finish`], which catch panics. A wrapper that catches them would double its size, and
    /// executions are moved before they are polled. `alone` is [`Order::alone`].
    pub fn execute(
        &self,
        command: Command,
        payload: Bytes,
        place: Option<Execution>,
        alone: bool,
    ) -> Execution {
        let (cancelled, to_socket) = (self.cancelled.clone(), self.to_socket);
        let order = Order { command, payload, cancelled, alone, to_socket, locate: false };
        self.device.clone().execute(order, place)
    }

    /// Begins a command that has no lease, unless its guest has to wait for its share of the processors. What
    /// is returned has to be kept until the command has ended.
    ///
    /// # Errors
    ///
    /// Returns what to wait for.
    #[inline]
    pub(crate) fn try_begin(&self, command: Command) -> Result<Option<Begun>, GuestTime> {
        match self.device.limited_time(command) {
            None => Ok(None),
            Some(time) => time.try_begin().map_err(|MustWait| time),
        }
    }

    /// Returns true if a guest whose share of the processors is limited executes a command.
    pub(crate) fn is_limited(&self, command: Command) -> bool {
        self.device.limited_time(command).is_some()
    }

    /// Returns true if a command would have to wait that has no lease ([`Self::try_begin`]).
    pub(crate) fn must_wait(&self, command: Command) -> bool {
        self.try_begin(command).is_err()
    }

    /// Returns how much memory [`Self::describe`] takes for this many contexts, in bytes.
    pub fn description_memory(&self, contexts: usize, limit: usize) -> u64 {
        memory_of(&self.device, contexts, limit)
    }

    /// Describes a span in several metadata contexts ([`describe`]).
    pub async fn describe(
        &self,
        contexts: &[(u32, Arc<MetaContext>)],
        span: Span,
        limit: usize,
    ) -> Outcome {
        let all = describe(&self.device, contexts, span, limit, &self.cancelled);
        let ended = AssertUnwindSafe(all).catch_unwind().await;
        ended.unwrap_or_else(|_| Err(self.device.panicked().into()))
    }

    /// [`Device::poll`].
    pub fn poll(&self, execution: Polled<'_>, cx: &mut Context<'_>) -> (Poll<Outcome>, bool) {
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(execution, cx)));
        polled.unwrap_or_else(|_| (Poll::Ready(Err(self.device.panicked().into())), false))
    }

    /// Drives an execution to its end.
    pub async fn finish(&self, execution: Execution) -> Outcome {
        let ended = AssertUnwindSafe(execution).catch_unwind().await;
        ended.unwrap_or_else(|_| Err(self.device.panicked().into()))
    }

    /// [`Device::spawn`].
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static, computes: bool) {
        self.device.spawn(Box::pin(task), computes);
    }
}
