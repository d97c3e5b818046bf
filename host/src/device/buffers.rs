//! The memory for the payloads of requests: what clients send and what is read for them, while it
//! is neither in a guest nor sent.
//!
//! Each export has a share, so that its clients do not delay those of other exports. All shares
//! together are bounded for the process; as long as there is enough for every export, a share is
//! its own. A request for which there is no memory waits in a FIFO queue, and nothing more is read
//! from its connection.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The request memory of a process.
#[derive(Clone, Debug)]
pub struct ProcessBuffers {
    permits: Arc<Semaphore>,
    limit: u64,
}

/// The request memory of an export.
#[derive(Clone, Debug)]
pub struct Buffers {
    export: Arc<Semaphore>,
    /// The process's memory, unless the share is the export's own.
    process: Option<Arc<Semaphore>>,
    /// The most units that one request takes.
    most: u32,
}

/// Memory taken for a request, released when dropped.
#[derive(Debug)]
pub struct Buffer {
    _export: OwnedSemaphorePermit,
    _process: Option<OwnedSemaphorePermit>,
}

/// The unit of account, in bytes.
const UNIT: u64 = 4096;

fn units(bytes: u64) -> usize {
    usize::try_from(bytes / UNIT).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

impl ProcessBuffers {
    /// Creates a budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { permits: Arc::new(Semaphore::new(units(limit))), limit }
    }

    /// Returns the limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Creates a share of at most `limit` bytes, for which exports compete.
    pub fn share(&self, limit: u64) -> Buffers {
        Buffers { process: Some(self.permits.clone()), ..Buffers::own(limit.min(self.limit)) }
    }
}

impl Buffers {
    /// Creates a share of `limit` bytes that is the export's own.
    pub fn own(limit: u64) -> Self {
        let units = units(limit);
        Self {
            export: Arc::new(Semaphore::new(units)),
            process: None,
            most: u32::try_from(units).unwrap_or(u32::MAX),
        }
    }

    /// Returns the units for a number of bytes. A request for more than the limit takes all of it,
    /// so that it is executed when it is the only one.
    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.most)
    }

    /// Takes memory for a request, if there is enough.
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
        // The export's share first, so that requests waiting for it hold nothing of the process's.
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
