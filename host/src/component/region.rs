//! The linear memories of guests, mapped by the host itself, so that it can reach what a guest says
//! is in them.
//!
//! Wasmtime would map them in the same way: as much address space as a 32-bit memory can grow to and
//! a guard behind it, inaccessible but for what the guest has. What it does not offer is to change
//! a guest's memory from outside of a call. That is what makes writing to a page that is known
//! (see `direct`) one copy without a call, instead of a call and two copies: on 4 connections
//! 3.7 us become 2.6 us for 4 KiB, and one connection writes 256 KiB at a time 15 % faster.
//!
//! It asks for no huge pages: they make reads at random 15 % faster, but in a virtual machine whose
//! host takes back what is free, the first write to many GiB takes three to six times as long with
//! them.
//!
//! # Safety
//!
//! Compiled code leaves out bounds checks: it counts on the guard, and on memory that never grows
//! into it. So a [`Mapping`] fixes its reservation and its guard when it is made, and refuses to
//! make anything accessible beyond the reservation, whatever wasmtime asks for. It trusts neither
//! the type of the memory nor the settings of the engine: it refuses memories whose reservation
//! does not hold what the type can grow to.
//!
//! A mapping is unmapped when nobody has it any more: wasmtime, which has it through [`Linear`] as
//! long as the guest's store lives, and those who hold a [`Region`]. What is accessible of it stays
//! so. To guests and wasmtime the bytes of a linear memory are no more than bytes, of which any may
//! change between two calls; during a call nobody else must touch them. The lock of the shard sees
//! to that: an instance and its regions are behind it, calls take it for writing, and so do those
//! who write here, while those who only read share it.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::block::Scatter;

/// Makes the memories of an engine.
#[derive(Clone, Copy, Default)]
pub(super) struct Regions;

/// The memories that one instance was given, and whether one was missing.
#[derive(Default)]
pub(super) struct Memories {
    regions: Vec<Region>,
    /// A memory could not be mapped for want of memory, addresses or mappings.
    exhausted: bool,
}

thread_local! {
    /// Where the memories go that are made on this thread.
    static MEMORIES: RefCell<Option<Memories>> = const { RefCell::new(None) };
}

/// Addresses, of which the first ones are accessible.
struct Mapping {
    base: NonNull<u8>,
    /// How far it may grow, in bytes. The guard is behind that.
    reserved: usize,
    /// With the guard.
    length: usize,
    accessible: AtomicUsize,
}

// SAFETY: a pointer to memory that belongs to the mapping, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: nothing is read or written through a shared mapping but atomics.
unsafe impl Sync for Mapping {}

/// A memory as wasmtime has it.
struct Linear(Arc<Mapping>);

/// The host's access to a memory whose guest is not in a call. Readers hold the read lock of the
/// instance's shard, writers its write lock. References are valid until the guest is called or the
/// memory is written. The methods borrow accordingly, so there is one region for each memory and it
/// is not cloned.
pub(super) struct Region(Arc<Mapping>);

/// Polls a future that starts an instance, and collects the memories that are made for it.
///
/// Wasmtime does not say for which store it wants a memory, but it makes it within the poll. A
/// registry of all memories, which this spares, would be a lock that all guests of a process share.
pub(super) async fn collect<F: Future>(starting: F) -> (F::Output, Memories) {
    let mut starting = pin!(starting);
    let mut memories = Some(Memories::default());
    poll_fn(|cx| {
        /// Gives the thread back what it had, in a panic as well.
        struct Restore<'a>(Option<Memories>, &'a mut Option<Memories>);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                *self.1 = MEMORIES.replace(self.0.take());
            }
        }
        let before = MEMORIES.replace(memories.take());
        let restore = Restore(before, &mut memories);
        let polled = starting.as_mut().poll(cx);
        drop(restore);
        polled.map(|output| (output, memories.take().unwrap_or_default()))
    })
    .await
}

impl Memories {
    /// Whether a memory was missing.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Takes out the memory that some bytes of the guest lie in.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<Region> {
        let index = self.regions.iter().position(|region| region.position(bytes).is_some())?;
        Some(self.regions.swap_remove(index))
    }
}

impl Mapping {
    fn new(minimum: usize, reserved: usize, guard: usize) -> rustix::io::Result<Self> {
        let page = rustix::param::page_size();
        // The guard begins at a page, or the kernel would not keep it from the memory before it.
        if minimum > reserved || !reserved.is_multiple_of(page) || !guard.is_multiple_of(page) {
            return Err(Errno::INVAL);
        }
        let length = reserved.checked_add(guard).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: addresses that the system chooses were nobody's before.
        let base = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags)
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let mapping = Self { base, reserved, length, accessible: AtomicUsize::new(0) };
        mapping.grow_to(minimum)?;
        Ok(mapping)
    }

    /// Makes the first `size` bytes accessible. What was so before stays so.
    ///
    /// # Errors
    ///
    /// When that is beyond what was reserved or ends within a page, or when the system cannot.
    fn grow_to(&self, size: usize) -> rustix::io::Result<()> {
        if size > self.reserved {
            return Err(Errno::NOMEM);
        }
        if !size.is_multiple_of(rustix::param::page_size()) {
            return Err(Errno::INVAL);
        }
        let before = self.accessible.load(Ordering::Relaxed);
        if size > before {
            // SAFETY: both are multiples of a page and `size` is at most `reserved`, as was checked,
            // so this is within the mapping and not within its guard; nobody has used it before.
            unsafe {
                let new = self.base.as_ptr().add(before).cast();
                let flags = MprotectFlags::READ | MprotectFlags::WRITE;
                rustix::mm::mprotect(new, size - before, flags)?;
            }
            self.accessible.store(size, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

impl Regions {
    /// Maps a memory that can grow to `most` bytes.
    fn map(
        minimum: usize,
        most: u64,
        reserved: Option<usize>,
        guard: usize,
    ) -> rustix::io::Result<Linear> {
        // Wasmtime says how much its code expects. Without that it would expect the memory to move.
        let reserved = reserved.ok_or(Errno::INVAL)?;
        if u64::try_from(reserved).is_ok_and(|reserved| reserved < most) {
            return Err(Errno::INVAL);
        }
        let mapping = Arc::new(Mapping::new(minimum, reserved, guard)?);
        MEMORIES.with_borrow_mut(|memories| {
            if let Some(memories) = memories {
                memories.regions.push(Region(mapping.clone()));
            }
        });
        Ok(Linear(mapping))
    }
}

/// How many bytes a memory of a type can have.
fn most(ty: &MemoryType) -> u64 {
    let pages = ty.maximum().unwrap_or(u64::MAX);
    pages.saturating_mul(ty.page_size()).min(1 << 32)
}

// SAFETY: memory is zero at first, does not move, and is followed by what was asked for as a guard,
// which no growth reaches.
unsafe impl MemoryCreator for Regions {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if ty.is_64() || ty.is_shared() {
            return Err("map a memory: it has 64 bits or is shared, which is off".into());
        }
        match Self::map(minimum, most(&ty), reserved, guard) {
            Ok(linear) => Ok(Box::new(linear)),
            Err(error) => {
                MEMORIES.with_borrow_mut(|memories| {
                    if let Some(memories) = memories {
                        // A limit on what is locked into memory is another want of memory.
                        memories.exhausted |= matches!(error, Errno::NOMEM | Errno::AGAIN);
                    }
                });
                Err(format!("map a memory: {error}"))
            }
        }
    }
}

// SAFETY: as above.
unsafe impl LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.0.accessible.load(Ordering::Relaxed)
    }

    fn byte_capacity(&self) -> usize {
        self.0.reserved
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        Ok(self.0.grow_to(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base.as_ptr()
    }
}

impl Region {
    /// Where in it some bytes of the guest are, if they are.
    pub(super) fn position(&self, bytes: &[u8]) -> Option<u32> {
        let at = bytes.as_ptr().addr().checked_sub(self.0.base.addr().get())?;
        let at = u32::try_from(at).ok()?;
        self.contains(at, bytes.len()).then_some(at)
    }

    fn contains(&self, at: u32, length: usize) -> bool {
        let accessible = self.0.accessible.load(Ordering::Relaxed);
        (at as usize).checked_add(length).is_some_and(|end| end <= accessible)
    }

    /// The bytes at an address of the guest.
    ///
    /// # Panics
    ///
    /// When the guest does not have them.
    pub(super) fn bytes(&self, at: u32, length: u32) -> &[u8] {
        assert!(self.contains(at, length as usize), "a page lies within its memory");
        // SAFETY: they are accessible, initialized (the system does that), and nobody changes them,
        // see the type's documentation.
        unsafe {
            let start = self.0.base.as_ptr().add(at as usize);
            slice::from_raw_parts(start, length as usize)
        }
    }

    /// Memory to receive to, stretch by stretch, each an address of the guest and a length. None when two of them overlap,
    /// or when they are too many.
    ///
    /// # Panics
    ///
    /// As [`Self::bytes`].
    pub(super) fn scatter(&mut self, runs: &[(u32, u32)]) -> Option<Scatter<'_>> {
        let range = |(at, length)| u64::from(at)..u64::from(at) + u64::from(length);
        let mut scatter = Scatter::default();
        for (index, &run) in runs.iter().enumerate() {
            let (at, length) = (run.0, run.1 as usize);
            assert!(self.contains(at, length), "a page lies within its memory");
            let here = range(run);
            let overlaps = |other: Range<u64>| other.start < here.end && here.start < other.end;
            if runs[..index].iter().map(|&run| range(run)).any(overlaps) {
                return None;
            }
            // SAFETY: they are accessible, initialized (the system does that), and nobody else uses
            // them, see the type's documentation; nor do the slices before, which are elsewhere.
            let slice = unsafe {
                let start = self.0.base.as_ptr().add(at as usize);
                slice::from_raw_parts_mut(start, length)
            };
            if !scatter.push(slice) {
                return None;
            }
        }
        Some(scatter)
    }

    /// Has the processor fetch what is at an address of the guest, and from there on so much that it sees by
    /// itself how it goes on.
    ///
    /// A page of a large disk is in no cache, and its address in no cache of addresses. For 4 KiB at
    /// random, half of the server's time was waiting for the two. Waiting for several pages at a time takes
    /// hardly longer than for one: on 4 connections with 16 requests each, the server's 2.5 us for a read
    /// became 1.9, and its 2.6 us for a write 2.2.
    #[inline]
    pub(super) fn prefetch(&self, at: u32) {
        #[cfg(target_arch = "x86_64")]
        for line in 0..8 {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            let address = self.0.base.as_ptr().wrapping_add(at as usize + 64 * line);
            // SAFETY: it neither reads nor writes, and does not fault, whatever the address is.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast_const().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// Changes bytes at an address of the guest.
    ///
    /// # Panics
    ///
    /// As [`Self::bytes`].
    pub(super) fn write(&mut self, at: u32, bytes: &[u8]) {
        assert!(self.contains(at, bytes.len()), "a page lies within its memory");
        // SAFETY: they are accessible, and nobody else uses them, see the type's documentation.
        // What is copied is not theirs: nothing borrows a region while it is changed.
        unsafe {
            let start = self.0.base.as_ptr().add(at as usize);
            ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
        }
    }
}

#[cfg(test)]
mod tests;
