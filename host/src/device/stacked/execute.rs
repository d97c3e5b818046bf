//! Executing commands: the implementation of [`Device`].

use std::sync::Arc;
use std::task::{Context, Poll};

use super::StackedDevice;
use crate::block::{Command, ErrorCode, Geometry, Operation, Span};
use crate::component::{BASE, Location, Place};
use crate::device::guest::GuestTime;
use crate::device::lower::moved;
use crate::device::{
    Answer, Buffers, Control, Device, Execution, Lease, Mode, Order, Outcome, Polled, Task,
    execution,
};

/// The most spans that are passed on for prefetching.
const PREFETCHED: usize = 8;

impl Device for StackedDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn buffers(&self) -> &Buffers {
        self.guest.buffers()
    }

    /// A lease of a lower device, through a stable route (rule 4).
    #[inline]
    fn try_lease(&self, span: Span, mode: Mode) -> Option<Lease<'_>> {
        let operation = match mode {
            Mode::Read => Operation::Read,
            Mode::Write { .. } => Operation::Write,
        };
        if self.guest.is_dead() {
            return None;
        }
        if self.rules.is_none() {
            return self.guest.try_lease(span, mode);
        }
        if let Mode::Write { fua: true } = mode
            && self.guest.flushes()
        {
            return None;
        }
        self.routes().with(operation, span, |place, length| match place {
            Place::Lower(Location { device, offset }) => {
                self.lowers().device(device).try_lease(Span { offset, length }, mode)
            }
            Place::Own => self.guest.try_lease(Span { length, ..span }, mode),
            Place::Hole => None,
        })
    }

    fn make_room(self: Arc<Self>, span: Span) -> Option<Execution> {
        if self.guest.is_dead() {
            return None;
        }
        let (device, span) = self.passed_span(Operation::Write, span)?;
        device.clone().make_room(span)
    }

    fn prefetch(&self, spans: &[Span]) {
        for spans in spans.chunks(PREFETCHED) {
            let mut moved = [Span { offset: 0, length: 0 }; PREFETCHED];
            let mut count = 0;
            let mut target = None;
            for &span in spans {
                let found =
                    self.routes().with(Operation::Read, span, |place, length| match place {
                        Place::Lower(Location { device, offset }) => {
                            Some((device, Span { offset, length }))
                        }
                        _ => None,
                    });
                if let Some((device, span)) = found
                    && *target.get_or_insert(device) == device
                {
                    moved[count] = span;
                    count += 1;
                }
            }
            if let Some(device) = target {
                self.lowers().device(device).prefetch(&moved[..count]);
            }
        }
    }

    /// A whole command with a stable route is the lower device's from the beginning, unless the route may
    /// be withdrawn.
    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        if !self.routes().is_withdrawable()
            && let Some((device, order)) = self.passed(&order)
        {
            return device.execute(order, place);
        }
        execution(async move { self.execute_order(order).await }, place)
    }

    fn partial_write_len(&self, span: Span, here: u64) -> u64 {
        if self.rules.is_none() {
            return self.guest.partial_write_len(span, here);
        }
        let passed = self.passed_span(Operation::Write, span);
        passed.map_or(0, |(device, span)| device.partial_write_len(span, here))
    }

    /// A command with a stable route is charged to the lower device, whichever that is.
    fn limited_time(&self, command: Command) -> Option<GuestTime> {
        let own = self.guest.limited_time(command)?;
        let (operation, span) = (command.operation(), command.span());
        match self.passed_span(operation, span).filter(|_| self.rules.is_some()) {
            Some((device, span)) if self.passes(command, device.geometry()) => {
                device.limited_time(moved(command, span.offset, span.length))
            }
            _ => Some(own),
        }
    }

    fn may_run_here(&self, own_thread: bool) -> bool {
        self.guest.may_run_here(own_thread)
            && self.lowers().particular().iter().all(|device| device.may_run_here(own_thread))
    }

    fn poll(&self, execution: Polled<'_>, cx: &mut Context<'_>) -> (Poll<Outcome>, bool) {
        self.scheduler().poll(execution, cx)
    }

    fn spawn(&self, task: Task, computes: bool) {
        self.scheduler().spawn(task, computes);
    }

    fn panicked(&self) -> ErrorCode {
        self.guest.panicked()
    }

    fn end_leases(self: Arc<Self>) -> Task {
        Box::pin(async move {
            for lower in self.lowers().list() {
                lower.device.clone().end_leases().await;
            }
            self.guest.clone().end_leases().await;
        })
    }

    fn controls(self: Arc<Self>) -> Vec<Control> {
        let own = self.lowers().list().iter().filter(|lower| lower.link.is_none());
        let beneath = own.flat_map(|lower| lower.device.clone().controls());
        self.guest.clone().controls().into_iter().chain(beneath).collect()
    }

    fn base(&self) -> Option<Arc<dyn Device>> {
        let first = self.lowers().list().first().filter(|lower| lower.link.is_none())?;
        let is_base = self.parameters.first().is_some_and(|name| name == BASE);
        is_base.then(|| first.device.clone())
    }

    fn on_base(self: Arc<Self>, base: Arc<dyn Device>) -> Option<Arc<dyn Device>> {
        self.base()?;
        let lowers = Arc::new(self.lowers().on_base(base));
        self.beneath.set_lowers(&lowers);
        let (guest, beneath) = (self.guest.clone(), self.beneath.clone());
        Some(Arc::new(Self::new(guest, lowers, beneath, self.parameters.clone())))
    }

    fn depth(&self) -> usize {
        1 + self.lowers().depth()
    }

    fn needs_last_flush(&self) -> bool {
        let lowers = self.lowers().list();
        self.guest.needs_last_flush()
            || lowers.iter().any(|one| one.link.is_none() && one.device.needs_last_flush())
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        let flushed = async move {
            let own = self.guest.clone().last_flush().await;
            let mut flushed = own.map(drop);
            // Even if the component failed: what is beneath it is intact.
            for lower in self.last_flush_of_lowers() {
                flushed = flushed.and(lower.await.map(drop));
            }
            flushed.map(|()| Answer::Done)
        };
        execution(flushed, None)
    }
}

impl StackedDevice {
    /// Returns the device that decides where executions run: one that must not run on any thread, if
    /// there is one, for a command may be executed by any of them.
    fn scheduler(&self) -> &dyn Device {
        match self.lowers().particular().first() {
            Some(device) if self.guest.may_run_here(false) => &**device,
            _ => &*self.guest,
        }
    }

    /// Returns the lower device to which a stable route passes a whole span, and the span there.
    fn passed_span(&self, operation: Operation, span: Span) -> Option<(&Arc<dyn Device>, Span)> {
        self.routes().with(operation, span, |place, length| match place {
            Place::Lower(Location { device, offset }) if length == span.length => {
                Some((self.lowers().device(device), Span { offset, length }))
            }
            _ => None,
        })
    }

    /// Returns the lower device that a stable route gives a whole command to, and what to execute there.
    fn passed(&self, order: &Order) -> Option<(Arc<dyn Device>, Order)> {
        let command = order.command;
        if self.guest.is_dead() || order.locate {
            return None;
        }
        let (device, span) = self.passed_span(command.operation(), command.span())?;
        if !self.passes(command, device.geometry()) {
            return None;
        }
        let order = Order {
            command: moved(command, span.offset, span.length),
            payload: order.payload.clone(),
            cancelled: order.cancelled.clone(),
            alone: order.alone,
            // A component may keep what was there from being overwritten, and pages of a file are those
            // that it has when they are received.
            to_socket: false,
            locate: false,
        };
        Some((device.clone(), order))
    }

    /// Returns true if nothing is left to do when the lower device has executed a command.
    fn passes(&self, command: Command, below: &Geometry) -> bool {
        let offers = &below.capabilities;
        let passes_fua = |fua: bool| !fua || offers.fua && !self.guest.flushes();
        match command {
            Command::Read { .. } | Command::Extents { .. } => true,
            Command::Cache { .. } => offers.cache,
            Command::Write { fua, .. } => passes_fua(fua),
            Command::Trim { fua, .. } => offers.trim && passes_fua(fua),
            Command::Zero { fua, fast, .. } => {
                offers.zero && (!fast || offers.fast_zero) && passes_fua(fua)
            }
            Command::Flush => false,
        }
    }

    pub(super) async fn execute_order(self: Arc<Self>, order: Order) -> Outcome {
        if order.command == Command::Flush {
            return self.flush(order.cancelled).await.map(|()| Answer::Done);
        }
        if self.rules.is_none() {
            return self.execute_own(order).await;
        }
        if self.guest.is_dead() {
            return Err(ErrorCode::Io.into());
        }
        self.ask_again().await?;
        let operation = order.command.operation();
        if operation == Operation::Extents && !self.guest.has_extents() {
            // All is data.
            return self.execute_own(order).await;
        }
        if let Some((place, under_way)) = self.routes().whole(operation, order.command.span()) {
            return self.execute_stable(place, under_way, order).await;
        }
        // From here on it may be on another thread.
        self.execute_routed(Order { alone: false, ..order }).await
    }
}
