//! Heat: which regions of a disk are read and written, counted while somebody looks.
//!
//! [`Heat::look`] allocates counters, which are dropped when nobody has looked for [`KEPT`]. Each connection
//! counts through a [`Tap`] of its own, without a lock. While nobody looks, a request costs a comparison, and
//! a disk no memory.
//!
//! This module does not know who looks, or how regions are shown.

use std::mem;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::block::{Command, Operation};
use crate::budget::Held;
use crate::component::MemoryBudget;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};

/// The most regions of a disk.
pub const REGIONS: u32 = 1024;

/// How long counters are kept after somebody looked.
pub const KEPT: Duration = Duration::from_secs(60);

/// The time after which what was counted before a look counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(10);

/// What connections count of a disk by region.
#[derive(Clone, Default)]
pub struct Heat(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Changes whenever counters are allocated or dropped, so that taps need no lock to find out.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watch: Option<Watch>,
    /// A task waits for the time to drop the counters.
    has_end: bool,
}

/// The counters of a disk that somebody looks at.
struct Watch {
    regions: Arc<Regions>,
    /// What was counted before the last look, as it had decayed then.
    past: Box<[Transferred<f64>]>,
    looked: Instant,
}

/// A disk, divided into regions of equal lengths.
struct Regions {
    /// The size of the disk, in bytes.
    size: u64,
    /// The length of each region but the last one, in bytes.
    length: u64,
    /// What was counted since the last look.
    counters: Box<[Transferred<AtomicU64>]>,
    _charged: Held,
}

/// The bytes of a region that were read and written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transferred<T> {
    /// The bytes that were read.
    pub read: T,
    /// The bytes that were written, zeroed or trimmed.
    pub written: T,
}

/// The regions of a disk, and what was counted of each, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// The size of the disk, in bytes.
    pub size: u64,
    /// The length of each region but the last one, in bytes.
    pub length: u64,
    /// What was counted since the look before this one, and what was counted earlier as it has decayed:
    /// after each [`HALF_LIFE`] it counts half.
    pub regions: Vec<Transferred<u64>>,
}

impl Heat {
    /// Opens the tap of a new connection.
    pub fn tap(&self) -> Tap {
        // Others begin with zero.
        Tap { heat: self.clone(), generation: 0, is_watched: false, regions: Weak::new() }
    }

    /// Returns what was counted of a disk of this size, and has requests counted until [`KEPT`] from now. If
    /// none were until now, the counters are charged to `memory` as long as they exist. Must be called in the
    /// context of a tokio runtime.
    ///
    /// Returns `None` if there is not enough memory.
    pub fn look(&self, size: u64, memory: &MemoryBudget) -> Option<HeatMap> {
        let (map, needs_end) = self.look_at(Instant::now(), size, memory)?;
        if needs_end {
            tokio::spawn(end_when_nobody_looks(Arc::downgrade(&self.0)));
        }
        Some(map)
    }

    /// As [`Self::look`]. If the second value is true, the caller spawns [`end_when_nobody_looks`].
    fn look_at(&self, now: Instant, size: u64, memory: &MemoryBudget) -> Option<(HeatMap, bool)> {
        let mut state = self.0.state();
        let mut present = match state.watch.take().filter(|watch| watch.regions.size == size) {
            Some(present) => present,
            None => {
                self.0.generation.fetch_add(1, Ordering::Relaxed);
                Watch::new(size, memory, now)?
            }
        };
        let map = present.look(now);
        state.watch = Some(present);
        Some((map, !mem::replace(&mut state.has_end, true)))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the counters if nobody has looked for long, or else returns when that may be the case.
    fn end_or_deadline(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let end = state.watch.as_ref().map(|watch| watch.looked + KEPT);
        if end.is_some_and(|end| end > now) {
            return end;
        }
        *state = State::default();
        self.generation.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Waits until nobody has looked for long, and drops the counters.
async fn end_when_nobody_looks(shared: Weak<Shared>) {
    let next = || shared.upgrade()?.end_or_deadline(Instant::now());
    while let Some(end) = next() {
        sleep_until(end).await;
    }
}

impl Watch {
    fn new(size: u64, memory: &MemoryBudget, now: Instant) -> Option<Self> {
        let regions = Arc::new(Regions::new(size, memory)?);
        let past = regions.counters.iter().map(|_| Transferred::default()).collect();
        Some(Self { regions, past, looked: now })
    }

    /// Takes what was counted since the last look.
    fn look(&mut self, now: Instant) -> HeatMap {
        let half_lives = now.duration_since(self.looked).as_secs_f64() / HALF_LIFE.as_secs_f64();
        let left = (-half_lives).exp2();
        self.looked = now;
        let take = |counter: &AtomicU64, past: &mut f64| {
            *past = *past * left + counter.swap(0, Ordering::Relaxed) as f64;
            *past as u64
        };
        let all = self.regions.counters.iter().zip(&mut self.past);
        let regions = all.map(|(counters, past)| Transferred {
            read: take(&counters.read, &mut past.read),
            written: take(&counters.written, &mut past.written),
        });
        let regions = regions.collect();
        let Regions { size, length, .. } = *self.regions;
        HeatMap { size, length, regions }
    }
}

impl Regions {
    /// What a region takes, in bytes.
    const COST: usize = size_of::<Transferred<AtomicU64>>() + size_of::<Transferred<f64>>();

    fn new(size: u64, memory: &MemoryBudget) -> Option<Self> {
        let length = size.div_ceil(u64::from(REGIONS)).max(1);
        let count = size.div_ceil(length) as usize;
        let charged = memory.hold((count * Self::COST) as u64)?;
        let counters = (0..count).map(|_| Transferred::default()).collect();
        Some(Self { size, length, counters, _charged: charged })
    }

    /// Counts a command. What is beyond the end, which a disk of another size may have, counts for the last
    /// region. A counter that overflows begins anew, which takes 2000 trims of the largest disk between two
    /// looks.
    fn count(&self, command: &Command) {
        let counter: fn(&Transferred<AtomicU64>) -> &AtomicU64 = match command.operation() {
            Operation::Read => |region| &region.read,
            Operation::Write | Operation::Zero | Operation::Trim => |region| &region.written,
            Operation::Flush | Operation::Cache | Operation::Extents => return,
        };
        let last = self.counters.len().saturating_sub(1);
        let mut left = command.span();
        let first = usize::try_from(left.offset / self.length).unwrap_or(last).min(last);
        for (index, region) in self.counters.iter().enumerate().skip(first) {
            let end = (index as u64 + 1) * self.length;
            let here = match index == last {
                true => left.length,
                false => left.length.min(end - left.offset),
            };
            counter(region).fetch_add(here, Ordering::Relaxed);
            left = left.after(here);
            if left.length == 0 {
                break;
            }
        }
    }
}

/// A connection's way to count.
pub struct Tap {
    heat: Heat,
    /// The generation of what follows.
    generation: u64,
    is_watched: bool,
    /// Counters that were dropped take no memory but their header.
    regions: Weak<Regions>,
}

impl Tap {
    /// Counts a command that was admitted, if somebody looks at the disk.
    #[inline]
    pub fn count(&mut self, command: &Command) {
        if self.heat.0.generation.load(Ordering::Relaxed) != self.generation {
            self.renew();
        }
        if self.is_watched {
            self.count_watched(command);
        }
    }

    #[cold]
    fn renew(&mut self) {
        let state = self.heat.0.state();
        // It changes while the lock is held.
        self.generation = self.heat.0.generation.load(Ordering::Relaxed);
        self.is_watched = state.watch.is_some();
        let regions = state.watch.as_ref().map(|watch| Arc::downgrade(&watch.regions));
        self.regions = regions.unwrap_or_default();
    }

    #[cold]
    fn count_watched(&self, command: &Command) {
        if let Some(regions) = self.regions.upgrade() {
            regions.count(command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Span;

    const REGION: u64 = 1 << 20;
    const SIZE: u64 = REGION * REGIONS as u64;

    fn read(offset: u64, length: u64) -> Command {
        Command::Read { span: Span { offset, length } }
    }

    fn write(offset: u64, length: u64) -> Command {
        Command::Write { span: Span { offset, length }, fua: false }
    }

    /// A disk that is looked at.
    struct Looked {
        heat: Heat,
        memory: MemoryBudget,
        begin: Instant,
    }

    impl Looked {
        fn new(memory: u64) -> Self {
            let memory = MemoryBudget::new(memory);
            Self { heat: Heat::default(), memory, begin: Instant::now() }
        }

        /// Looks so long after the beginning. Returns the regions that were read or written: their numbers, and
        /// the bytes.
        fn warm(&self, after: Duration) -> Vec<(usize, u64, u64)> {
            let looked = self.heat.look_at(self.begin + after, SIZE, &self.memory);
            let HeatMap { size, length, regions } = looked.unwrap().0;
            assert_eq!((size, length), (SIZE, REGION));
            let all = regions.iter().enumerate();
            let all = all.map(|(index, region)| (index, region.read, region.written));
            all.filter(|&(_, read, written)| read + written > 0).collect()
        }
    }

    #[test]
    fn requests_are_counted_where_they_are_while_somebody_looks() {
        let looked = Looked::new(1 << 20);
        let (mut before, mut other) = (looked.heat.tap(), looked.heat.tap());
        before.count(&read(0, 4096));
        assert_eq!(looked.memory.used(), 0, "nobody looks");
        let now = Duration::ZERO;
        assert_eq!(looked.warm(now), []);
        assert_eq!(looked.memory.used(), u64::from(REGIONS) * Regions::COST as u64);
        before.count(&read(REGION * 3 + 5, 100));
        other.count(&write(REGION * 3 - 10, 30));
        looked.heat.tap().count(&write(SIZE - 1, 1));
        other.count(&Command::Flush);
        let expected = [(2, 0, 10), (3, 100, 20), (1023, 0, 1)];
        assert_eq!(looked.warm(now), expected);
        assert_eq!(looked.warm(now), expected, "it has not decayed yet");
    }

    #[test]
    fn what_was_counted_decays() {
        let looked = Looked::new(1 << 20);
        looked.warm(Duration::ZERO);
        let mut tap = looked.heat.tap();
        tap.count(&read(0, 1000));
        assert_eq!(looked.warm(HALF_LIFE * 3), [(0, 1000, 0)], "it is new to those who look");
        tap.count(&read(0, 8));
        assert_eq!(looked.warm(HALF_LIFE * 4), [(0, 508, 0)]);
        assert_eq!(looked.warm(HALF_LIFE * 6), [(0, 127, 0)]);
        assert_eq!(looked.warm(HALF_LIFE * 11), [(0, 3, 0)]);
        assert_eq!(looked.warm(HALF_LIFE * 13), []);
    }

    #[test]
    fn counters_are_dropped_when_nobody_has_looked_for_long() {
        let looked = Looked::new(1 << 20);
        let end = |after| looked.heat.0.end_or_deadline(looked.begin + after);
        assert_eq!(end(Duration::ZERO), None, "there are none");
        let mut idle = looked.heat.tap();
        looked.warm(Duration::ZERO);
        idle.count(&read(0, 1));
        assert_eq!(end(KEPT / 2), Some(looked.begin + KEPT));
        looked.warm(KEPT / 2);
        assert_eq!(end(KEPT), Some(looked.begin + KEPT * 3 / 2), "the time begins anew");
        assert_eq!(end(KEPT * 3 / 2), None);
        assert_eq!(looked.memory.used(), 0, "although a tap has not noticed yet");
        idle.count(&read(0, 1));
        assert!(!idle.is_watched);
        assert_eq!(looked.warm(KEPT * 2), [], "it begins anew");
        idle.count(&read(0, 1));
        assert_eq!(looked.warm(KEPT * 2), [(0, 1, 0)]);
    }

    #[tokio::test]
    async fn counters_of_a_disk_that_is_gone_are_dropped_with_it() {
        let memory = MemoryBudget::new(1 << 20);
        let heat = Heat::default();
        heat.look(SIZE, &memory).unwrap();
        assert!(memory.used() > 0);
        drop(heat);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn memory_is_taken_from_the_disk_and_its_want_is_told() {
        let looked = Looked::new(1000);
        let look = |size| looked.heat.look_at(looked.begin, size, &looked.memory);
        assert_eq!(look(SIZE), None);
        assert_eq!(looked.memory.used(), 0);
        looked.heat.tap().count(&read(0, 1));
        let (small, needs_end) = look(10).unwrap();
        assert_eq!((small.length, small.regions.len(), needs_end), (1, 10, true));
        assert_eq!(looked.memory.used(), 10 * Regions::COST as u64);
        let (empty, needs_end) = look(0).unwrap();
        assert_eq!((empty.regions.len(), needs_end), (0, false));
        looked.heat.tap().count(&read(0, 1));
        assert_eq!(looked.memory.used(), 0);
    }

    #[test]
    fn requests_of_any_length_count_once_in_each_region() {
        let looked = Looked::new(1 << 20);
        let size = crate::block::MAX_SIZE;
        let look = || looked.heat.look_at(looked.begin, size, &looked.memory).unwrap().0;
        look();
        let mut tap = looked.heat.tap();
        tap.count(&Command::Trim { span: Span { offset: 0, length: size }, fua: false });
        // A disk of another size.
        tap.count(&read(u64::MAX - 1, 1));
        let found = look();
        let sum: u64 = found.regions.iter().map(|region| region.written).sum();
        assert!(found.regions.iter().all(|region| region.written > 0));
        // Past counts are floating-point numbers.
        assert!(sum.abs_diff(size) < 1 << 20, "{sum}");
        assert_eq!(found.regions.last().unwrap().read, 1);
    }
}
