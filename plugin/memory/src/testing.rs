//! Helpers for tests of the disk: a memory, random numbers, and checks of everything that the disk
//! returns.

use std::cell::Cell;

use crate::pages::{GROW_UNIT, LANDING_SIZE, Memory, PAGE_SIZE, Page};
use crate::store::{Chunk, NoSpace, Status, Store, join};

/// A memory of at most `limit` pages that counts the words read and the bytes copied.
pub(crate) struct Vector {
    bytes: Vec<u8>,
    limit: u32,
    pub(crate) words_read: Cell<u64>,
    pub(crate) bytes_copied: u64,
}

impl Vector {
    pub(crate) const START: u32 = 3 * PAGE_SIZE;

    pub(crate) fn new(limit: u32) -> Self {
        Self { bytes: Vec::new(), limit, words_read: Cell::new(0), bytes_copied: 0 }
    }

    fn range(start: u32, length: u32) -> std::ops::Range<usize> {
        let start =
            start.checked_sub(Self::START).expect("nothing is below the first page") as usize;
        start..start + length as usize
    }
}

impl Memory for Vector {
    fn grow(&mut self, count: u32) -> Option<Page> {
        assert!(count > 0 && count.is_multiple_of(GROW_UNIT));
        let had = self.bytes.len() as u32 / PAGE_SIZE;
        if had + count > self.limit {
            return None;
        }
        self.bytes.resize((had + count) as usize * PAGE_SIZE as usize, 0);
        Some(Self::START / PAGE_SIZE + had)
    }

    fn bytes(&self, start: u32, length: u32) -> &[u8] {
        &self.bytes[Self::range(start, length)]
    }

    fn bytes_mut(&mut self, start: u32, length: u32) -> &mut [u8] {
        &mut self.bytes[Self::range(start, length)]
    }

    fn copy(&mut self, from: u32, to: u32, length: u32) {
        self.bytes_copied += u64::from(length);
        self.bytes.copy_within(Self::range(from, length), Self::range(to, length).start);
    }

    fn word(&self, at: u32) -> u32 {
        self.words_read.set(self.words_read.get() + 1);
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }

    fn set_word(&mut self, at: u32, value: u32) {
        self.bytes_mut(at, 4).copy_from_slice(&value.to_le_bytes());
    }
}

/// Creates a disk in a memory of at most `limit` pages.
pub(crate) fn disk(size: u64, limit: u32) -> Store<Vector> {
    Store::new(size, Vector::new(limit)).expect("the memory has room for the landing zone")
}

impl Store<Vector> {
    pub(crate) fn memory(&mut self) -> &mut Vector {
        self.pages.memory()
    }

    /// Writes a payload, in parts that the landing zone takes, as the host does.
    pub(crate) fn write_bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<(), NoSpace> {
        let mut offset = offset;
        for part in bytes.chunks(LANDING_SIZE as usize) {
            let landing = self.landing();
            assert!(landing.is_multiple_of(PAGE_SIZE), "the landing zone begins with a page");
            let length = part.len() as u32;
            self.memory().bytes_mut(landing, length).copy_from_slice(part);
            self.write(offset, length)?;
            offset += u64::from(length);
        }
        Ok(())
    }

    /// Reads a range, and checks that its chunks have at least one byte each and are joined
    /// wherever possible.
    pub(crate) fn read_bytes(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let mut chunks = Vec::new();
        self.read(offset, length, |chunk| chunks.push(chunk));
        assert!(chunks.windows(2).all(|pair| join(pair[0], pair[1]).is_none()), "{chunks:?}");
        let mut bytes = Vec::new();
        for chunk in chunks {
            let before = bytes.len();
            match chunk {
                Chunk::Data { address, length } => {
                    bytes.extend_from_slice(self.memory().bytes(address, length));
                }
                Chunk::Hole(length) => bytes.resize(before + length as usize, 0),
            }
            assert!(bytes.len() > before, "an empty chunk");
        }
        assert_eq!(bytes.len(), length as usize);
        bytes
    }

    pub(crate) fn extents_of(
        &mut self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Vec<(u64, Status)> {
        let mut runs = Vec::new();
        self.extents(offset, length, limit, |length, status| runs.push((length, status)));
        assert!((1..=limit).contains(&runs.len()));
        assert!(runs.iter().all(|run| run.0 > 0));
        assert!(runs.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours differ");
        assert!(runs.iter().map(|run| run.0).sum::<u64>() <= length);
        runs
    }

    /// Checks that every page of the memory is used for exactly one purpose: as content of the
    /// disk, by the directory, in the landing zone, on the free list, or as a fresh page.
    pub(crate) fn audit(&mut self) {
        let (content, nodes) = self.directory.audit(&mut self.pages);
        assert_eq!(content.len() as u64 * u64::from(PAGE_SIZE), self.stored());
        let mut all = self.pages.not_in_use();
        all.extend(content);
        all.extend(nodes);
        all.sort_unstable();
        let first = Vector::START / PAGE_SIZE;
        assert_eq!(all, (first..first + self.pages.total()).collect::<Vec<_>>());
    }
}

/// A deterministic random number generator (splitmix64). It prints its seed when a test fails.
pub(crate) struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.seed);
        }
    }
}
