//! The memory that the host takes for requests: what clients send and what is read for them, as long
//! as it is neither the guest's nor sent.
//!
//! Each export has a share, so that the clients of one hold up no others; what the shares come to
//! together is bounded for the process. As long as there is enough for all, a share is the export's
//! own. Whoever wants more than there is waits, in order, and with it
//! the connection: nothing more is read from it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The memory for requests of a process.
#[derive(Clone, Debug)]
pub struct ProcessBuffers {
    permits: Arc<Semaphore>,
    limit: u64,
}

/// The memory for requests of one export.
#[derive(Clone, Debug)]
pub struct Buffers {
    export: Arc<Semaphore>,
    /// What it takes from together with others, unless what it has is its own.
    process: Option<Arc<Semaphore>>,
    /// The most that one request takes, in units.
    most: u32,
}

/// Memory that a request has. It goes back when this is dropped.
#[derive(Debug)]
pub struct Buffer {
    _export: OwnedSemaphorePermit,
    _process: Option<OwnedSemaphorePermit>,
}

/// What is counted, in bytes.
const UNIT: u64 = 4096;

fn units(bytes: u64) -> usize {
    usize::try_from(bytes / UNIT).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

impl ProcessBuffers {
    /// At most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { permits: Arc::new(Semaphore::new(units(limit))), limit }
    }

    /// The bound, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// A share of this, of at most `limit` bytes, which others may have taken.
    pub fn share(&self, limit: u64) -> Buffers {
        Buffers { process: Some(self.permits.clone()), ..Buffers::own(limit.min(self.limit)) }
    }
}

impl Buffers {
    /// Memory of its own, of `limit` bytes.
    pub fn own(limit: u64) -> Self {
        let units = units(limit);
        Self {
            export: Arc::new(Semaphore::new(units)),
            process: None,
            most: u32::try_from(units).unwrap_or(u32::MAX),
        }
    }

    /// So many units for so many bytes. What is more than all there is counts as that: then a request
    /// is executed when it is the only one.
    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.most)
    }

    /// Memory for a request, if there is some now.
    pub fn try_take(&self, bytes: u64) -> Option<Buffer> {
        let units = self.units(bytes);
        let take = |semaphore: &Arc<Semaphore>| -> Result<_, TryAcquireError> {
            semaphore.clone().try_acquire_many_owned(units)
        };
        let export = take(&self.export).ok()?;
        let process = self.process.as_ref().map(take).transpose().ok()?;
        Some(Buffer { _export: export, _process: process })
    }

    /// Waits for memory for a request.
    pub async fn take(self, bytes: u64) -> Buffer {
        let units = self.units(bytes);
        // First its own: those who wait for it hold nothing of what others need.
        let export = self.export.acquire_many_owned(units).await.expect("it is never closed");
        let process = match self.process {
            Some(process) => Some(process.acquire_many_owned(units).await),
            None => None,
        };
        let process = process.transpose().expect("it is never closed");
        Buffer { _export: export, _process: process }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn an_export_takes_no_more_than_its_share() {
        let process = ProcessBuffers::new(3 * MIB);
        let (a, b) = (process.share(2 * MIB), process.share(2 * MIB));
        let first = a.try_take(MIB).unwrap();
        let _second = a.try_take(MIB).unwrap();
        assert!(a.try_take(1).is_none());
        let _others = b.try_take(MIB).unwrap();
        assert!(b.try_take(1).is_none(), "the process has no more");
        let waiting = tokio::spawn(b.take(MIB));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_for_more_than_all_is_executed_alone() {
        let buffers = Buffers::own(MIB);
        let small = buffers.try_take(1).unwrap();
        assert!(buffers.try_take(64 * MIB).is_none());
        drop(small);
        let large = buffers.try_take(64 * MIB).unwrap();
        assert!(buffers.try_take(1).is_none());
        drop(large);
        buffers.clone().take(u64::MAX).await;
    }
}
