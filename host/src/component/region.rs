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
//! A mapping is unmapped when nobody has it any more: wasmtime, which has it through [`Linear`] as
//! long as the guest's store lives, and those who hold a [`Region`]. What is accessible of it stays so. To guests
//! and wasmtime the bytes of a linear memory are no more than bytes, of which any may change between
//! two calls; during a call nobody else must touch them, for which see [`Region`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::places::Places;

/// Makes memories for an engine, and knows them.
#[derive(Clone, Default)]
pub(super) struct Regions(Arc<Registry>);

#[derive(Default)]
struct Registry {
    /// By address.
    mappings: Mutex<BTreeMap<usize, Weak<Mapping>>>,
    /// A memory could not be mapped for want of memory or addresses.
    exhausted: AtomicBool,
}

/// Addresses, of which the first ones are accessible.
struct Mapping {
    base: NonNull<u8>,
    /// With the guard.
    length: usize,
    accessible: AtomicUsize,
    registry: Arc<Registry>,
}

// SAFETY: a pointer to memory that belongs to the mapping, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: nothing is read or written through a shared mapping but atomics.
unsafe impl Sync for Mapping {}

/// A memory as wasmtime has it.
struct Linear(Arc<Mapping>);

/// A memory as the host has it, whose guest is not in a call. Who may change it has the guest alone:
/// then nobody else reads or writes it. Others who look at it have the guest together. References
/// into it are good until the guest is called or changed. The methods borrow accordingly.
#[derive(Clone)]
pub(super) struct Region(Arc<Mapping>);

impl Regions {
    /// The memory that some bytes of a guest lie in, and where in it they are.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<(Region, u32)> {
        let address = bytes.as_ptr().addr();
        let mappings = self.0.mappings();
        let (&base, mapping) = mappings.range(..=address).next_back()?;
        let mapping = mapping.upgrade()?;
        let at = u32::try_from(address - base).ok()?;
        let region = Region(mapping);
        region.contains(at, bytes.len()).then_some((region, at))
    }

    /// Whether there was no room for a memory since this was last asked.
    pub(super) fn take_exhausted(&self) -> bool {
        self.0.exhausted.swap(false, Ordering::Relaxed)
    }

    fn map(
        &self,
        minimum: usize,
        reserved: Option<usize>,
        guard: usize,
    ) -> rustix::io::Result<Linear> {
        let reserved = reserved.unwrap_or(minimum).max(minimum);
        let length = reserved.checked_add(guard).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: addresses that the system chooses were nobody's before.
        let base = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags)
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let accessible = AtomicUsize::new(0);
        let mapping = Arc::new(Mapping { base, length, accessible, registry: self.0.clone() });
        self.0.mappings().insert(base.addr().get(), Arc::downgrade(&mapping));
        mapping.grow_to(minimum)?;
        Ok(Linear(mapping))
    }
}

impl Registry {
    fn mappings(&self) -> MutexGuard<'_, BTreeMap<usize, Weak<Mapping>>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mapping {
    fn grow_to(&self, size: usize) -> rustix::io::Result<()> {
        let before = self.accessible.load(Ordering::Relaxed);
        if size > before {
            // SAFETY: wasmtime grows a memory to less than what it had reserved, so that this is
            // within the mapping; nobody has used it before.
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
        self.registry.mappings().remove(&self.base.addr().get());
        // SAFETY: nobody has it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

// SAFETY: memory is zero at first, does not move, and is followed by what was asked for as a guard.
unsafe impl MemoryCreator for Regions {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        match self.map(minimum, reserved, guard) {
            Ok(linear) => Ok(Box::new(linear)),
            Err(error) => {
                self.0.exhausted.store(error == Errno::NOMEM, Ordering::Relaxed);
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
        self.0.length
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        Ok(self.0.grow_to(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base.as_ptr()
    }
}

impl Region {
    fn contains(&self, at: u32, length: usize) -> bool {
        let accessible = self.0.accessible.load(Ordering::Relaxed);
        (at as usize).checked_add(length).is_some_and(|end| end <= accessible)
    }

    /// Whether it is the same memory as another.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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

    /// Places to receive to, each an address of the guest and a length. None when two of them overlap,
    /// or when they are too many.
    ///
    /// # Panics
    ///
    /// As [`Self::bytes`].
    pub(super) fn places(&mut self, runs: &[(u32, u32)]) -> Option<Places<'_>> {
        let range = |(at, length)| u64::from(at)..u64::from(at) + u64::from(length);
        let mut places = Places::default();
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
            let place = unsafe {
                let start = self.0.base.as_ptr().add(at as usize);
                slice::from_raw_parts_mut(start, length)
            };
            if !places.push(place) {
                return None;
            }
        }
        Some(places)
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
mod tests {
    use super::*;
    use crate::component::places::MAX_RUNS;

    const PAGE: usize = 64 << 10;

    fn linear(regions: &Regions) -> Linear {
        regions.map(PAGE, Some(1 << 20), PAGE).unwrap()
    }

    /// The bytes at an address, as wasmtime has them.
    fn slice(linear: &Linear, at: usize, length: usize) -> &[u8] {
        assert!(at + length <= linear.byte_size());
        // SAFETY: they are accessible, and nobody changes them meanwhile.
        unsafe { slice::from_raw_parts(linear.as_ptr().add(at), length) }
    }

    #[test]
    fn what_is_written_is_there() {
        let regions = Regions::default();
        let mut memory = linear(&regions);
        assert!(slice(&memory, 0, PAGE).iter().all(|&byte| byte == 0));
        let (mut region, at) = regions.find(slice(&memory, 100, 50)).unwrap();
        assert_eq!(at, 100);
        region.write(at, b"here");
        assert_eq!(region.bytes(98, 8), b"\0\0here\0\0");
        assert_eq!(slice(&memory, 100, 4), b"here");
        memory.grow_to(3 * PAGE).unwrap();
        assert_eq!((memory.byte_size(), slice(&memory, 100, 4)), (3 * PAGE, &b"here"[..]));
        let (other, at) = regions.find(slice(&memory, 2 * PAGE, PAGE)).unwrap();
        assert_eq!(at as usize, 2 * PAGE);
        assert!(other.is(&region));
    }

    #[test]
    fn places_are_apart() {
        let regions = Regions::default();
        let memory = linear(&regions);
        let (mut region, _) = regions.find(slice(&memory, 0, PAGE)).unwrap();
        let mut places = region.places(&[(100, 10), (110, 10), (0, 100)]).unwrap();
        for (place, byte) in places.slices().iter_mut().zip(1..) {
            place.fill(byte);
        }
        let expected = [vec![3; 100], vec![1; 10], vec![2; 10], vec![0; 10]].concat();
        assert_eq!(region.bytes(0, 130), expected);
        for overlap in [(100, 1), (95, 6), (109, 1), (0, 200)] {
            assert!(region.places(&[(100, 10), overlap]).is_none(), "{overlap:?}");
        }
        let many: Vec<(u32, u32)> = (0..100).map(|at| (at, 1)).collect();
        assert!(region.places(&many[..MAX_RUNS]).is_some());
        assert!(region.places(&many).is_none());
    }

    #[test]
    #[should_panic = "a page lies within its memory"]
    fn nothing_is_received_beyond_what_is_accessible() {
        let regions = Regions::default();
        let memory = linear(&regions);
        let (mut region, _) = regions.find(slice(&memory, 0, PAGE)).unwrap();
        region.places(&[(0, 8), (PAGE as u32 - 1, 2)]);
    }

    #[test]
    #[should_panic = "a page lies within its memory"]
    fn nothing_is_read_beyond_what_is_accessible() {
        let regions = Regions::default();
        let memory = linear(&regions);
        let (region, _) = regions.find(slice(&memory, 0, PAGE)).unwrap();
        region.bytes(1, PAGE as u32);
    }

    #[test]
    #[should_panic = "a page lies within its memory"]
    fn nothing_is_written_beyond_what_is_accessible() {
        let regions = Regions::default();
        let memory = linear(&regions);
        let (mut region, _) = regions.find(slice(&memory, 0, PAGE)).unwrap();
        region.write(PAGE as u32 - 1, &[1, 2]);
    }

    #[test]
    fn memories_are_told_from_each_other_and_from_what_is_none() {
        let regions = Regions::default();
        let memories = [linear(&regions), linear(&regions)];
        let found = memories.each_ref().map(|memory| regions.find(slice(memory, 0, 8)).unwrap().0);
        assert!(found[0].is(&found[0]) && !found[0].is(&found[1]));
        assert!(regions.find(b"elsewhere").is_none());
        assert!(Regions::default().find(slice(&memories[0], 0, 8)).is_none());
        let [first, _] = memories;
        drop(first);
        assert_eq!(regions.0.mappings().len(), 2, "somebody has the region still");
        drop(found);
        assert_eq!(regions.0.mappings().len(), 1);
    }

    #[test]
    fn want_of_addresses_is_noticed_once() {
        let regions = Regions::default();
        let ty = MemoryType::new(1, None);
        assert!(regions.new_memory(ty, PAGE, None, Some(1 << 60), PAGE).is_err());
        assert!(regions.take_exhausted());
        assert!(!regions.take_exhausted());
    }
}
