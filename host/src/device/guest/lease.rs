//! Leases of a guest's pages: reading and writing without a call of the component.

use std::sync::Arc;

use tokio::sync::RwLock;

use super::GuestDevice;
use super::shards::{Locked, Shard, Shared};
use crate::block::{Chunk, Scatter, Span};
use crate::component::Resident;
use crate::device::{Leased, Mode};

/// Bytes in the memory of an instance. Nobody calls the instance while this lives.
pub struct GuestLease {
    guard: Guard,
    bytes: Bytes,
}

/// What keeps others from the instance.
enum Guard {
    /// Nobody can change it.
    Shared(Shared),
    /// Nobody else can use it.
    Exclusive(Locked),
}

enum Bytes {
    Resident(Resident),
    /// What the instance's last `read` returned, of this length.
    LastRead(u64),
}

impl GuestLease {
    /// Of pages, for reading.
    pub(super) fn shared(shard: Shared, resident: Resident) -> Self {
        Self { guard: Guard::Shared(shard), bytes: Bytes::Resident(resident) }
    }

    /// Of what the instance's last `read` returned, of so many bytes.
    pub(super) fn last_read(shard: Locked, length: u64) -> Self {
        Self { guard: Guard::Exclusive(shard), bytes: Bytes::LastRead(length) }
    }

    #[inline]
    fn shard(&self) -> &Shard {
        match &self.guard {
            Guard::Shared(shard) => shard,
            Guard::Exclusive(shard) => shard,
        }
    }

    /// What can be written, if the lease is for that.
    #[inline]
    fn writable(&mut self) -> Option<(&mut Shard, Resident)> {
        match (&mut self.guard, &self.bytes) {
            (Guard::Exclusive(shard), Bytes::Resident(resident)) => Some((shard, *resident)),
            _ => None,
        }
    }
}

impl Leased for GuestLease {
    #[inline]
    fn length(&self) -> u64 {
        match &self.bytes {
            Bytes::Resident(resident) => resident.length(),
            Bytes::LastRead(length) => *length,
        }
    }

    #[inline]
    fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        let instance = self.shard().instance();
        match &self.bytes {
            Bytes::Resident(resident) => instance.resident_chunk(*resident, index),
            Bytes::LastRead(_) => instance.chunk(index),
        }
    }

    #[inline]
    fn write(&mut self, data: &[u8]) {
        let (shard, resident) = self.writable().expect("a lease for writing");
        shard.instance_mut().write_resident(resident, data);
    }

    fn scatter<'a>(&'a mut self, behind: &'a mut [u8]) -> Option<Scatter<'a>> {
        let (shard, resident) = self.writable()?;
        shard.instance_mut().scatter(resident, behind)
    }
}

impl GuestDevice {
    /// The beginning of a span, as far as its pages are known and lie in one shard, which nobody else has
    /// for himself at the moment.
    #[inline]
    pub(super) fn lease(&self, span: Span, mode: Mode) -> Option<GuestLease> {
        let shard = self.leased_shard(span.offset)?;
        let span = self.shards.first_stripe(span);
        let (guard, resident) = match mode {
            Mode::Read => {
                let shard = shard.clone().try_read_owned().ok()?;
                let resident = shard.started()?.resident(span)?;
                (Guard::Shared(shard), resident)
            }
            Mode::Write { fua } => {
                if self.must_flush(fua) {
                    return None;
                }
                let shard = shard.clone().try_write_owned().ok()?;
                let resident = shard.started()?.resident(span)?;
                (Guard::Exclusive(shard), resident)
            }
        };
        Some(GuestLease { guard, bytes: Bytes::Resident(resident) })
    }

    /// Has the processor fetch the beginning of a span, if there could be a lease for it.
    #[inline]
    pub(super) fn prefetch_resident(&self, span: Span) -> Option<()> {
        let shard = self.leased_shard(span.offset)?.try_read().ok()?;
        let instance = shard.started()?;
        instance.prefetch(instance.resident(self.shards.first_stripe(span))?);
        Some(())
    }

    /// The shard of an offset, if there are leases. A device whose blocks are longer than a byte has none:
    /// it takes care of parts of blocks first.
    #[inline]
    fn leased_shard(&self, offset: u64) -> Option<&Arc<RwLock<Shard>>> {
        let leases = self.leases && !self.is_dead();
        leases.then(|| self.shards.shard(self.shards.index(offset)))
    }

    /// Whether a write with or without FUA takes a call of its own to flush.
    pub(super) fn must_flush(&self, fua: bool) -> bool {
        fua && !self.component.capabilities.fua
    }
}
