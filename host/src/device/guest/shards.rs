//! The instances of a disk, and which of them serves what.
//!
//! A disk has a fixed number of shards. Each is a place for one instance, which is started when it
//! is first needed, and locked while a call is made or its memory is changed; those who only read
//! there share it. A striped disk gives each stripe to the shard that a hash of its number names, so
//! there is nothing to look up and nothing to remember: stripes are spread evenly whatever pattern
//! the client writes. There are enough shards for several cores to work side by side, and for each
//! to hold, filled evenly, half of what its 32-bit memory can hold when the disk's budget is used
//! up.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::{OpenError, Recipe};
use crate::block::Span;
use crate::component::{Breach, Disk, Fault, Instance, MemoryBudget, Sharing};
use crate::machine;

/// How much each shard of a striped disk is planned to hold, in bytes.
const PLANNED_PER_SHARD: u64 = 2 << 30;

/// A budget below twice this is not divided, in bytes: what is trimmed in one shard is of no use to the
/// others, and in a small budget that would be felt.
const LEAST_PER_SHARD: u64 = 512 << 20;

/// So much of a disk is worth a shard, in bytes: a small disk takes one, and with it few addresses
/// and mappings.
const LEAST_DISK_PER_SHARD: u64 = 64 << 20;

/// In tests of this crate, disks of some stripes have several shards.
const LEAST_DISK: u64 = if cfg!(test) { 64 << 10 } else { LEAST_DISK_PER_SHARD };

/// The most shards, as a logarithm. Each takes 4 GiB of the process's 128 TiB of addresses, and
/// some of the 65530 mappings that Linux gives to a process.
const MAX_BITS: u32 = 12;

/// How many calls an interchangeable component gets at once.
const INTERCHANGEABLE: usize = 16;

/// After a further instance could not be started, none is started for so many times as long as that
/// took, if it took longer than requests should: every request that needs one would.
const START_PAUSE: u32 = 10;
const SLOW_START: Duration = Duration::from_millis(5);

/// How often a busy shard is tried before the request is put aside: calls are often shorter than
/// putting aside takes.
const SPINS: usize = 64;

/// How often others may run first after that: who has the shard may have been interrupted.
const YIELDS: usize = 8;

/// A shard that is its holder's alone.
pub(super) type Locked = OwnedRwLockWriteGuard<Shard>;

/// A shard that others may look at, too.
pub(super) type Shared = OwnedRwLockReadGuard<Shard>;

/// Where a shard is.
struct ShardSlot {
    shard: Arc<RwLock<Shard>>,
    /// How many have given up trying and wait for their turn.
    waiting: AtomicUsize,
}

impl ShardSlot {
    fn new(instance: Option<Instance>) -> Self {
        let shard = Arc::new(RwLock::new(Shard { instance }));
        Self { shard, waiting: AtomicUsize::new(0) }
    }
}

/// The shards of one disk.
pub(super) struct Shards {
    recipe: Recipe,
    budget: MemoryBudget,
    slots: Box<[ShardSlot]>,
    layout: Layout,
    failure: Mutex<StartFailure>,
}

/// That further instances could not be started.
#[derive(Default)]
struct StartFailure {
    /// Until when no other is.
    until: Option<Instant>,
    /// It was logged, and none was started since.
    logged: bool,
}

enum Layout {
    /// One shard for everything.
    One,
    /// Any shard for anything; the number is where to look first.
    Any(AtomicUsize),
    /// Shards by stripe.
    Striped {
        /// The logarithm of the stripe's size.
        shift: u32,
        /// The logarithm of the number of shards.
        bits: u32,
    },
}

impl Shards {
    /// Starts a first instance and lays out the shards as it says.
    pub(super) async fn open(recipe: Recipe) -> Result<(Self, Disk), OpenError> {
        let budget = recipe.budgets.memory.clone();
        let opened = open_instance(&recipe, &budget).await;
        let (instance, disk) = opened.map_err(OpenError::Fault)?;
        let disk = disk.map_err(OpenError::Refused)?;
        let layout = match disk.sharing {
            Sharing::Exclusive => Layout::One,
            Sharing::Interchangeable => Layout::Any(AtomicUsize::new(0)),
            Sharing::Striped { shift } => Layout::Striped {
                shift,
                bits: shard_bits(disk.size, shift, budget.limit(), LEAST_DISK),
            },
        };
        let count = match layout {
            Layout::One => 1,
            Layout::Any(_) => INTERCHANGEABLE,
            Layout::Striped { bits, .. } => 1 << bits,
        };
        let mut first = Some(instance);
        let slots = (0..count).map(|_| ShardSlot::new(first.take())).collect();
        Ok((Self { recipe, budget, slots, layout, failure: Mutex::default() }, disk))
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

    /// The shards whose flushes together cover everything: the first so many.
    pub(super) fn to_flush(&self) -> usize {
        self.count()
    }

    pub(super) fn is_striped(&self) -> bool {
        matches!(self.layout, Layout::Striped { .. })
    }

    /// The shard that serves an offset.
    #[inline]
    pub(super) fn index(&self, offset: u64) -> usize {
        match &self.layout {
            Layout::One => 0,
            Layout::Any(next) => self.idle(next),
            Layout::Striped { bits: 0, .. } => 0,
            Layout::Striped { shift, bits } => {
                // Fibonacci hashing: 2^64 divided by the golden ratio, of which the top bits are
                // well spread for any arithmetic progression.
                let hash = (offset >> shift).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (hash >> (64 - bits)) as usize
            }
        }
    }

    /// A shard that is idle, one that was started if possible; else the next in turn.
    fn idle(&self, next: &AtomicUsize) -> usize {
        let unlocked = |index: &usize| self.shard(*index).try_write().is_ok();
        let turn = || next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        (0..self.slots.len()).find(unlocked).unwrap_or_else(turn)
    }

    /// How many bytes from an offset to the end of its stripe; without stripes, no end.
    #[inline]
    pub(super) fn left_in_stripe(&self, offset: u64) -> u64 {
        match self.layout {
            Layout::Striped { shift, .. } => (1 << shift) - (offset & ((1 << shift) - 1)),
            _ => u64::MAX,
        }
    }

    /// The part of a span that lies in its first stripe.
    pub(super) fn first_stripe(&self, span: Span) -> Span {
        Span { offset: span.offset, length: span.length.min(self.left_in_stripe(span.offset)) }
    }

    /// Whether to go through a span stripe by stripe takes no more calls than to ask every shard.
    pub(super) fn few_stripes(&self, span: Span) -> bool {
        match self.layout {
            Layout::Striped { shift, .. } => span.length >> shift < self.slots.len() as u64,
            _ => true,
        }
    }

    /// A shard, for those who do not wait for it.
    #[inline]
    pub(super) fn shard(&self, index: usize) -> &Arc<RwLock<Shard>> {
        &self.slots[index].shard
    }

    /// A shard, if nobody else uses it.
    fn try_lock(&self, index: usize) -> Option<Locked> {
        self.shard(index).clone().try_write_owned().ok()
    }

    /// Waits until nobody else uses a shard, and everybody who came before has had it: a lock that
    /// goes to whoever is there first lets a write overtake the trim that was sent before it. The
    /// protocol allows that, but clients count on it, as fio does in `rw=trimwrite`.
    pub(super) async fn lock(&self, index: usize) -> Locked {
        let slot = &self.slots[index];
        for attempt in 0..SPINS + YIELDS {
            if let Some(shard) = self.try_lock(index) {
                return shard;
            }
            if slot.waiting.load(Ordering::Relaxed) > 0 {
                // It is not going to be free before all of them have had it.
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
        shard
    }

    /// A started shard, one that is not in use if possible.
    pub(super) async fn any_started(&self) -> Option<Locked> {
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

    /// Starts the instance of a shard, which must open the same disk as the first one did. That it
    /// cannot be started says nothing against the disk.
    ///
    /// # Errors
    ///
    /// Why it could not be started, if that is worth being told.
    pub(super) async fn start(&self, shard: &mut Shard, disk: &Disk) -> Result<(), Option<Fault>> {
        let begin = Instant::now();
        if self.failure().until.is_some_and(|until| begin < until) {
            return Err(None);
        }
        match self.start_same(disk).await {
            Ok(instance) => {
                shard.instance = Some(instance);
                *self.failure() = StartFailure::default();
                Ok(())
            }
            Err(fault) => {
                let took = begin.elapsed();
                let mut failure = self.failure();
                failure.until = (took > SLOW_START).then(|| Instant::now() + START_PAUSE * took);
                // Want of memory is what the error code says.
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

    /// Drops the instance of a shard, which makes room for others.
    pub(super) fn stop(&self, shard: &mut Shard) {
        shard.stop();
        self.failure().until = None;
    }

    async fn start_same(&self, disk: &Disk) -> Result<Instance, Fault> {
        let (mut instance, opened) = open_instance(&self.recipe, &self.budget).await?;
        // What it says for people may differ.
        let same = |opened: &Disk| {
            Disk { description: disk.description.clone(), ..opened.clone() } == *disk
        };
        if opened.as_ref().is_ok_and(same) {
            return Ok(instance);
        }
        // What it says against the same arguments now may be that it cannot do with so little.
        Err(match instance.was_refused_memory() {
            true => Fault::NoMemory { limit: self.budget.limit() },
            false => Fault::Breach { function: "open", breach: Breach::AnotherDisk },
        })
    }

    /// The lines that the instances printed last.
    pub(super) fn recent_output(&self) -> Vec<String> {
        self.recipe.component.recent_output()
    }

    /// Drops all instances: those that are in use when their users have done with them.
    pub(super) fn clear(&self) -> impl Future<Output = ()> + Send + use<> {
        let shards: Vec<_> = self.slots.iter().map(|slot| slot.shard.clone()).collect();
        async move {
            for shard in shards {
                shard.write().await.stop();
            }
        }
    }
}

/// Starts an instance and lets it open the disk. The inner error is what the component says against
/// it.
async fn open_instance(
    recipe: &Recipe,
    budget: &MemoryBudget,
) -> Result<(Instance, Result<Disk, String>), Fault> {
    let mut instance = recipe.component.start(budget.clone()).await?;
    let disk = instance.open(&recipe.export_name, recipe.read_only, &recipe.parameters).await?;
    Ok((instance, disk))
}

/// How many shards a striped disk gets, as a logarithm.
fn shard_bits(size: u64, shift: u32, max_memory: u64, least_disk: u64) -> u32 {
    let cores = machine::processors().get() as u64;
    let most = size.min(max_memory);
    let wanted = (4 * cores).max(most.div_ceil(PLANNED_PER_SHARD)).next_power_of_two();
    let stripes = size.div_ceil(1 << shift).max(1).next_power_of_two();
    let worthwhile = (size / least_disk).max(1);
    let affordable = (max_memory / LEAST_PER_SHARD).max(1);
    let least = worthwhile.min(affordable);
    wanted.min(stripes).min(1 << least.ilog2()).min(1 << MAX_BITS).ilog2()
}

/// A place for an instance.
pub(super) struct Shard {
    instance: Option<Instance>,
}

impl Shard {
    pub(super) fn is_started(&self) -> bool {
        self.instance.is_some()
    }

    /// The instance, if it is started.
    #[inline]
    pub(super) fn started(&self) -> Option<&Instance> {
        self.instance.as_ref()
    }

    /// As [`Self::started`], to change it.
    #[inline]
    pub(super) fn started_mut(&mut self) -> Option<&mut Instance> {
        self.instance.as_mut()
    }

    /// The instance of a shard that was started.
    pub(super) fn instance(&self) -> &Instance {
        self.started().expect("a locked shard was started")
    }

    /// As [`Self::instance`], to call or change it.
    pub(super) fn instance_mut(&mut self) -> &mut Instance {
        self.started_mut().expect("a locked shard was started")
    }

    /// Drops the instance and gives its memory back.
    pub(super) fn stop(&mut self) {
        self.instance = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_the_budget_the_disk_and_the_cores() {
        let bits = |size, max_memory| shard_bits(size, 21, max_memory, LEAST_DISK_PER_SHARD);
        let gib = 1 << 30;
        assert_eq!(bits(1 << 62, 64 * gib), 5.max(bits(1 << 62, gib)));
        assert_eq!(bits(1 << 20, 64 * gib), 0, "a disk of one stripe has one shard");
        assert_eq!(bits(0, 64 * gib), 0);
        assert_eq!(bits(1 << 62, 1 << 20), 0, "a small budget is not divided");
        assert_eq!(bits(1 << 62, u64::MAX), MAX_BITS, "and the number is bounded");
        assert_eq!(bits(64 << 20, 64 * gib), 0, "nor is a small disk");
        assert_eq!(bits(127 << 20, 64 * gib), 0);
        assert!(bits(gib, 64 * gib) <= 4);
    }
}
