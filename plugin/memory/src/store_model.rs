//! Long random runs of the disk against a simple model: arrays of bytes, and a flag for each page.

use super::*;
use crate::pages::LANDING_SIZE;
use crate::testing::{Random, Vector, disk};

const PAGE: u64 = PAGE_SIZE as u64;
const LARGEST: u64 = i64::MAX as u64;
const MIB: u64 = 1 << 20;
const LEAF: u64 = 16 * MIB;

/// The expected content of a section of the disk, which begins at a multiple of the page size.
struct Window {
    base: u64,
    bytes: Vec<u8>,
    pages: Vec<bool>,
}

impl Window {
    fn new(base: u64, length: u64) -> Self {
        assert!(base.is_multiple_of(PAGE));
        let pages = length.div_ceil(PAGE) as usize;
        Self { base, bytes: vec![0; length as usize], pages: vec![false; pages] }
    }

    /// Returns a random range in the window, often at the edges of pages and of the window.
    fn range(&self, random: &mut Random, longest: u64) -> (usize, usize) {
        let size = self.bytes.len() as u64;
        let longest = longest.min(size);
        let length = 1 + match random.below(4) {
            0 => random.below(longest),
            1 => random.below(longest.min(3 * PAGE)),
            2 => random.below(longest.min(600)),
            _ => (1 + random.below(8)) * PAGE - 1,
        }
        .min(longest - 1);
        let mut offset = random.below(size - length + 1);
        match random.below(4) {
            0 => offset &= !(PAGE - 1),
            1 => offset = (offset & !(PAGE - 1)).saturating_sub(random.below(3)),
            2 if random.one_in(3) => offset = size - length,
            _ => {}
        }
        (offset as usize, length as usize)
    }

    fn status(&self, page: usize) -> Status {
        let start = page * PAGE as usize;
        let bytes = &self.bytes[start..self.bytes.len().min(start + PAGE as usize)];
        match (self.pages[page], *bytes == [0; PAGE as usize][..bytes.len()]) {
            (false, _) => Status::Hole,
            (true, true) => Status::Zero,
            (true, false) => Status::Data,
        }
    }

    fn extents(&self, offset: usize, length: usize) -> Vec<(u64, Status)> {
        let mut runs: Vec<(u64, Status)> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let page = at / PAGE as usize;
            let next = ((page + 1) * PAGE as usize).min(end);
            let (length, status) = ((next - at) as u64, self.status(page));
            match runs.last_mut() {
                Some(last) if last.1 == status => last.0 += length,
                _ => runs.push((length, status)),
            }
            at = next;
        }
        runs
    }

    fn pages_of(offset: usize, length: usize) -> std::ops::RangeInclusive<usize> {
        offset / PAGE as usize..=(offset + length - 1) / PAGE as usize
    }

    fn allocate(&mut self, offset: usize, length: usize) {
        self.pages[Self::pages_of(offset, length)].fill(true);
    }

    fn zero(&mut self, offset: usize, length: usize) {
        self.bytes[offset..offset + length].fill(0);
        for page in Self::pages_of(offset, length) {
            // Only a page that is partly outside the range can have content left.
            self.pages[page] = self.status(page) == Status::Data;
        }
    }
}

/// The disk and its model. Nothing is ever written outside the windows.
struct Run {
    random: Random,
    store: Store<Vector>,
    windows: Vec<Window>,
    size: u64,
    /// Random bytes from which payloads are taken.
    noise: Vec<u8>,
    failures: u64,
}

impl Run {
    fn new(seed: u64, size: u64, limit: u32, windows: &[(u64, u64)]) -> Self {
        let windows = windows.iter().map(|(base, length)| Window::new(*base, *length)).collect();
        let mut random = Random::new(seed);
        let noise = (0..3 * MIB / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { random, store: disk(size, limit), windows, size, noise, failures: 0 }
    }

    fn go(&mut self, steps: u32) {
        for step in 0..steps {
            self.step();
            if step % 64 == 0 || step + 1 == steps {
                self.compare_all();
            }
        }
    }

    fn step(&mut self) {
        let chosen = self.random.below(self.windows.len() as u64) as usize;
        match self.random.below(16) {
            0..=4 => self.write(chosen),
            5..=7 => self.zero(chosen),
            8 => self.zero_allocated(chosen),
            9..=12 => self.read(chosen),
            13..=14 => self.extents(chosen),
            _ if self.random.one_in(8) => {
                self.store.zero(0, self.size);
                self.windows.iter_mut().for_each(|window| {
                    window.bytes.fill(0);
                    window.pages.fill(false);
                });
            }
            _ => {}
        }
        let pages = self.windows.iter().flat_map(|window| &window.pages);
        let stored = pages.filter(|page| **page).count() as u64 * PAGE;
        assert_eq!(self.store.stored(), stored);
    }

    fn write(&mut self, chosen: usize) {
        let window = &mut self.windows[chosen];
        let (offset, length) = window.range(&mut self.random, LANDING_SIZE.into());
        let payload = match self.random.one_in(8) {
            true => vec![0; length],
            false => self.noise[self.random.below(MIB) as usize..][..length].to_vec(),
        };
        match self.store.write_bytes(window.base + offset as u64, &payload) {
            Ok(()) => {
                window.bytes[offset..offset + length].copy_from_slice(&payload);
                window.allocate(offset, length);
            }
            Err(NoSpace) => self.accept_failure(chosen, offset, &payload),
        }
    }

    fn zero_allocated(&mut self, chosen: usize) {
        let window = &mut self.windows[chosen];
        let (offset, length) = window.range(&mut self.random, LANDING_SIZE.into());
        match self.store.zero_allocated(window.base + offset as u64, length as u64) {
            Ok(()) => {
                window.bytes[offset..offset + length].fill(0);
                window.allocate(offset, length);
            }
            Err(NoSpace) => self.accept_failure(chosen, offset, &vec![0; length]),
        }
    }

    /// Updates the model after a failed write. In the range of the write each byte must be the old
    /// or the new one, and pages may have been allocated; the model adopts both. Everything outside
    /// the range is compared as usual.
    fn accept_failure(&mut self, chosen: usize, offset: usize, payload: &[u8]) {
        self.failures += 1;
        let window = &mut self.windows[chosen];
        let length = payload.len();
        let start = window.base + offset as u64;
        let found = self.store.read_bytes(start, length as u32);
        let old = &mut window.bytes[offset..offset + length];
        for at in (0..length).step_by(512) {
            let block = at..length.min(at + 512);
            let (old, new, found) = (&old[block.clone()], &payload[block.clone()], &found[block]);
            let mut bytes = old.iter().zip(new).zip(found);
            assert!(
                found == new
                    || found == old
                    || bytes.all(|((old, new), found)| found == old || found == new),
                "a byte from nowhere after a failed write"
            );
        }
        old.copy_from_slice(&found);
        for page in Window::pages_of(offset, length) {
            let index = (window.base >> PAGE_BITS) + page as u64;
            let slot = self.store.directory.find(&mut self.store.pages, index, 1);
            let present = matches!(slot, Slot::Present(_));
            assert!(present || !window.pages[page], "a failed write lost a page");
            window.pages[page] = present;
        }
    }

    fn zero(&mut self, chosen: usize) {
        let window = &mut self.windows[chosen];
        let (offset, length) = window.range(&mut self.random, u64::MAX);
        self.store.zero(window.base + offset as u64, length as u64);
        window.zero(offset, length);
    }

    fn read(&mut self, chosen: usize) {
        let window = &self.windows[chosen];
        let (offset, length) = window.range(&mut self.random, LANDING_SIZE.into());
        let found = self.store.read_bytes(window.base + offset as u64, length as u32);
        assert!(found == window.bytes[offset..offset + length], "read {offset} {length}");
    }

    fn extents(&mut self, chosen: usize) {
        let window = &self.windows[chosen];
        let (offset, length) = window.range(&mut self.random, u64::MAX);
        let limit = if self.random.one_in(2) { 4096 } else { 1 + self.random.below(5) as usize };
        let found = self.store.extents_of(window.base + offset as u64, length as u64, limit);
        let mut expected = window.extents(offset, length);
        expected.truncate(limit);
        assert_eq!(found, expected);
    }

    fn compare_all(&mut self) {
        for window in &self.windows {
            for (chunk, offset) in
                window.bytes.chunks(MIB as usize).zip((window.base..).step_by(MIB as usize))
            {
                assert!(self.store.read_bytes(offset, chunk.len() as u32) == chunk);
            }
            let length = window.bytes.len();
            let found = self.store.extents_of(window.base, length as u64, 4096);
            assert_eq!(found, window.extents(0, length));
        }
        self.store.audit();
    }
}

#[test]
fn small_disks_behave_as_arrays() {
    for (seed, size) in [1, 511, PAGE - 1, PAGE, PAGE + 1, 10 * PAGE + 77].into_iter().enumerate() {
        Run::new(seed as u64, size, 4096, &[(0, size)]).go(1500);
    }
}

#[test]
fn disks_of_one_leaf_and_more_behave_as_arrays() {
    for (seed, size) in [LEAF, LEAF + 1, 2 * LEAF - 5].into_iter().enumerate() {
        let seed = 100 + seed as u64;
        let windows = [(0, 3 * MIB), (LEAF - 2 * MIB, size.min(LEAF + 3 * MIB) - LEAF + 2 * MIB)];
        Run::new(seed, size, 4096, &windows).go(1500);
    }
}

#[test]
fn largest_disk_behaves_as_an_array_wherever_it_is_used() {
    let windows = [
        (0, 3 * MIB),
        (LEAF - MIB, 3 * MIB),
        // The boundaries of branches of the directory at each level.
        ((1 << 33) - MIB, 2 * MIB),
        ((1 << 42) - MIB, 2 * MIB),
        ((1 << 51) - MIB, 2 * MIB),
        ((1 << 60) - MIB, 2 * MIB),
        ((1 << 62) - MIB, 2 * MIB),
        (LARGEST + 1 - 3 * MIB, 3 * MIB - 1),
    ];
    for seed in 200..204 {
        Run::new(seed, LARGEST, 4096, &windows).go(2000);
    }
}

#[test]
fn full_memory_refuses_and_harms_nothing() {
    let windows = [(0, 2 * MIB), (LEAF - MIB, 2 * MIB), (LARGEST + 1 - 2 * MIB, 2 * MIB - 1)];
    for seed in 300..324 {
        // Room for the landing zone and for some of the 192 pages of the windows.
        let zone = LANDING_SIZE / PAGE_SIZE;
        let limit = zone + 2 * (seed - 300) as u32 * 3;
        let mut run = Run::new(seed, LARGEST, limit, &windows);
        run.go(1500);
        // With more room, what is trimmed makes up for what is written.
        assert!(run.failures > 0 || limit > zone + 100, "seed {seed} never filled {limit} pages");
    }
}
