//! The instances of a device, and which of them serves what.
//!
//! A device has a fixed number of shards. A shard holds one instance, which is started when it is
//! first needed. It is locked for writing while the instance is called or its memory is written,
//! and for reading while its memory is read. In a striped device, a hash of the stripe's number
//! selects the shard, so there is no table, and stripes are spread evenly whatever a client writes.
//! There are enough shards for several cores to work in parallel, and so many that each is about
//! half full (of the 4 GiB of a 32-bit memory) when the device's budget is used up.
//!
//! Interchangeable instances are in a pool instead, of any size. They count as one shard: to lock it
//! is to take an instance from the pool.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use super::pool::Pool;
use super::shard::{Locked, Shard};
use super::{DiskConfig, OpenError};
use crate::block::Span;
use crate::component::{Below, Breach, Call, Disk, Fault, Instance, MemoryBudget, Sharing};
use crate::machine;

/// How much each shard of a striped device is planned to hold, in bytes.
const PLANNED_PER_SHARD: u64 = 2 << 30;

/// The least budget per shard, in bytes. Memory that is trimmed in one shard is of no use to the
/// others, which would matter in a small budget.
const LEAST_PER_SHARD: u64 = 512 << 20;

/// The least size per shard, in bytes: a small device has one shard, and takes few addresses and
/// mappings.
const LEAST_DISK_PER_SHARD: u64 = 64 << 20;

/// In unit tests, devices of a few stripes have several shards.
const LEAST_DISK: u64 = if cfg!(test) { 64 << 10 } else { LEAST_DISK_PER_SHARD };

/// The logarithm of the most shards. Each takes 4 GiB of the process's 128 TiB of addresses, and
/// some of the 65530 mappings that Linux gives to a process.
const MAX_BITS: u32 = 12;

/// How many address spaces have to be left for each shard of a device, unless it needs the shards to hold
/// what it can hold.
const SPACES_LEFT_PER_SHARD: u64 = 1024;

/// After a failure to start a further instance that took longer than [`SLOW_START`], the next
/// attempt is made after this many times as long, for every request that needs an instance would
/// make one.
const START_PAUSE: u32 = 10;
const SLOW_START: Duration = Duration::from_millis(5);

/// How often to try to lock a busy shard before waiting for it: calls are often shorter than it
/// takes to spawn a task.
const SPINS: usize = 64;

/// How often to yield the processor after that: the holder of the lock may have been preempted.
const YIELDS: usize = 8;

/// A shard and its queue.
struct ShardSlot {
    shard: Arc<RwLock<Shard>>,
    /// The number of requests that wait for the lock.
    waiting: AtomicUsize,
}

impl ShardSlot {
    fn new(instance: Option<Instance>) -> Self {
        let shard = Arc::new(RwLock::new(Shard::new(instance)));
        Self { shard, waiting: AtomicUsize::new(0) }
    }
}

/// The shards of a device.
pub(super) struct Shards {
    config: DiskConfig,
    /// The devices on which it stands.
    below: Option<Arc<dyn Below>>,
    budget: MemoryBudget,
    /// None if the instances are in a pool.
    slots: Box<[ShardSlot]>,
    layout: Layout,
    failure: Mutex<StartFailure>,
}

/// Failures to start further instances.
#[derive(Default)]
struct StartFailure {
    /// When the next attempt may be made.
    until: Option<Instant>,
    /// A failure was logged, and no instance was started since.
    logged: bool,
}

enum Layout {
    /// One shard for everything.
    One,
    /// Any instance for anything.
    Any(Arc<Pool>),
    /// Shards by stripe.
    Striped {
        /// The logarithm of the stripe's size.
        shift: u32,
        /// The logarithm of the number of shards.
        bits: u32,
    },
}

impl Shards {
    /// Starts a first instance and lays out the shards as its `open` demands.
    pub(super) async fn open(
        config: DiskConfig,
        below: Option<Arc<dyn Below>>,
    ) -> Result<(Self, Disk), OpenError> {
        let budget = config.budgets.memory.clone();
        let before = budget.used();
        let opened = open_instance(&config, &budget, below.as_ref()).await;
        let (instance, disk) = opened.map_err(OpenError::Fault)?;
        let disk = disk.map_err(OpenError::Refused)?;
        let slots = |instance, count| {
            let mut first = Some(instance);
            (0..count).map(|_| ShardSlot::new(first.take())).collect()
        };
        let (layout, slots) = match disk.sharing {
            Sharing::Exclusive => (Layout::One, slots(instance, 1)),
            Sharing::Interchangeable => {
                let memory = budget.used().saturating_sub(before);
                (Layout::Any(Pool::new(instance, memory, budget.limit())), Box::default())
            }
            Sharing::Striped { shift } => {
                let parallel = parallel_shards(budget.spaces_left());
                let bits = shard_bits(disk.size, shift, budget.limit(), LEAST_DISK, parallel);
                (Layout::Striped { shift, bits }, slots(instance, 1 << bits))
            }
        };
        Ok((Self { config, below, budget, slots, layout, failure: Mutex::default() }, disk))
    }

    pub(super) fn memory(&self) -> &MemoryBudget {
        &self.budget
    }

    pub(super) fn count(&self) -> usize {
        match self.layout {
            Layout::Any(_) => 1,
            _ => self.slots.len(),
        }
    }

    /// Whether each request may be served by another instance.
    pub(super) fn is_pool(&self) -> bool {
        matches!(self.layout, Layout::Any(_))
    }

    pub(super) fn is_striped(&self) -> bool {
        matches!(self.layout, Layout::Striped { .. })
    }

    /// Returns the index of the shard that serves an offset.
    #[inline]
    pub(super) fn index(&self, offset: u64) -> usize {
        match &self.layout {
            Layout::One | Layout::Any(_) => 0,
            Layout::Striped { bits: 0, .. } => 0,
            Layout::Striped { shift, bits } => {
                // Fibonacci hashing: multiplied by 2^64 divided by the golden ratio, the top bits
                // are spread well for any arithmetic progression.
                let hash = (offset >> shift).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (hash >> (64 - bits)) as usize
            }
        }
    }

    /// Returns the number of bytes from an offset to the end of its stripe, if there are stripes.
    #[inline]
    pub(super) fn left_in_stripe(&self, offset: u64) -> u64 {
        match self.layout {
            Layout::Striped { shift, .. } => (1 << shift) - (offset & ((1 << shift) - 1)),
            _ => u64::MAX,
        }
    }

    /// Returns the part of a span that lies in its first stripe.
    pub(super) fn first_stripe(&self, span: Span) -> Span {
        Span { offset: span.offset, length: span.length.min(self.left_in_stripe(span.offset)) }
    }

    /// Whether a span has fewer stripes than there are shards.
    pub(super) fn few_stripes(&self, span: Span) -> bool {
        match self.layout {
            Layout::Striped { shift, .. } => span.length >> shift < self.slots.len() as u64,
            _ => true,
        }
    }

    /// Returns a shard that is not in a pool, to try to lock it.
    #[inline]
    pub(super) fn shard(&self, index: usize) -> &Arc<RwLock<Shard>> {
        &self.slots[index].shard
    }

    /// Locks a shard, if it is not locked.
    fn try_lock(&self, index: usize) -> Option<Locked> {
        self.shard(index).clone().try_write_owned().ok().map(Locked::Slot)
    }

    /// Locks a shard, in the order of arrival: an unfair lock would let a write overtake the trim
    /// that was sent before it. The protocol allows that, but clients such as fio (`rw=trimwrite`)
    /// count on the order.
    pub(super) async fn lock(&self, index: usize) -> Locked {
        if let Layout::Any(pool) = &self.layout {
            return Locked::Pooled(pool.take().await);
        }
        let slot = &self.slots[index];
        for attempt in 0..SPINS + YIELDS {
            if let Some(shard) = self.try_lock(index) {
                return shard;
            }
            if slot.waiting.load(Ordering::Relaxed) > 0 {
                // They come first.
                break;
            }
            match attempt < SPINS {
                true => std::hint::spin_loop(),
                false => thread::yield_now(),
            }
        }
        slot.waiting.fetch_add(1, Ordering::Relaxed);
        let shard = slot.shard.clone().write_owned().await;
        slot.waiting.fetch_sub(1, Ordering::Relaxed);
        Locked::Slot(shard)
    }

    /// Locks a started shard, an idle one if possible.
    pub(super) async fn any_started(&self) -> Option<Locked> {
        if let Layout::Any(pool) = &self.layout {
            return pool.take_started().await.map(Locked::Pooled);
        }
        let indexes = 0..self.slots.len();
        let started = |index| self.try_lock(index).filter(|shard| shard.is_started());
        if let Some(shard) = indexes.clone().find_map(started) {
            return Some(shard);
        }
        for index in indexes {
            let shard = self.lock(index).await;
            if shard.is_started() {
                return Some(shard);
            }
        }
        None
    }

    /// Starts the instance of a shard, which must open the same disk as the first one did. A
    /// failure does not affect the device.
    ///
    /// # Errors
    ///
    /// Returns the cause if it should be logged.
    pub(super) async fn start(&self, shard: &mut Shard, disk: &Disk) -> Result<(), Option<Fault>> {
        let begin = Instant::now();
        if self.failure().until.is_some_and(|until| begin < until) {
            return Err(None);
        }
        match self.start_same(disk).await {
            Ok(instance) => {
                *shard = Shard::new(Some(instance));
                *self.failure() = StartFailure::default();
                Ok(())
            }
            Err(fault) => {
                let took = begin.elapsed();
                let mut failure = self.failure();
                failure.until = (took > SLOW_START).then(|| Instant::now() + START_PAUSE * took);
                // Want of memory is not logged: the client gets ENOSPC.
                let told = matches!(fault, Fault::OutOfMemory { .. } | Fault::NoMemory { .. })
                    || failure.logged;
                failure.logged |= !told;
                Err((!told).then_some(fault))
            }
        }
    }

    fn failure(&self) -> MutexGuard<'_, StartFailure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the instance of a shard, which frees memory for others.
    pub(super) fn stop(&self, shard: &mut Shard) {
        shard.stop();
        self.failure().until = None;
    }

    async fn start_same(&self, disk: &Disk) -> Result<Instance, Fault> {
        let (mut instance, opened) =
            open_instance(&self.config, &self.budget, self.below.as_ref()).await?;
        // The description may differ.
        let same = |opened: &Disk| {
            Disk { description: disk.description.clone(), ..opened.clone() } == *disk
        };
        if opened.as_ref().is_ok_and(same) {
            return Ok(instance);
        }
        // It may refuse the same parameters now because it got too little memory.
        Err(match instance.was_refused_memory() {
            true => Fault::NoMemory { limit: self.budget.limit() },
            false => Fault::Breach { call: Call::Open, breach: Breach::AnotherDisk },
        })
    }

    /// Returns the name of the component.
    pub(super) fn component_name(&self) -> &str {
        &self.config.component.description().name
    }

    /// Returns the lines that the instances printed last.
    pub(super) fn recent_output(&self) -> Vec<String> {
        self.config.component.recent_output()
    }

    /// Waits until the leases that were given before have ended.
    pub(super) async fn end_leases(&self) {
        for slot in &self.slots {
            drop(slot.shard.write().await);
        }
    }

    /// Drops all instances, each as soon as its lock is free.
    pub(super) fn clear(&self) -> impl Future<Output = ()> + Send + use<> {
        let shards: Vec<_> = self.slots.iter().map(|slot| slot.shard.clone()).collect();
        let pool = match &self.layout {
            Layout::Any(pool) => Some(pool.clone()),
            _ => None,
        };
        async move {
            if let Some(pool) = pool {
                pool.close();
            }
            for shard in shards {
                shard.write().await.stop();
            }
        }
    }
}

/// Starts an instance and calls its `open`. The inner error is the component's message.
async fn open_instance(
    config: &DiskConfig,
    budget: &MemoryBudget,
    below: Option<&Arc<dyn Below>>,
) -> Result<(Instance, Result<Disk, String>), Fault> {
    let mut instance = config.component.start(budget.clone()).await?;
    if let Some(below) = below {
        instance.stand_on(below.clone());
    }
    if let Some(client) = &config.client {
        instance.serve_only(client);
    }
    let disk = instance.open(&config.export_name, config.read_only, &config.arguments).await?;
    Ok((instance, disk))
}

/// Returns the number of shards with which a device makes use of the processor's cores, of those that this
/// number of address spaces allows: a thousand devices that use them all leave some for others.
fn parallel_shards(spaces_left: u64) -> u64 {
    let cores = machine::processors().get() as u64;
    (4 * cores).min(spaces_left / SPACES_LEFT_PER_SHARD)
}

/// Returns the logarithm of the number of shards of a striped device: `parallel`, or more if they are
/// needed to hold what the device can hold.
fn shard_bits(size: u64, shift: u32, max_memory: u64, least_disk: u64, parallel: u64) -> u32 {
    let most = size.min(max_memory);
    let wanted = parallel.max(most.div_ceil(PLANNED_PER_SHARD)).max(1).next_power_of_two();
    let stripes = size.div_ceil(1 << shift).max(1).next_power_of_two();
    let worthwhile = (size / least_disk).max(1);
    let affordable = (max_memory / LEAST_PER_SHARD).max(1);
    let least = worthwhile.min(affordable);
    wanted.min(stripes).min(1 << least.ilog2()).min(1 << MAX_BITS).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_the_budget_the_disk_and_the_cores() {
        let bits = |size, max_memory| shard_bits(size, 21, max_memory, LEAST_DISK_PER_SHARD, 16);
        let gib = 1 << 30;
        assert_eq!(bits(1 << 62, 64 * gib), 5.max(bits(1 << 62, gib)));
        assert_eq!(bits(1 << 20, 64 * gib), 0, "a disk of one stripe has one shard");
        assert_eq!(bits(0, 64 * gib), 0);
        assert_eq!(bits(1 << 62, 1 << 20), 0, "a small budget is not divided");
        assert_eq!(bits(1 << 62, u64::MAX), MAX_BITS, "and the number is bounded");
        assert_eq!(bits(64 << 20, 64 * gib), 0, "nor is a small disk");
        assert_eq!(bits(127 << 20, 64 * gib), 0);
        assert_eq!(bits(gib, 64 * gib), 4);
    }

    #[test]
    fn shards_leave_address_spaces_to_a_thousand_disks() {
        let mut left = 24_000;
        for _ in 0..1000 {
            let shards =
                1 << shard_bits(1 << 30, 21, 64 << 30, LEAST_DISK_PER_SHARD, parallel_shards(left));
            // A memory and a stack each, and those of two other disks.
            left -= 2 * shards + 4;
        }
        assert!(left > 1000, "{left}");
        assert_eq!(
            shard_bits(16 << 30, 21, 64 << 30, LEAST_DISK_PER_SHARD, 0),
            3,
            "what it can hold"
        );
    }
}
