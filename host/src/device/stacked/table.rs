//! Stable routes that a component sets while requests are served, by granules.
//!
//! Requests look routes up without a lock: entries are atomic, and the memory that holds them is only
//! freed with the table. An entry has a number for each operation, which stands for a place relative to
//! the beginning of the disk. Entries are in leaves of 512 granules, and leaves in groups of 256. A leaf
//! whose granules all have the same entry has a single one, so a route of the whole disk takes little.
//!
//! A range that cannot be recorded, for want of memory or because the disk is too large, may have had
//! a route that does not hold any more. Then all routes are forgotten, of those operations and for good.

use std::array;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::block::{Operation, Span};
use crate::budget::Held;
use crate::component::{Location, MemoryBudget};
use crate::sync::{AtomicU64, Ordering};

/// The number of granules of a leaf, 4 KiB of memory.
const LEAF: u64 = 512;

/// The number of leaves of a group, 6 KiB of memory.
const GROUP: u64 = 256;

/// The most groups of a disk, for 2^32 granules.
const MAX_GROUPS: u64 = 1 << 15;

/// The most leaves of a route, so that setting it does not take long.
const MAX_LEAVES: u64 = 1 << 16;

/// The bits of an entry that an operation has.
const BITS: u32 = 9;

/// The number of an operation that has no route in this entry.
const UNSET: u64 = 0;

/// The number of an operation whose requests are routed one by one.
const ROUTED: u64 = 1;

/// The first number that stands for a place.
const FIRST: u64 = 2;

/// The number of operations.
const OPERATIONS: u32 = Operation::ALL.len() as u32;

/// The mask for the number of an operation.
const MASK: u64 = (1 << BITS) - 1;

/// The most places, and how many of them are allocated at a time.
const MAX_PLACES: usize = 480;
const PLACES: usize = 32;

/// Operations, as the bits that they have in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operations(u64);

impl Operations {
    /// Returns the operations for which `contains` returns true.
    pub(super) fn of(contains: impl Fn(Operation) -> bool) -> Self {
        let routed = Operation::ALL.into_iter().filter(|&one| one != Operation::Flush);
        Self(routed.filter(|&one| contains(one)).map(mask).sum())
    }

    /// Returns the operations that are also among `others`.
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }
}

fn shift(operation: Operation) -> u32 {
    BITS * operation as u32
}

fn mask(operation: Operation) -> u64 {
    MASK << shift(operation)
}

/// Returns an entry in which each operation has this number.
fn each(number: u64) -> u64 {
    (0..OPERATIONS).map(|operation| number << (BITS * operation)).sum()
}

/// What the table has for the first bytes of a span, as many as the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing(u64),
    /// The component is to route them.
    Routed,
    /// They are there.
    At(Location, u64),
}

/// A device, and the difference between an offset there and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    device: usize,
    /// Is added to the offset on the disk, with wrapping.
    by: u64,
}

struct Leaf {
    entries: [AtomicU64; LEAF as usize],
    /// Given back to the disk's budget with the leaf.
    _memory: Held,
}

struct Group {
    /// For each leaf, the numbers of granules that are not set in the leaf itself.
    whole: [AtomicU64; GROUP as usize],
    leaves: [OnceLock<Box<Leaf>>; GROUP as usize],
    _memory: Held,
}

type Places = [OnceLock<Moved>; PLACES];

/// The stable routes of a disk.
pub(super) struct Table {
    /// The logarithm of the size of a granule.
    granule: u32,
    /// The number of granules.
    granules: u64,
    groups: Box<[OnceLock<Box<Group>>]>,
    places: [OnceLock<Box<Places>>; MAX_PLACES / PLACES],
    /// The operations whose routes are forgotten for good.
    forgotten: AtomicU64,
    /// The number of places. Locked while routes are set.
    setting: Mutex<usize>,
    memory: MemoryBudget,
    _memory: Held,
}

impl Table {
    /// Creates the table of a disk in granules of `granule` bytes, a power of two. Returns `None` if there
    /// is no memory for it.
    pub(super) fn new(size: u64, granule: u64, memory: &MemoryBudget) -> Option<Self> {
        let granules = size.div_ceil(granule);
        let groups = granules.div_ceil(LEAF * GROUP).min(MAX_GROUPS);
        let bytes = size_of::<Self>() as u64 + groups * size_of::<OnceLock<Box<Group>>>() as u64;
        Some(Self {
            granule: granule.trailing_zeros(),
            granules,
            _memory: memory.hold(bytes)?,
            groups: (0..groups).map(|_| OnceLock::new()).collect(),
            places: array::from_fn(|_| OnceLock::new()),
            forgotten: AtomicU64::new(0),
            setting: Mutex::new(0),
            memory: memory.clone(),
        })
    }

    /// Returns what is known of the first bytes of a span.
    #[inline]
    pub(super) fn find(&self, operation: Operation, span: Span) -> Found {
        if self.forgotten.load(Ordering::Acquire) & mask(operation) != 0 {
            return Found::Routed;
        }
        // A flush has no bytes.
        let Some(last) = span.end().checked_sub(1) else { return Found::Nothing(0) };
        let last = last >> self.granule;
        let (number, mut next) = self.number(operation, span.offset >> self.granule);
        while next <= last {
            let (other, after) = self.number(operation, next);
            if other != number {
                break;
            }
            next = after;
        }
        // The number of granules is that of a disk of less than 2^63 bytes.
        let length = span.end().min(next << self.granule).saturating_sub(span.offset);
        match number {
            UNSET => Found::Nothing(length),
            ROUTED => Found::Routed,
            number => self.place(number).map_or(Found::Routed, |Moved { device, by }| {
                Found::At(Location { device, offset: span.offset.wrapping_add(by) }, length)
            }),
        }
    }

    /// Returns the number of a granule, and the first one after it that may have another.
    #[inline]
    fn number(&self, operation: Operation, granule: u64) -> (u64, u64) {
        let leaf = granule / LEAF;
        let Some(group) = self.groups.get((leaf / GROUP) as usize).and_then(OnceLock::get) else {
            return (UNSET, (leaf / GROUP + 1) * LEAF * GROUP);
        };
        let within = (leaf % GROUP) as usize;
        let of = |entry: &AtomicU64| entry.load(Ordering::Acquire) >> shift(operation) & MASK;
        match group.leaves[within].get() {
            Some(leaf) => match of(&leaf.entries[(granule % LEAF) as usize]) {
                UNSET => (of(&group.whole[within]), granule + 1),
                number => (number, granule + 1),
            },
            None => (of(&group.whole[within]), (leaf + 1) * LEAF),
        }
    }

    fn place(&self, number: u64) -> Option<Moved> {
        let index = (number - FIRST) as usize;
        self.places.get(index / PLACES)?.get()?[index % PLACES].get().copied()
    }

    /// Sets the place of a span for these operations, or that there is none. The span begins with a granule,
    /// and ends with one or with the disk.
    pub(super) fn set(&self, operations: Operations, span: Span, place: Option<Location>) {
        let mut places = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match place {
            Some(Location { device, offset }) => {
                self.intern(&mut places, Moved { device, by: offset.wrapping_sub(span.offset) })
            }
            None => ROUTED,
        };
        let first = span.offset >> self.granule;
        let end = self.granules.min(((span.end() - 1) >> self.granule) + 1);
        let leaves = first / LEAF..end.div_ceil(LEAF);
        let is_recorded = leaves.end - leaves.start <= MAX_LEAVES
            && leaves.into_iter().all(|leaf| {
                let granules = first.max(leaf * LEAF)..end.min((leaf + 1) * LEAF);
                self.set_in_leaf(leaf, granules, operations, number).is_some()
            });
        if !is_recorded {
            self.forgotten.fetch_or(operations.0, Ordering::Release);
        }
    }

    /// Sets the number of granules of a leaf. Returns `None` if there is no memory for it.
    fn set_in_leaf(
        &self,
        leaf: u64,
        granules: std::ops::Range<u64>,
        Operations(bits): Operations,
        number: u64,
    ) -> Option<()> {
        let group = self.groups.get((leaf / GROUP) as usize)?;
        let group = get_or_make(group, || {
            let _memory = self.memory.hold(size_of::<Group>() as u64)?;
            let (whole, leaves) =
                (array::from_fn(|_| AtomicU64::new(0)), array::from_fn(|_| OnceLock::new()));
            Some(Group { whole, leaves, _memory })
        })?;
        let within = (leaf % GROUP) as usize;
        let number = each(number) & bits;
        // Only one thread sets them at a time.
        let set = |entry: &AtomicU64| {
            let others = entry.load(Ordering::Relaxed) & !bits;
            entry.store(others | number, Ordering::Release);
        };
        let all = self.granules.min((leaf + 1) * LEAF) - leaf * LEAF;
        let is_whole = granules.end - granules.start == all;
        if is_whole {
            set(&group.whole[within]);
        }
        let leaf = match is_whole {
            true => group.leaves[within].get().map(|leaf| &**leaf),
            false => Some(get_or_make(&group.leaves[within], || {
                let _memory = self.memory.hold(size_of::<Leaf>() as u64)?;
                Some(Leaf { entries: array::from_fn(|_| AtomicU64::new(0)), _memory })
            })?),
        };
        if let Some(leaf) = leaf {
            let first = (granules.start % LEAF) as usize;
            let count = (granules.end - granules.start) as usize;
            leaf.entries[first..first + count].iter().for_each(set);
        }
        Some(())
    }

    /// Returns the number of a place, or that of no place if there are too many.
    fn intern(&self, count: &mut usize, moved: Moved) -> u64 {
        let known = (0..*count as u64).map(|index| index + FIRST);
        if let Some(number) = known.into_iter().find(|&number| self.place(number) == Some(moved)) {
            return number;
        }
        let index = *count;
        let Some(places) = self.places.get(index / PLACES) else { return ROUTED };
        let places = places.get_or_init(|| Box::new(array::from_fn(|_| OnceLock::new())));
        places[index % PLACES].get_or_init(|| moved);
        *count += 1;
        index as u64 + FIRST
    }

    /// Removes all routes.
    pub(super) fn clear(&self) {
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        for group in self.groups.iter().filter_map(OnceLock::get) {
            let leaves = group.leaves.iter().filter_map(OnceLock::get);
            let entries = leaves.flat_map(|leaf| &leaf.entries).chain(&group.whole);
            entries.for_each(|entry| entry.store(0, Ordering::Release));
        }
    }
}

/// Returns the value of a cell that one thread sets at a time, after making it if there is none.
fn get_or_make<T>(cell: &OnceLock<Box<T>>, make: impl FnOnce() -> Option<T>) -> Option<&T> {
    if cell.get().is_none() {
        let _ = cell.set(Box::new(make()?));
    }
    cell.get().map(|value| &**value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 37;
    const GRANULE: u64 = 4096;

    fn table() -> Table {
        Table::new(SIZE, GRANULE, &MemoryBudget::new(64 << 20)).unwrap()
    }

    fn span(offset: u64, length: u64) -> Span {
        Span { offset, length }
    }

    fn at(device: usize, offset: u64) -> Option<Location> {
        Some(Location { device, offset })
    }

    fn only(operation: Operation) -> Operations {
        Operations::of(|one| one == operation)
    }

    fn all() -> Operations {
        Operations::of(|_| true)
    }

    #[test]
    fn granules_have_the_place_that_was_set_last() {
        let table = table();
        let find = |offset, length| table.find(Operation::Read, span(offset, length));
        assert_eq!(find(0, 10), Found::Nothing(10));
        table.set(only(Operation::Read), span(0, SIZE), at(0, 0));
        assert_eq!(find(5, SIZE - 5), Found::At(Location { device: 0, offset: 5 }, SIZE - 5));
        assert_eq!(table.find(Operation::Write, span(0, 1)), Found::Nothing(1));
        table.set(all(), span(8192, 4096), at(1, 8192));
        assert_eq!(find(4096, 8192), Found::At(Location { device: 0, offset: 4096 }, 4096));
        assert_eq!(find(8200, 8192), Found::At(Location { device: 1, offset: 8200 }, 4088));
        assert_eq!(find(12288, 10), Found::At(Location { device: 0, offset: 12288 }, 10));
        let written = table.find(Operation::Write, span(8192, 4096));
        assert_eq!(written, Found::At(Location { device: 1, offset: 8192 }, 4096));
        table.set(only(Operation::Read), span(8192, 4096), None);
        assert_eq!(find(8192, 10), Found::Routed);
        assert_eq!(table.find(Operation::Write, span(8192, 4096)), written);
        // A place at another offset, before the disk's.
        table.set(all(), span(1 << 30, 1 << 30), at(2, 0));
        let found = table.find(Operation::Trim, span((1 << 30) + 7, 1 << 31));
        assert_eq!(found, Found::At(Location { device: 2, offset: 7 }, (1 << 30) - 7));
        table.clear();
        assert_eq!(find(8192, 10), Found::Nothing(10));
    }

    /// Compares random routes with a list of granules.
    #[test]
    fn routes_are_those_of_a_list() {
        const GRANULES: u64 = LEAF * 5 + 100;
        let size = GRANULES * GRANULE - 5;
        let table = Table::new(size, GRANULE, &MemoryBudget::new(64 << 20)).unwrap();
        let mut model = vec![None; GRANULES as usize];
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            let first = random.u64(0..GRANULES);
            let longest = if random.bool() { GRANULES - first } else { 5.min(GRANULES - first) };
            let count = random.u64(1..=longest);
            let offset = first * GRANULE;
            let place =
                (random.u8(0..5) > 0).then(|| Location { device: random.usize(0..3), offset });
            let length = (size - offset).min(count * GRANULE);
            table.set(all(), span(offset, length), place);
            model[first as usize..(first + count) as usize]
                .fill(Some(place.map(|place| place.device)));
            for _ in 0..20 {
                let offset = random.u64(0..size);
                let length = random.u64(1..=size - offset);
                let first = model[(offset / GRANULE) as usize];
                let run =
                    model[(offset / GRANULE) as usize..].iter().take_while(|one| **one == first);
                let end = ((offset / GRANULE + run.count() as u64) * GRANULE).min(offset + length);
                let expected = match first {
                    None => Found::Nothing(end - offset),
                    Some(None) => Found::Routed,
                    Some(Some(device)) => Found::At(Location { device, offset }, end - offset),
                };
                assert_eq!(table.find(Operation::Zero, span(offset, length)), expected);
            }
        }
    }

    #[test]
    fn routes_that_cannot_be_recorded_are_forgotten() {
        let memory = MemoryBudget::new(64 << 10);
        let table = Table::new(SIZE, GRANULE, &memory).unwrap();
        table.set(all(), span(0, 1 << 20), at(0, 0));
        for group in 0..100 {
            table.set(only(Operation::Write), span(group << 30, 4096), at(0, group << 30));
        }
        assert_eq!(table.find(Operation::Write, span(0, 10)), Found::Routed);
        assert_eq!(
            table.find(Operation::Read, span(0, 10)),
            Found::At(Location { device: 0, offset: 0 }, 10)
        );
        assert!(memory.used() <= 64 << 10);
        drop(table);
        assert_eq!(memory.used(), 0);
        // A disk of more granules than can be recorded.
        let table = Table::new(u64::MAX >> 1, 1, &MemoryBudget::new(64 << 20)).unwrap();
        table.set(all(), span(0, 1), at(0, 0));
        assert_ne!(table.find(Operation::Read, span(0, 1)), Found::Routed);
        table.set(all(), span((u64::MAX >> 1) - 1, 1), at(0, 0));
        assert_eq!(table.find(Operation::Read, span(0, 1)), Found::Routed);
    }

    #[test]
    fn too_many_different_places_are_routed() {
        let table = table();
        for number in 0..2 * MAX_PLACES as u64 {
            table.set(all(), span(number * GRANULE, GRANULE), at(0, number * 7));
        }
        let find = |number| table.find(Operation::Read, span(number * GRANULE, 1));
        assert_eq!(find(400), Found::At(Location { device: 0, offset: 400 * 7 }, 1));
        assert_eq!(find(2 * MAX_PLACES as u64 - 1), Found::Routed);
    }

    /// A reader sees one of the places that a writer sets, and never goes back to an earlier one.
    #[test]
    fn readers_see_what_was_set_before() {
        let table = table();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for device in 0..100 {
                    for granule in 0..1000 {
                        let offset = granule * GRANULE;
                        table.set(all(), span(offset, GRANULE), at(device, offset));
                    }
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = vec![0; 1000];
                    while last[999] < 99 {
                        for (granule, last) in last.iter_mut().enumerate().rev() {
                            let offset = granule as u64 * GRANULE;
                            match table.find(Operation::Read, span(offset, 1)) {
                                Found::At(place, 1) => {
                                    assert!(place.offset == offset && place.device >= *last);
                                    *last = place.device;
                                }
                                found => assert_eq!((found, *last), (Found::Nothing(1), 0)),
                            }
                        }
                    }
                });
            }
        });
    }
}
