//! What a connection holds of a disk.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;

use super::zero::Zero;
use super::{Answer, Buffers, Disk};
use crate::block::{Command, ErrorCode, Span};
use crate::component::{Fault, Hint, Places};

/// One connection's way to a disk.
pub struct Access {
    disk: Arc<Disk>,
    /// Nobody waits for the answers any more.
    gone: AtomicBool,
}

impl Access {
    /// Access to a disk.
    pub fn new(disk: Arc<Disk>) -> Arc<Self> {
        Arc::new(Self { disk, gone: AtomicBool::new(false) })
    }

    /// Says that nobody waits for answers any more: work that comes in many steps ends early.
    pub fn abandon(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Where a read or write begins that is executed soon, if it needs neither a call of the component nor
    /// waiting for others.
    #[inline]
    pub fn hint(&self, span: Span) -> Option<Hint> {
        self.disk.hint(span)
    }

    /// Writes the beginning of a write of which not all data is here, as far as that needs neither a call
    /// of the component nor waiting for others. Returns how many bytes it has written.
    pub fn write_part_now(&self, span: Span, here: &[u8], fua: bool) -> usize {
        self.disk.write_part_now(span.offset, here, fua)
    }

    /// Lets `receive` put the beginning of a write's data where it belongs, as far as that needs neither
    /// a call of the component nor waiting for others, and what comes after the data `behind`.
    /// What it puts there is written. It has the disk, or a part of it, to itself and must not wait.
    /// None, and it is not called, if there is no such place.
    pub fn receive_now<T>(
        &self,
        span: Span,
        fua: bool,
        behind: &mut [u8],
        receive: impl FnOnce(Places<'_>) -> T,
    ) -> Option<T> {
        self.disk.receive_now(span, fua, behind, receive)
    }

    /// How much of a write can be executed as a write of its own when so many bytes of its data are
    /// `here`: perhaps nothing.
    pub fn part_of_write(&self, span: Span, here: u64) -> u64 {
        self.disk.part_of_write(span, here)
    }

    /// Executes a command as [`Self::execute`] does, if it is a read or write that needs neither a
    /// call of the component nor waiting for others; none, and nothing is done, if it is not.
    #[inline]
    pub fn execute_now(&self, command: Command, payload: &[u8]) -> Option<Answer> {
        let executed = catch_unwind(AssertUnwindSafe(|| self.execute_directly(command, payload)));
        executed.unwrap_or_else(|_| {
            self.disk.die(&Fault::Panic);
            None
        })
    }

    #[inline]
    fn execute_directly(&self, command: Command, payload: &[u8]) -> Option<Answer> {
        match command {
            Command::Read { span } => self.disk.read_now(span).map(Answer::Read),
            Command::Write { span, fua } => {
                self.disk.write_now(span, payload, fua).then_some(Answer::Done)
            }
            _ => None,
        }
    }

    /// The memory for requests that are not executed at once.
    pub fn buffers(&self) -> &Buffers {
        &self.disk.buffers
    }

    /// Whether [`Self::execute`] may be polled on this thread, which serves this connection alone or
    /// others, too.
    #[inline]
    pub fn may_run_here(&self, own_thread: bool) -> bool {
        self.disk.schedule.may_run_here(own_thread)
    }

    /// Polls what [`Self::begin`] returned on this thread. If it is not ready, tells whether it is one that
    /// computes at length.
    #[inline]
    pub fn poll<F>(&self, execution: Pin<&mut F>, cx: &mut Context<'_>) -> (Poll<F::Output>, bool)
    where
        F: Future<Output = Result<Answer, ErrorCode>> + ?Sized,
    {
        let polled = catch_unwind(AssertUnwindSafe(|| self.disk.schedule.poll(execution, cx)));
        polled.unwrap_or_else(|_| (Poll::Ready(Err(self.disk.die(&Fault::Panic))), false))
    }

    /// Makes what becomes of [`Self::execute`] a task of its own, on threads where it keeps nobody else
    /// waiting. It is dropped when there are none.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static, computes: bool) {
        self.disk.schedule.spawn(Box::pin(task), computes);
    }

    /// Executes a command that lies within the disk. `payload` is what a write writes, of the
    /// span's length; other commands have none.
    pub async fn execute(
        self: Arc<Self>,
        command: Command,
        payload: Bytes,
    ) -> Result<Answer, ErrorCode> {
        self.finish(self.clone().begin(command, payload)).await
    }

    /// Drives what [`Self::begin`] returned to its end.
    pub async fn finish(
        &self,
        execution: impl Future<Output = Result<Answer, ErrorCode>>,
    ) -> Result<Answer, ErrorCode> {
        match AssertUnwindSafe(execution).catch_unwind().await {
            Ok(result) => result,
            // A guest may be in the middle of a call.
            Err(_) => Err(self.disk.die(&Fault::Panic)),
        }
    }

    /// As [`Self::execute`], but for panics: it is to be polled with [`Self::poll`] or driven with
    /// [`Self::finish`], which see to them. That is so because it is moved before it is polled: to wrap
    /// it makes it twice as long.
    pub async fn begin(
        self: Arc<Self>,
        command: Command,
        payload: Bytes,
    ) -> Result<Answer, ErrorCode> {
        let disk = &*self.disk;
        #[cfg(test)]
        assert!(!disk.panics.swap(false, Ordering::Relaxed), "for a test");
        match command {
            // What is written takes effect all the same.
            Command::Read { .. } if self.gone.load(Ordering::Relaxed) => Err(ErrorCode::Shutdown),
            Command::Read { span } if disk.is_aligned(span) => {
                disk.read(span).await.map(Answer::Read)
            }
            Command::Write { span, fua } if disk.is_aligned(span) => {
                disk.write(span, &payload, fua).await.map(|()| Answer::Done)
            }
            // Apart, so that the futures of the frequent ones are small: they are moved.
            command => Box::pin(self.execute_rare(command, payload)).await,
        }
    }

    async fn execute_rare(&self, command: Command, payload: Bytes) -> Result<Answer, ErrorCode> {
        let disk = &*self.disk;
        match command {
            Command::Read { span } => disk.read_unaligned(span).await.map(Answer::Read),
            Command::Write { span, fua } => {
                disk.write_unaligned(span, &payload, fua).await.map(|()| Answer::Done)
            }
            Command::Zero { span, fua, keep_allocated, fast } => {
                let zero = Zero { span, fua, keep_allocated, fast };
                disk.zero_any(zero, &self.gone).await.map(|()| Answer::Done)
            }
            Command::Trim { span, fua } => disk.trim_any(span, fua).await.map(|()| Answer::Done),
            Command::Flush => disk.flush().await.map(|()| Answer::Done),
            Command::Cache { span } => disk.cache(disk.widened(span)).await.map(|()| Answer::Done),
            Command::Extents { span, limit } => {
                disk.extents(span, limit).await.map(Answer::Extents)
            }
        }
    }
}
