//! Tests of the guarantees of the disk, one case at a time.

use super::*;
use crate::cache::MOST_DIRTY;

const MIB: u64 = 1 << 20;
const LARGEST: u64 = i64::MAX as u64;

/// A heap of so many bytes.
pub(super) struct Limited(pub(super) u64);

impl Heap for Limited {
    fn allocate<T>(&mut self, used: u64, size: usize, function: impl FnOnce() -> T) -> Option<T> {
        // The workspace comes first and does not count.
        (used + size as u64 <= self.0 || size == WORKSPACE).then(function)
    }
}

pub(super) fn disk(size: u64, limit: u64) -> Store<Limited> {
    Store::new(size, Limited(limit)).unwrap()
}

pub(super) fn extents_of(
    store: &Store<Limited>,
    offset: u64,
    length: u64,
    limit: usize,
) -> Vec<(u64, Status)> {
    let mut runs = Vec::new();
    store.extents(offset, length, limit, |length, status| runs.push((length, status)));
    assert!((1..=limit).contains(&runs.len()), "{runs:?}");
    assert!(runs.iter().all(|run| run.0 > 0), "{runs:?}");
    assert!(runs.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours differ: {runs:?}");
    assert!(runs.iter().map(|run| run.0).sum::<u64>() <= length, "{runs:?}");
    runs
}

pub(super) fn read(store: &mut Store<Limited>, offset: u64, length: u32) -> Vec<u8> {
    let chunks = store.read(offset, length).unwrap();
    let is_hole = |chunk: &Chunk| matches!(chunk, Chunk::Hole(_));
    assert!(chunks.windows(2).all(|pair| is_hole(&pair[0]) != is_hole(&pair[1])), "not joined");
    let mut bytes = Vec::new();
    for chunk in chunks {
        let before = bytes.len();
        match chunk {
            Chunk::Data(data) => bytes.extend(data),
            Chunk::Hole(length) => bytes.resize(before + length as usize, 0),
        }
        assert!(bytes.len() > before, "an empty chunk");
    }
    assert_eq!(bytes.len(), length as usize);
    bytes
}

/// Text, as compressible as source code.
fn text(length: usize) -> Vec<u8> {
    let words: Vec<&[u8]> = include_bytes!("store.rs").split(|byte| *byte == b' ').collect();
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = Vec::new();
    while bytes.len() < length {
        bytes.extend_from_slice(words[random.usize(..words.len())]);
        bytes.push(b' ');
    }
    bytes.truncate(length);
    bytes
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(2);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

#[test]
fn pages_take_less_memory_than_they_have_bytes() {
    let mut store = disk(1 << 40, u64::MAX);
    let text = text(MIB as usize);
    for place in 0..16 {
        store.write(place * MIB, &text).unwrap();
    }
    assert!(store.stored() < 16 * MIB * 45 / 100, "{} bytes", store.stored());
    for place in 0..16 {
        assert!(read(&mut store, place * MIB, 1 << 20) == text);
    }
    // What cannot be compressed takes little more.
    let noise = noise(MIB as usize);
    let before = store.stored();
    for place in 16..32 {
        store.write(place * MIB, &noise).unwrap();
    }
    assert!(store.stored() - before < 16 * MIB * 101 / 100, "{} bytes", store.stored());
    assert!(read(&mut store, 20 * MIB, 1 << 20) == noise);
    store.zero(0, 1 << 40).unwrap();
    assert_eq!(store.stored(), 0);
}

#[test]
fn pages_of_zeroes_take_no_memory() {
    let mut store = disk(1 << 40, u64::MAX);
    store.write(0, &vec![0; 4 << 20]).unwrap();
    assert!(store.stored() <= 8 * (PAGE + ENTRY), "{} bytes", store.stored());
    // All but the pages that are still uncompressed.
    let runs = extents_of(&store, 0, 4 * MIB, 99);
    assert_eq!(runs[0], (4 * MIB - MOST_DIRTY as u64 * PAGE, Status::Hole));
    // Zeroes over data release it.
    store.write(0, &text(1 << 20)).unwrap();
    store.write(0, &vec![0; 1 << 20]).unwrap();
    store.write(2 * MIB, &vec![0; 1 << 20]).unwrap();
    assert_eq!(extents_of(&store, 0, MIB, 99), [(MIB, Status::Hole)]);
    assert_eq!(store.read(0, 1 << 20).unwrap(), [Chunk::Hole(1 << 20)]);
}

#[test]
fn full_memory_loses_nothing_and_takes_writes_again_after_a_trim() {
    let mut store = disk(1 << 40, 8 * MIB);
    let noise = noise(4 << 20);
    let block = |at: u64| &noise[at as usize % 1000 * 777..][..PAGE_SIZE];
    let full = (0..).find(|at| store.write(at * PAGE, block(*at)).is_err()).unwrap();
    assert!((8 * MIB / PAGE - 8..8 * MIB / PAGE + 4).contains(&full), "{full} pages");
    for _ in 0..3 {
        assert_eq!(store.write(1 << 39, block(0)), Err(StoreError::NoSpace));
        assert_eq!(store.write(7, b"part of a page"), Err(StoreError::NoSpace));
        // A hole cannot become a page, and the pages that lie in a range in part stay.
        assert_eq!(store.zero(PAGE / 2, 9), Err(StoreError::NoSpace));
        for at in 0..full {
            assert!(read(&mut store, at * PAGE, PAGE_SIZE as u32) == block(at), "{at}");
        }
    }
    store.zero(10 * PAGE, 20 * PAGE).unwrap();
    for at in 10..30 {
        store.write(at * PAGE, block(at)).unwrap();
    }
    store.zero(0, 1 << 40).unwrap();
    assert_eq!(store.stored(), 0);
    let again = (0..).find(|at| store.write(at * PAGE, block(*at)).is_err()).unwrap();
    assert_eq!(again, full);
}

#[test]
fn zeroes_that_stay_allocated_keep_their_pages_until_zeroed_otherwise() {
    let mut store = disk(LARGEST, u64::MAX);
    store.zero_allocated(PAGE / 2, 2 * PAGE).unwrap();
    assert_eq!(
        extents_of(&store, 0, 4 * PAGE, 9),
        [(3 * PAGE, Status::Zero), (PAGE, Status::Hole)]
    );
    store.write(0, &[1; 100]).unwrap();
    store.zero_allocated(0, 100).unwrap();
    store.write(MIB, &text(1 << 20)).unwrap();
    assert_eq!(extents_of(&store, 0, 3 * PAGE, 9), [(3 * PAGE, Status::Zero)]);
    store.zero(PAGE, PAGE).unwrap();
    assert_eq!(
        extents_of(&store, 0, 3 * PAGE, 9),
        [(PAGE, Status::Zero), (PAGE, Status::Hole), (PAGE, Status::Zero)]
    );
}

#[test]
fn neighbouring_reads_decompress_a_page_once() {
    let mut store = disk(1 << 40, u64::MAX);
    let text = text(1 << 20);
    store.write(0, &text).unwrap();
    assert!(read(&mut store, 5 * PAGE, 512) == text[5 * PAGE_SIZE..][..512]);
    // It is read from the cache although what was compressed is gone.
    store.drop_frame(5);
    assert!(read(&mut store, 5 * PAGE + 512, 4096) == text[5 * PAGE_SIZE + 512..][..4096]);
}

#[test]
fn damaged_pages_are_errors() {
    let mut random = fastrand::Rng::with_seed(3);
    let text = text(16 * PAGE_SIZE);
    let mut failures = 0;
    for _ in 0..200 {
        let mut store = disk(1 << 40, u64::MAX);
        // Enough for page 0 to leave the cache.
        store.write(0, &text).unwrap();
        let frame = store.pages.get_mut(&0).unwrap();
        assert!(!frame.is_empty());
        for _ in 0..=random.usize(..3) {
            let at = random.usize(..frame.len());
            frame[at] ^= 1 << random.u8(..8);
        }
        if random.bool() {
            *frame = frame[..random.usize(1..frame.len())].into();
        }
        // Neither panics, and both agree unless the damage is in literals.
        let whole = store.read(0, PAGE_SIZE as u32).is_err();
        assert_eq!(store.write(1, &[1]).is_err(), whole);
        failures += u32::from(whole);
        assert!(store.read(PAGE, PAGE_SIZE as u32).is_ok(), "others are not affected");
    }
    assert!(failures > 100, "{failures}");
}

#[test]
fn whole_disk_requests_cost_what_is_stored() {
    let mut store = disk(LARGEST, u64::MAX);
    for offset in [0, 1 << 40, LARGEST - 1] {
        store.write(offset, &[1]).unwrap();
    }
    assert_eq!(
        extents_of(&store, 0, LARGEST, 4096),
        [
            (PAGE, Status::Data),
            ((1 << 40) - PAGE, Status::Hole),
            (PAGE, Status::Data),
            (LARGEST + 1 - PAGE - (1 << 40) - PAGE, Status::Hole),
            (PAGE - 1, Status::Data),
        ]
    );
    store.zero(0, LARGEST).unwrap();
    assert_eq!(store.stored(), 0);
    assert_eq!(extents_of(&store, 0, LARGEST, 4096), [(LARGEST, Status::Hole)]);
}
