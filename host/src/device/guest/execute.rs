//! Executing commands: the implementation of [`Device`].

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{GuestDevice, GuestTime};
use crate::block::{Command, Error, ErrorCode, Geometry, Span};
use crate::component::{Fault, Hint};
use crate::device::zero::Zero;
use crate::device::{
    Answer, Buffers, Cancelled, Control, Device, Execution, Lease, Mode, Order, Outcome, Polled,
    Task, execution,
};

/// Parts of a write end at multiples of this, in bytes, so that the component gets no odd edges.
const PART_UNIT: u64 = 32 << 10;

/// How many places are looked up before they are prefetched.
const PREFETCHED: usize = 8;

impl Device for GuestDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn controls(self: Arc<Self>) -> Vec<Control> {
        match self.commands() {
            [] => Vec::new(),
            _ => vec![Control::new(self.shards.component_name(), self.clone())],
        }
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    #[inline]
    fn try_lease(&self, span: Span, mode: Mode) -> Option<Lease<'_>> {
        self.lease(span, mode).map(Lease::from)
    }

    fn make_room(self: Arc<Self>, span: Span) -> Option<Execution> {
        let possible = self.leases && !self.is_dead();
        possible.then(|| execution(async move { self.make_pages(span).await }, None))
    }

    /// All places are looked up before the first is prefetched: a prefetch occupies the buffers
    /// that the next look-up needs.
    fn prefetch(&self, spans: &[Span]) {
        for spans in spans.chunks(PREFETCHED) {
            let mut hints = [None; PREFETCHED];
            for (hint, &span) in hints.iter_mut().zip(spans) {
                *hint = self.hint(span);
            }
            hints.into_iter().flatten().for_each(Hint::prefetch);
        }
    }

    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        execution(async move { self.execute_order(order).await }, place)
    }

    /// A striped device that is addressed in bytes accepts any part.
    fn partial_write_len(&self, span: Span, here: u64) -> u64 {
        if !self.shards.is_striped() || self.component.block_sizes.minimum > 1 {
            return 0;
        }
        let end = (span.offset + here) & !(PART_UNIT - 1);
        end.saturating_sub(span.offset)
    }

    fn limited_time(&self, _command: Command) -> Option<GuestTime> {
        self.schedule.used().limited().cloned()
    }

    fn may_run_here(&self, own_thread: bool) -> bool {
        self.schedule.may_run_here(own_thread)
    }

    fn poll(&self, execution: Polled<'_>, cx: &mut Context<'_>) -> (Poll<Outcome>, bool) {
        self.schedule.poll(execution, cx)
    }

    fn spawn(&self, task: Task, computes: bool) {
        self.schedule.spawn(task, computes);
    }

    fn panicked(&self) -> ErrorCode {
        // A guest may be in the middle of a call.
        self.die(&Fault::Panic)
    }

    fn end_leases(self: Arc<Self>) -> Task {
        Box::pin(async move { self.shards.end_leases().await })
    }

    fn needs_last_flush(&self) -> bool {
        self.flushes_last() || self.must_close()
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        let flushed = async move {
            let mut flushed = Ok(());
            if self.flushes_last() {
                let device = self.clone();
                let run = self.schedule.run(async move { device.flush().await }).await;
                flushed = run.unwrap_or(Err(ErrorCode::Io.into())).inspect_err(|error| {
                    tracing::error!(
                        "export {:?}: the last flush failed: {}",
                        self.export_name,
                        error.code
                    );
                });
            }
            let closed = self.close().await;
            flushed.and(closed).map(|()| Answer::Done)
        };
        execution(flushed, None)
    }
}

impl GuestDevice {
    /// Returns true if the component has to flush before the disk is closed.
    fn flushes_last(&self) -> bool {
        let flushes = self.component.capabilities.flush;
        !self.is_dead() && self.geometry.capabilities.writable && flushes
    }

    pub(in crate::device) async fn execute_order(&self, order: Order) -> Outcome {
        let Order { command, payload, cancelled, .. } = order;
        #[cfg(test)]
        assert!(!self.panics.swap(false, std::sync::atomic::Ordering::Relaxed), "for a test");
        match command {
            // Writes take effect all the same.
            Command::Read { .. } if cancelled.is_cancelled() => Err(ErrorCode::Shutdown.into()),
            Command::Read { span } if self.is_aligned(span) => {
                self.read(span).await.map(Answer::Read)
            }
            Command::Write { span, fua } if self.is_aligned(span) => {
                self.write(span, &payload, fua).await.map(|()| Answer::Done)
            }
            // Boxed, so that the futures of the frequent commands are small: they are moved.
            command => Box::pin(self.execute_rare(command, payload, cancelled)).await,
        }
    }

    async fn execute_rare(
        &self,
        command: Command,
        payload: Bytes,
        cancelled: Cancelled,
    ) -> Result<Answer, Error> {
        match command {
            Command::Read { span } => self.read_unaligned(span).await.map(Answer::Read),
            Command::Write { span, fua } => {
                self.write_unaligned(span, &payload, fua).await.map(|()| Answer::Done)
            }
            Command::Zero { span, fua, keep_allocated, fast } => {
                let zero = Zero { span, fua, keep_allocated, fast };
                self.zero_any(zero, &cancelled).await.map(|()| Answer::Done)
            }
            Command::Trim { span, fua } => self.trim_any(span, fua).await.map(|()| Answer::Done),
            Command::Flush => self.flush().await.map(|()| Answer::Done),
            Command::Cache { span } => self.cache(self.widened(span)).await.map(|()| Answer::Done),
            Command::Extents { span, limit } => {
                self.extents(span, limit).await.map(Answer::Extents)
            }
        }
    }
}
