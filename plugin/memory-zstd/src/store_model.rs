//! Long random runs of the disk against a simple model: an array of bytes.

use super::tests::{Limited, disk, extents_of, read};
use super::*;

const MIB: u64 = 1 << 20;

/// The disk and its model: the section of the disk from `base` on, outside of which nothing is
/// written.
struct Run {
    random: fastrand::Rng,
    store: Store<Limited>,
    base: u64,
    bytes: Vec<u8>,
    failures: u32,
}

impl Run {
    fn new(seed: u64, size: u64, limit: u64, base: u64, length: u64) -> Self {
        let bytes = vec![0; length as usize];
        let random = fastrand::Rng::with_seed(seed);
        Self { random, store: disk(size, limit), base, bytes, failures: 0 }
    }

    fn go(&mut self, steps: u32) {
        for step in 0..steps {
            self.step();
            if step % 64 == 0 || step + 1 == steps {
                let length = self.bytes.len();
                self.compare(0, length);
                self.extents(0, length, 4096);
            }
        }
        self.store.zero(0, self.store.size()).unwrap();
        assert_eq!(self.store.stored(), 0);
        assert_eq!(self.store.compressed, 0);
    }

    fn step(&mut self) {
        let size = self.bytes.len();
        let longest = match self.random.u8(..4) {
            0 => size,
            1 => size.min(3 * PAGE_SIZE),
            2 => size.min(600),
            _ => size.min(self.random.usize(1..9) * PAGE_SIZE),
        };
        let length =
            if self.random.u8(..3) == 0 { longest } else { self.random.usize(1..=longest) };
        let mut offset = self.random.usize(..=size - length);
        if self.random.bool() {
            offset -= offset % PAGE_SIZE;
        }
        let at = self.base + offset as u64;
        let old = self.bytes[offset..offset + length].to_vec();
        match self.random.u8(..16) {
            0..=5 => {
                let data = self.payload(length);
                let result = self.store.write(at, &data);
                self.changed(offset, &old, &data, result);
            }
            6..=7 => {
                let result = self.store.zero(at, length as u64);
                self.changed(offset, &old, &vec![0; length], result);
            }
            8 => {
                let result = self.store.zero_allocated(at, length as u64);
                self.changed(offset, &old, &vec![0; length], result);
                if result.is_ok() {
                    let runs = extents_of(&self.store, at, length as u64, 4096);
                    assert!(runs.iter().all(|run| run.1 != Status::Hole), "{runs:?}");
                }
            }
            9..=12 => self.compare(offset, length),
            _ => {
                let limit = if self.random.bool() { 4096 } else { self.random.usize(1..6) };
                self.extents(offset, length, limit);
            }
        }
    }

    /// Returns bytes that compress well, badly, or are zeroes.
    fn payload(&mut self, length: usize) -> Vec<u8> {
        let values = match self.random.u8(..8) {
            0 => 1,
            1..=4 => 7,
            _ => 255,
        };
        (0..length).map(|_| self.random.u8(..values)).collect()
    }

    /// Updates the model. After a failure, each byte must be the old or the new one.
    fn changed(&mut self, offset: usize, old: &[u8], new: &[u8], result: Result<(), StoreError>) {
        let range = offset..offset + old.len();
        if result.is_ok() {
            self.bytes[range].copy_from_slice(new);
            return;
        }
        assert_eq!(result, Err(StoreError::NoSpace));
        self.failures += 1;
        let found = read(&mut self.store, self.base + offset as u64, old.len() as u32);
        let mut bytes = found.iter().zip(old).zip(new);
        assert!(bytes.all(|((found, old), new)| found == old || found == new), "from nowhere");
        self.bytes[range].copy_from_slice(&found);
    }

    fn compare(&mut self, offset: usize, length: usize) {
        let found = read(&mut self.store, self.base + offset as u64, length as u32);
        assert!(found == self.bytes[offset..offset + length], "read {offset} {length}");
    }

    /// Checks that what is reported as zero is, and that the rest has other bytes in each page.
    fn extents(&mut self, offset: usize, length: usize, limit: usize) {
        let mut at = offset;
        for (run, status) in
            extents_of(&self.store, self.base + offset as u64, length as u64, limit)
        {
            let end = at + run as usize;
            let is_data = status == Status::Data;
            let first = at / PAGE_SIZE;
            for page in first..end.div_ceil(PAGE_SIZE) {
                let range = page * PAGE_SIZE..self.bytes.len().min((page + 1) * PAGE_SIZE);
                assert_eq!(!super::is_zero(&self.bytes[range]), is_data, "{at} {run} {status:?}");
            }
            at = end;
        }
    }
}

#[test]
fn small_disks_behave_as_arrays() {
    for (seed, size) in [1, 511, PAGE - 1, PAGE, PAGE + 1, 20 * PAGE + 77].into_iter().enumerate() {
        Run::new(seed as u64, size, u64::MAX, 0, size).go(500);
    }
}

#[test]
fn largest_disk_behaves_as_an_array_wherever_it_is_used() {
    let largest = i64::MAX as u64;
    let end = largest + 1 - 2 * MIB;
    for (seed, base) in [0, (1 << 42) - MIB, end].into_iter().enumerate() {
        let length = (2 * MIB).min(largest - base);
        Run::new(100 + seed as u64, largest, u64::MAX, base, length).go(300);
    }
}

#[test]
fn full_memory_refuses_and_harms_nothing() {
    for seed in 200..216 {
        // Room for some of the 64 pages.
        let limit = (seed - 200) * 2 * PAGE;
        let mut run = Run::new(seed, 1 << 40, limit, 1 << 39, 2 * MIB);
        run.go(250);
        assert!(run.failures > 0 || limit > 24 * PAGE, "seed {seed} never filled {limit}");
    }
}
