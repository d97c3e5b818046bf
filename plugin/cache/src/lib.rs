//! A filter that keeps blocks of another disk on a third one, like nbdkit's filter `cache`. It helps where
//! the disk beneath is slow and clients do not cache by themselves.
//!
//! `cache-device` is the export that has the space; its content is lost. Without one, the host makes a disk
//! in memory, of which 1 GiB are used at most, or a quarter of the memory limit if that is less. nbdkit makes
//! a temporary file instead. The data go between the clients and the two disks, and do not enter this
//! component, except for blocks that are written back.
//!
//! ```text
//! memnbd-host --export space=memory,1G \
//!             --export disk=file,disk.img,filter=cache,cache-device=space
//! ```
//!
//! - `cache=writeback`, the default: writes go to the cache, and to the disk beneath when a client flushes
//!   or the cache is full or has changed blocks of 1 GiB. A flush writes all changed blocks, and then flushes the disk beneath. So does a
//!   request with FUA.
//! - `cache=writethrough`: writes go to the disk beneath, and the cache forgets the block.
//! - `cache=unsafe`: as `writeback`, but flushes do nothing, and what was not written back before is lost in
//!   the end.
//!
//! `cache-on-read=true` keeps what is read as well; by default only writes and prefetches bring blocks into
//! the cache. nbdkit's `cache-on-read=/PATH` does not exist here. What is zeroed or trimmed goes to the disk
//! beneath, and leaves the cache, unless it was changed there.
//!
//! `cache-min-block-size` is the length of a block, 64K by default: a power of two from 4K to 32M, or that of
//! the disk beneath if that is larger. A write of a part of a block that is not in the cache copies the
//! block first.
//!
//! `cache-max-size` bounds the space; `cache-device` bounds it, too, and 2^22 blocks do. When more than
//! `cache-high-threshold` percent of it (95) are in use, the least recently used blocks leave until
//! `cache-low-threshold` percent (80) are, at most 64 at a time. If all blocks are in use by requests, others
//! go to the disk beneath.
//!
//! Other programs must not write to the disk beneath; while this filter is open, clients get its export and
//! `cache-device` for reading only. One instance routes all requests, each with two calls, and other
//! requests wait while it writes blocks back.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod routes;
mod slots;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Extent, Filter, Location, Lock, Lower,
    MAX_PARTS, MAX_SIZE, OpenRequest, Operation, Parameter, ParameterType, Place, Request, Results,
    Route, Rules,
};

use slots::Slots;

/// The lengths that a block can have.
const BLOCKS: core::ops::RangeInclusive<u64> = 4096..=32 << 20;

/// The most blocks that the cache has, which bounds the memory of this component.
const MAX_SLOTS: u64 = 1 << 22;

/// The most space that is used of a disk that the host makes, in bytes.
const DEFAULT_SPACE: u64 = 1 << 30;

/// The most blocks that leave the cache at a time.
const MAX_EVICTED: usize = 64;

/// The most blocks that a prefetch or a read brings into the cache.
const MAX_FILLED: usize = 64;

/// The most dirty bytes; what exceeds them is written back, or else a flush could take longer than a call
/// may.
const MAX_DIRTY_BYTES: u64 = 1 << 30;

/// The most dirty blocks that one request reaches in their slots.
const MAX_DIRTY: usize = 1000;

/// What happens to writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    WriteBack,
    WriteThrough,
    Unsafe,
}

/// What is to be done when a request has ended.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// The blocks whose slots it uses, and whether it writes to them.
    used: Vec<(u64, bool)>,
    /// The blocks that leave the cache, unless they are dirty.
    dropped: core::ops::Range<u64>,
}

/// A part of a block.
#[derive(Clone, Copy, Debug)]
struct Part {
    block: u64,
    /// The offset in the block.
    within: u64,
    length: u64,
    /// It is the whole block.
    is_whole: bool,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Cache {
    base: Lower,
    space: Lower,
    size: u64,
    block: u64,
    mode: Mode,
    on_read: bool,
    /// Above this many blocks, some leave.
    high: u64,
    /// As many blocks stay.
    low: u64,
    slots: Slots,
    pending: BTreeMap<u64, Pending>,
    /// The number of requests so far.
    count: u64,
}

impl Cache {
    fn block_length(&self, block: u64) -> u64 {
        self.block.min(self.size - block * self.block)
    }

    /// Returns the place of a part in its slot.
    fn cached(&self, slot: u64, within: u64) -> Location {
        self.space.at(slot * self.block + within)
    }

    fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = Part> + use<> {
        let (size, block_size, end) = (self.size, self.block, offset + length);
        let mut at = offset;
        core::iter::from_fn(move || {
            let left = end.checked_sub(at).filter(|left| *left > 0)?;
            let (block, within) = (at / block_size, at % block_size);
            let whole = block_size.min(size - block * block_size);
            let length = left.min(whole - within);
            at += length;
            Some(Part { block, within, length, is_whole: length == whole })
        })
    }

    /// Gives a block a slot, after others have left if the cache is full.
    fn insert(&mut self, block: u64) -> Option<u64> {
        if self.slots.len() >= self.high {
            self.evict();
        }
        // Other requests may use all blocks.
        if self.slots.len() < self.high { self.slots.insert(block) } else { None }
    }

    fn evict(&mut self) {
        let surplus = self.slots.len().saturating_sub(self.low).min(MAX_EVICTED as u64);
        for block in self.slots.idle(surplus as usize) {
            // What cannot be written back stays.
            if self.write_back(block).is_ok() {
                self.slots.remove(block);
            }
        }
    }

    /// Writes a block to the disk beneath, if that has not its content.
    fn write_back(&mut self, block: u64) -> Result<(), Error> {
        let Some(entry) = self.slots.get(block).copied().filter(|entry| entry.is_dirty) else {
            return Ok(());
        };
        let length = self.block_length(block);
        let mut bytes = vec![0; length.min(1 << 20) as usize];
        let mut at = 0;
        while at < length {
            let piece = &mut bytes[..(length - at).min(1 << 20) as usize];
            let from = self.cached(entry.slot, at);
            from.device.read(from.offset, piece)?;
            self.base.write(block * self.block + at, piece, false)?;
            at += piece.len() as u64;
        }
        // A write that is under way may be in the slot and not beneath.
        self.slots.set_dirty(block, entry.writers > 0);
        Ok(())
    }

    fn use_slot(&mut self, pending: &mut Pending, block: u64, writes: bool) {
        self.slots.touch(block);
        if let Some(entry) = self.slots.get_mut(block) {
            entry.users += 1;
            entry.writers += u32::from(writes);
            pending.used.push((block, writes));
            if writes {
                self.slots.set_dirty(block, true);
            }
        }
    }

    /// Brings a block into the cache by a copy, unless there is no room.
    fn fill(&mut self, route: Route, pending: &mut Pending, block: u64) -> (Route, Option<u64>) {
        let Some(slot) = self.insert(block) else { return (route, None) };
        let (from, to) = (self.base.at(block * self.block), self.cached(slot, 0));
        let route = route.copy(from, to, self.block_length(block));
        self.use_slot(pending, block, false);
        (route, Some(slot))
    }
}

impl Backend for Cache {
    fn describe() -> Description {
        let percent = |name, summary| Parameter::number(name, summary, 1, 100);
        Description::new(
            "cache",
            env!("CARGO_PKG_VERSION"),
            "another disk, with a cache on a third",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().unshared().required())
        .parameter(
            Parameter::device("cache-device", "the device that has the blocks of the cache")
                .scratch()
                .unshared()
                .default("a new disk in memory"),
        )
        .parameter(
            Parameter::choice(
                "cache",
                "whether writes go to the disk beneath at a flush, at once, or only if they must",
                &["writeback", "writethrough", "unsafe"],
            )
            .default("writeback"),
        )
        .parameter(
            Parameter::new(
                "cache-min-block-size",
                "the length of a block, a power of two",
                ParameterType::Size(*BLOCKS.start(), *BLOCKS.end()),
            )
            .default("64K"),
        )
        .parameter(Parameter::size("cache-max-size", "the space that blocks take at most").default(
            "that of cache-device; without one 1G, or a quarter of --max-memory if that is less",
        ))
        .parameter(
            percent("cache-high-threshold", "from this percentage of the space on, blocks leave")
                .default("95"),
        )
        .parameter(percent("cache-low-threshold", "until this percentage is in use").default("80"))
        .parameter(
            Parameter::boolean("cache-on-read", "whether what is read is kept as well")
                .default("false"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let space = request.device("cache-device").ok_or(Error::EINVAL)?;
        let block = request.size("cache-min-block-size").unwrap_or(64 << 10);
        if !block.is_power_of_two() {
            return Err(Error::EINVAL
                .because(format!("cache-min-block-size={block} must be a power of two")));
        }
        let geometry = base.geometry();
        let block =
            block.max(geometry.minimum_block.into()).max(space.geometry().minimum_block.into());
        if !space.geometry().capabilities.contains(Capabilities::WRITABLE) {
            return Err(Error::EINVAL.because("cache-device is read-only; it must be writable"));
        }
        let high = request.number("cache-high-threshold").unwrap_or(95) as u64;
        let low = request.number("cache-low-threshold").unwrap_or(80) as u64;
        if low >= high {
            return Err(Error::EINVAL.because(format!(
                "cache-low-threshold, {low}, must be less than cache-high-threshold, {high}"
            )));
        }
        let room = match space.geometry().size {
            // Made by the host, from the same memory as everything else of the disk.
            MAX_SIZE => DEFAULT_SPACE.min(request.memory_limit / 4),
            size => size,
        };
        let bytes = request.size("cache-max-size").unwrap_or(room).min(space.geometry().size);
        let limit = (bytes / block).min(MAX_SLOTS);
        let (high, low) = ((limit * high).div_ceil(100), limit * low / 100);
        if high == 0 {
            return Err(Error::EINVAL.because(format!(
                "the cache has {bytes} bytes; it must have at least one block of {block}"
            )));
        }
        Ok(Self {
            base,
            space,
            size: geometry.size,
            block,
            mode: match request.text("cache") {
                Some("writethrough") => Mode::WriteThrough,
                Some("unsafe") => Mode::Unsafe,
                _ => Mode::WriteBack,
            },
            on_read: request.boolean("cache-on-read").unwrap_or(false),
            high,
            low,
            slots: Slots::new(limit),
            pending: BTreeMap::new(),
            count: 0,
        })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        let own = Capabilities::FLUSH | Capabilities::CACHE | Capabilities::MULTI_CONN;
        Disk { capabilities: disk.capabilities | own, ..disk }
    }

    /// Reads what a route has no room for.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut rest = buffer;
        for part in self.parts(offset, rest.len() as u64) {
            let (bytes, after) = rest.split_at_mut(part.length as usize);
            rest = after;
            let place = match self.slots.get(part.block) {
                Some(entry) => self.cached(entry.slot, part.within),
                None => self.base.at(part.block * self.block + part.within),
            };
            place.device.read(place.offset, bytes)?;
        }
        Ok(())
    }

    /// Writes what a route has no room for, to the cache where that has the block.
    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        let mut rest = data;
        for part in self.parts(offset, data.len() as u64) {
            let (bytes, after) = rest.split_at(part.length as usize);
            rest = after;
            let to_base = self.mode == Mode::WriteThrough;
            let slot = self.slots.get(part.block).map(|entry| entry.slot);
            if let Some(slot) = slot {
                if !to_base {
                    self.slots.set_dirty(part.block, true);
                }
                let place = self.cached(slot, part.within);
                place.device.write(place.offset, bytes, false)?;
            }
            if slot.is_none() || to_base {
                self.base.write(part.block * self.block + part.within, bytes, fua)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.mode == Mode::Unsafe {
            return Ok(());
        }
        let dirty: Vec<u64> = self.slots.dirty().collect();
        for block in dirty {
            self.write_back(block)?;
        }
        self.base.flush()
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        self.base.extents(offset, length)
    }
}

impl Filter for Cache {
    /// A request that fills a block, changes it or makes it leave has the block alone.
    fn rules(&self) -> Rules {
        let read = if self.on_read { Lock::Exclusive } else { Lock::Shared };
        Rules { read, cache: Lock::Exclusive, ..Rules::shared_or_exclusive(self.block) }
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let mut pending = Pending::default();
        let blocks = request.length / self.block + 2;
        let route = match request.operation {
            // Copies and segments.
            Operation::Read | Operation::Write if 2 * blocks > MAX_PARTS as u64 => {
                return Ok(Route::new().segment(Place::Own, request.length));
            }
            Operation::Read => self.route_read(request, &mut pending),
            Operation::Write => self.route_write(request, &mut pending),
            Operation::Zero | Operation::Trim => self.route_drop(request, &mut pending)?,
            Operation::Cache => self.route_prefetch(request, &mut pending),
            Operation::Extents => self.route_extents(request, &mut pending),
        };
        if pending.used.is_empty() && pending.dropped.is_empty() {
            return Ok(route);
        }
        self.count += 1;
        self.pending.insert(self.count, pending);
        Ok(route.token(self.count))
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        let Some(pending) = self.pending.remove(&token) else { return Ok(()) };
        let succeeded = results.succeeded();
        for (block, writes) in pending.used {
            let Some(entry) = self.slots.get_mut(block) else { continue };
            entry.users -= 1;
            entry.writers -= u32::from(writes);
            if entry.is_new && entry.users == 0 {
                match succeeded {
                    true => entry.is_new = false,
                    // Nobody knows what is in the slot.
                    false => self.slots.remove(block),
                }
            }
        }
        // Even if it failed: what is beneath may have changed.
        let dropped = self.slots.within(pending.dropped).filter(|(_, entry)| !entry.is_dirty);
        let dropped: Vec<u64> = dropped.map(|(block, _)| block).collect();
        dropped.into_iter().for_each(|block| self.slots.remove(block));
        Ok(())
    }
}

memnbd_guest::filter!(Cache);

#[cfg(test)]
mod tests;
