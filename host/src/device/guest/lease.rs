//! Leases of a guest: reading and writing its memory without a call of the component.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::GuestDevice;
use super::shard::{Locked, Shard, Shared};
use crate::block::{Chunk, Scatter, Span};
use crate::component::{Hint, Resident};
use crate::device::{Leased, Mode};

/// Access to bytes in the memory of an instance, which is not called as long as this lives.
pub struct GuestLease<'a> {
    guard: Guard<'a>,
    bytes: Bytes,
}

/// The lock of the instance's shard.
enum Guard<'a> {
    /// Others may read.
    Read(RwLockReadGuard<'a, Shard>),
    /// Nobody else uses the instance.
    Write(RwLockWriteGuard<'a, Shard>),
    /// As `Read`, for what an execution returns.
    OwnedRead(Shared),
    /// As `Write`, for what an execution returns.
    OwnedWrite(Locked),
}

#[derive(Clone, Copy)]
enum Bytes {
    Resident(Resident),
    /// What the last `read` of the instance returned, of this length.
    LastRead(u64),
}

impl GuestLease<'_> {
    /// A lease of pages, for reading.
    pub(super) fn shared(shard: Shared, resident: Resident) -> Self {
        Self { guard: Guard::OwnedRead(shard), bytes: Bytes::Resident(resident) }
    }

    /// A lease of the `length` bytes that the last `read` of the instance returned.
    pub(super) fn last_read(shard: Locked, length: u64) -> Self {
        Self { guard: Guard::OwnedWrite(shard), bytes: Bytes::LastRead(length) }
    }

    #[inline]
    fn shard(&self) -> &Shard {
        match &self.guard {
            Guard::Read(shard) => shard,
            Guard::Write(shard) => shard,
            Guard::OwnedRead(shard) => shard,
            Guard::OwnedWrite(shard) => shard,
        }
    }

    /// What can be written; `None` if the lease is for reading.
    #[inline]
    fn writable(&mut self) -> Option<(&mut Shard, Resident)> {
        match (&mut self.guard, self.bytes) {
            (Guard::Write(shard), Bytes::Resident(resident)) => Some((shard, resident)),
            _ => None,
        }
    }
}

impl Leased for GuestLease<'_> {
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
    /// A lease of the first bytes of a span, as far as their pages are known and lie in one shard.
    /// `None` if there are none, or the shard is locked.
    #[inline]
    pub(super) fn lease(&self, span: Span, mode: Mode) -> Option<GuestLease<'_>> {
        let shard = self.leased_shard(span.offset)?;
        let span = self.shards.first_stripe(span);
        let (guard, resident) = match mode {
            Mode::Read => {
                let shard = shard.try_read().ok()?;
                let resident = shard.started()?.resident(span)?;
                (Guard::Read(shard), resident)
            }
            Mode::Write { fua } => {
                if self.must_flush(fua) {
                    return None;
                }
                let shard = shard.try_write().ok()?;
                let resident = shard.started()?.resident(span)?;
                (Guard::Write(shard), resident)
            }
        };
        Some(GuestLease { guard, bytes: Bytes::Resident(resident) })
    }

    /// Returns the place of the first bytes of a span, if their page is known.
    #[inline]
    pub(super) fn hint(&self, span: Span) -> Option<Hint> {
        let shard = self.leased_shard(span.offset)?.try_read().ok()?;
        let instance = shard.started()?;
        instance.hint(instance.resident(self.shards.first_stripe(span))?)
    }

    /// The shard of an offset, if the device has leases at all. Devices with blocks of more than
    /// one byte have none, for they have to see to parts of blocks first. Nor have those with a pool
    /// of instances, none of which belongs to an offset.
    #[inline]
    fn leased_shard(&self, offset: u64) -> Option<&RwLock<Shard>> {
        let leases = self.leases && !self.is_dead();
        leases.then(|| &**self.shards.shard(self.shards.index(offset)))
    }

    /// Whether a write has to be followed by a flush, for want of FUA in the component.
    pub(super) fn must_flush(&self, fua: bool) -> bool {
        fua && !self.component.capabilities.fua
    }
}
