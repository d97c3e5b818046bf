//! The linear memories of guests, mapped by the host itself so that it can access the guest's pages
//! directly.
//!
//! The layout is the same as wasmtime's: a reservation as large as a 32-bit memory can grow,
//! followed by a guard region, all of it inaccessible except for the current memory of the guest.
//! What wasmtime does not offer is changing a guest's memory outside of a call. That turns a write
//! to a known page (see `direct`) into one copy without a call, instead of a call and two copies:
//! on 4 connections, a write of 4 KiB takes 2.6 us instead of 3.7 us, and one connection that
//! writes 256 KiB at a time is 15 % faster.
//!
//! Huge pages are not requested. They make random reads 15 % faster, but in a virtual machine whose
//! host reclaims free memory, the first write to many GiB takes three to six times as long with
//! them.
//!
//! # Safety
//!
//! Compiled code omits bounds checks: it relies on the guard region, and on the memory never
//! growing into it. So a [`Mapping`] fixes its reservation and its guard when it is created, and
//! refuses to make anything beyond the reservation accessible, whatever wasmtime asks for. It
//! trusts neither the memory type nor the engine's settings: it refuses a memory whose reservation
//! is smaller than the maximum size of its type.
//!
//! A mapping is unmapped when its last owner is dropped. The owners are wasmtime, which holds it
//! through [`Linear`] while the guest's store lives, and the holders of a [`Region`]. Memory that
//! has been made accessible stays accessible. To guests and to wasmtime, the bytes of a linear
//! memory are plain bytes, any of which may change between two calls; during a call nobody else may
//! touch them. The shard's lock ensures that: it protects an instance and its regions. Calls, and
//! writes through a region, hold the write lock; reads through a region hold the read lock.

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

/// Creates the linear memories of an engine.
#[derive(Clone, Copy, Default)]
pub(super) struct Regions;

/// The memories of one instance, and whether mapping one failed.
#[derive(Default)]
pub(super) struct Memories {
    regions: Vec<Region>,
    /// Whether a memory could not be mapped for lack of memory, address space or mappings.
    exhausted: bool,
}

thread_local! {
    /// Collects the memories that are created on this thread.
    static MEMORIES: RefCell<Option<Memories>> = const { RefCell::new(None) };
}

/// A range of addresses, of which the first `accessible` bytes are accessible.
struct Mapping {
    base: NonNull<u8>,
    /// How far it may grow, in bytes. The guard region follows.
    reserved: usize,
    /// The length of the mapping in bytes, including the guard region.
    length: usize,
    accessible: AtomicUsize,
}

// SAFETY: `base` points to memory that belongs to the mapping, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through a shared mapping, only atomics are read and written.
unsafe impl Sync for Mapping {}

/// Wasmtime's handle to a memory.
struct Linear(Arc<Mapping>);

/// The host's access to the memory of a guest that is not in a call. Readers hold the read lock of
/// the instance's shard, writers its write lock. References are valid until the guest is called or
/// the memory is written. The methods borrow accordingly, so each memory has one region, which
/// cannot be cloned.
pub(super) struct Region(Arc<Mapping>);

/// A place in the memory of a guest, which may be unmapped by now.
///
/// A page of a large disk is not in the processor's caches, nor is its translation in the TLB. With
/// random access to 4 KiB, half of the server's time was waiting for the two. Waiting for several
/// pages at a time takes hardly longer than for one: on 4 connections with 16 requests each, the
/// server's 2.5 us for a read became 1.9, and its 2.6 us for a write 2.2.
#[derive(Clone, Copy)]
pub struct Hint(*const u8);

impl Hint {
    /// Has the processor fetch the first cache lines at the place; it detects how to go on.
    #[inline]
    pub fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        for line in 0..8 {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            let address = self.0.wrapping_add(64 * line);
            // SAFETY: it neither reads nor writes, and does not fault, whatever the address is.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
        }
        // Elsewhere there is no stable intrinsic for it.
        #[cfg(not(target_arch = "x86_64"))]
        let _ = self.0;
    }
}

/// Drives a future that starts an instance, and collects the memories that are created for it.
///
/// Wasmtime does not say which store a memory is for, but it creates the memory within the poll.
/// The alternative, a registry of all memories, would be a lock shared by all guests of the
/// process.
pub(super) async fn collect<F: Future>(starting: F) -> (F::Output, Memories) {
    let mut starting = pin!(starting);
    let mut memories = Some(Memories::default());
    poll_fn(|cx| {
        /// Restores the thread's previous value, also on a panic.
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
    /// Returns whether a memory could not be mapped for lack of memory, address space or mappings.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Removes and returns the memory that contains the given bytes of the guest.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<Region> {
        let index = self.regions.iter().position(|region| region.position(bytes).is_some())?;
        Some(self.regions.swap_remove(index))
    }
}

impl Mapping {
    fn new(minimum: usize, reserved: usize, guard: usize) -> rustix::io::Result<Self> {
        let page = rustix::param::page_size();
        // The guard must begin at a page boundary, because the kernel protects whole pages.
        if minimum > reserved || !reserved.is_multiple_of(page) || !guard.is_multiple_of(page) {
            return Err(Errno::INVAL);
        }
        let length = reserved.checked_add(guard).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses addresses that were not in use.
        let base = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags)
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let mapping = Self { base, reserved, length, accessible: AtomicUsize::new(0) };
        mapping.grow_to(minimum)?;
        Ok(mapping)
    }

    /// Makes the first `size` bytes accessible. What is already accessible stays so.
    ///
    /// # Errors
    ///
    /// Returns an error if `size` exceeds the reservation or is not a multiple of the page size, or
    /// if the system call fails.
    fn grow_to(&self, size: usize) -> rustix::io::Result<()> {
        if size > self.reserved {
            return Err(Errno::NOMEM);
        }
        if !size.is_multiple_of(rustix::param::page_size()) {
            return Err(Errno::INVAL);
        }
        let before = self.accessible.load(Ordering::Relaxed);
        if size > before {
            // SAFETY: both sizes are multiples of the page size, and `size` is at most `reserved`,
            // as checked above, so the range is within the mapping and does not reach the guard. It
            // was inaccessible until now, so nobody has used it.
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
        // SAFETY: this is the last owner of the mapping, so nobody uses it any more.
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
        // Wasmtime passes the reservation that its code expects. If it passes none, it expects the
        // memory to move.
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

/// Returns the maximum size of a memory of this type, in bytes.
fn most(ty: &MemoryType) -> u64 {
    let pages = ty.maximum().unwrap_or(u64::MAX);
    pages.saturating_mul(ty.page_size()).min(1 << 32)
}

// SAFETY: the memory is zeroed at first, does not move, and is followed by a guard region of the
// requested size, which it never grows into.
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
                        // EAGAIN means a limit on locked memory, which is a lack of memory as well.
                        memories.exhausted |= matches!(error, Errno::NOMEM | Errno::AGAIN);
                    }
                });
                Err(format!("map a memory: {error}"))
            }
        }
    }
}

// SAFETY: see `MemoryCreator` above.
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
    /// Returns the position of the given bytes of the guest in this memory, if it contains them.
    pub(super) fn position(&self, bytes: &[u8]) -> Option<u32> {
        let at = bytes.as_ptr().addr().checked_sub(self.0.base.addr().get())?;
        let at = u32::try_from(at).ok()?;
        self.contains(at, bytes.len()).then_some(at)
    }

    fn contains(&self, at: u32, length: usize) -> bool {
        let accessible = self.0.accessible.load(Ordering::Relaxed);
        (at as usize).checked_add(length).is_some_and(|end| end <= accessible)
    }

    /// Returns the bytes at an address of the guest.
    ///
    /// # Panics
    ///
    /// Panics if they are not within the guest's memory.
    pub(super) fn bytes(&self, at: u32, length: u32) -> &[u8] {
        assert!(self.contains(at, length as usize), "a page lies within its memory");
        // SAFETY: the bytes are accessible, they are initialized (by the kernel), and nobody
        // changes them; see the documentation of the type.
        unsafe {
            let start = self.0.base.as_ptr().add(at as usize);
            slice::from_raw_parts(start, length as usize)
        }
    }

    /// Returns buffers to receive into, one for each run: an address of the guest and a length.
    /// Returns `None` if two runs overlap or there are too many.
    ///
    /// # Panics
    ///
    /// Panics if a run is not within the guest's memory.
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
            // SAFETY: the bytes are accessible, they are initialized (by the kernel), and nobody
            // else uses them; see the documentation of the type. The slices created before do not
            // overlap them.
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

    /// The place of the bytes at an address of the guest, to be prefetched.
    #[inline]
    pub(super) fn hint(&self, at: u32) -> Hint {
        Hint(self.0.base.as_ptr().wrapping_add(at as usize).cast_const())
    }

    /// Writes bytes at an address of the guest.
    ///
    /// # Panics
    ///
    /// Panics if they are not within the guest's memory.
    pub(super) fn write(&mut self, at: u32, bytes: &[u8]) {
        assert!(self.contains(at, bytes.len()), "a page lies within its memory");
        // SAFETY: the destination is accessible, and nobody else uses it; see the documentation of
        // the type. The source does not overlap it: nothing borrows from a region while it is
        // written.
        unsafe {
            let start = self.0.base.as_ptr().add(at as usize);
            ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
        }
    }
}

#[cfg(test)]
mod tests;
