//! Tests of the disk: extents, limits, and random operations against an array of bytes.

use super::*;
use crate::language::{NoFiles, evaluate};

fn image(text: &str) -> Image {
    evaluate(text, &|_| None, &mut NoFiles).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn disk(text: &str) -> Store {
    Store::new(image(text), u64::MAX)
}

fn content(store: &Store, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xa5; length];
    store.read(offset, &mut bytes);
    bytes
}

fn extents(store: &Store, offset: u64, length: u64) -> Vec<(u64, bool)> {
    let extents = store.extents(offset, length).unwrap();
    extents.iter().map(|extent| (extent.length, extent.hole)).collect()
}

#[test]
fn writes_lie_on_top_of_the_image() {
    let mut store = disk("(1 2)*1000000000000");
    store.write(999_999_999_999, &[7, 8, 9]).unwrap();
    assert_eq!(content(&store, 999_999_999_997, 7), [2, 1, 7, 8, 9, 1, 2]);
    assert_eq!(store.stored(), PAGE);
    let end = store.size() - 1;
    store.write(end, &[3]).unwrap();
    assert_eq!(content(&store, end - 2, 3), [2, 1, 3]);
    assert_eq!(store.stored(), 2 * PAGE);
}

#[test]
fn zeroes_free_whole_pages_and_hide_the_image() {
    let mut store = disk("(1 2)*1000000000000");
    store.write(PAGE, &vec![5; 3 * PAGE as usize]).unwrap();
    store.zero(2 * PAGE - 1, PAGE + 2).unwrap();
    // The second of three pages is gone, and the image is a piece longer.
    assert_eq!(store.stored(), 2 * PAGE + size_of::<Piece>() as u64);
    assert_eq!(content(&store, 2 * PAGE - 2, 3), [5, 0, 0]);
    assert_eq!(content(&store, 3 * PAGE - 1, 3), [0, 0, 5]);
    store.zero(0, store.size()).unwrap();
    assert_eq!(store.stored(), 0);
    assert_eq!(extents(&store, 0, store.size()), [(store.size(), true)]);
    store.zero(3, 0).unwrap();
}

#[test]
fn full_disk_refuses_and_can_be_zeroed() {
    let mut store = Store::new(image("(1 2)*1000000"), 2 * PAGE);
    store.write(0, &vec![3; 2 * PAGE as usize]).unwrap();
    assert_eq!(store.write(2 * PAGE - 1, &[4, 5]), Err(NoSpace));
    assert_eq!(content(&store, 2 * PAGE - 1, 2), [4, 1], "the first byte had space");
    assert_eq!(store.zero(500_000, 10), Err(NoSpace));
    assert_eq!(content(&store, 500_000, 1), [1]);
    store.zero(0, store.size()).unwrap();
    store.write(PAGE, &[1]).unwrap();
    assert_eq!(store.stored(), PAGE);
}

#[test]
fn extents_have_whole_pages() {
    let mut store = disk("1 @131072 2 @6442450944 3 @8589934592");
    let expected = [
        (PAGE, false),
        (3 * PAGE, true),
        (PAGE, false),
        (6442450944 - 5 * PAGE, true),
        (PAGE, false),
        (8589934592 - 6442450944 - PAGE, true),
    ];
    assert_eq!(extents(&store, 0, store.size()), expected);
    assert_eq!(extents(&store, 100, 2 * PAGE), [(PAGE - 100, false), (PAGE + 100, true)]);
    store.write(PAGE + 5, &[0]).unwrap();
    assert_eq!(extents(&store, 0, 4 * PAGE), [(2 * PAGE, false), (2 * PAGE, true)]);
    assert_eq!(extents(&store, 2 * PAGE - 1, 2), [(1, false), (1, true)]);
    assert_eq!(extents(&disk("1*99999"), 7, 99_000), [(99_000, false)]);
    assert_eq!(extents(&disk("@99999"), 7, 99_992), [(99_992, true)]);
    assert_eq!(extents(&disk("@99999"), 7, 0), []);
}

#[test]
fn extents_end_early_rather_than_late() {
    let many = disk("(1 @65536)*1000000000000");
    let found = extents(&many, 0, many.size());
    assert_eq!(found.len(), MAX_EXTENTS);
    assert!(found.chunks(2).all(|pair| pair == [(PAGE, false), (PAGE, true)]));
    let short = disk("(1 @+3)*1000000000000");
    let found = extents(&short, 0, short.size());
    assert_eq!(found, [(MAX_SEARCHES as u64 * PAGE, false)]);
    let dense = disk("(1 2)*4000000000000000000");
    assert_eq!(extents(&dense, 0, dense.size()), [(dense.size(), false)]);
}

/// A disk and its content.
struct Run {
    random: fastrand::Rng,
    store: Store,
    bytes: Vec<u8>,
}

impl Run {
    fn step(&mut self) {
        let size = self.bytes.len();
        let longest = [size, size.min(300), size.min(3 * PAGE as usize)][self.random.usize(0..3)];
        let length = self.random.usize(0..=longest);
        let mut start = self.random.usize(0..=size - length);
        if self.random.bool() {
            start -= start % PAGE as usize;
        }
        let range = start..start + length;
        let (offset, length) = (start as u64, length as u64);
        match self.random.u8(0..8) {
            0..3 => {
                let byte = self.random.u8(0..3);
                self.bytes[range.clone()].fill(byte);
                self.store.write(offset, &self.bytes[range]).unwrap();
            }
            3..5 => {
                self.bytes[range].fill(0);
                self.store.zero(offset, length).unwrap();
            }
            5..7 => assert!(content(&self.store, offset, range.len()) == self.bytes[range]),
            _ => self.check_extents(offset, length),
        }
    }

    fn check_extents(&self, offset: u64, length: u64) {
        let mut at = offset;
        let mut last = None;
        for (length, hole) in extents(&self.store, offset, length) {
            assert!(length > 0 && last != Some(hole));
            let bytes = &self.bytes[at as usize..(at + length) as usize];
            assert!(!hole || bytes.iter().all(|byte| *byte == 0));
            last = Some(hole);
            at += length;
        }
        assert_eq!(at, offset + length);
    }
}

#[test]
fn disks_behave_as_arrays() {
    let texts = [
        "1",
        "@32768",
        "(1 2 3)*100000",
        "@200000 (1 @+30000 2*5000)*9 @+100000",
        "((1*40000 @+70000)*3 2 (3 @+5)*10000)*2 @123456 \"text\"",
        "0x55*98303 @98305",
    ];
    for (seed, text) in texts.into_iter().enumerate() {
        let store = disk(text);
        let bytes = content(&store, 0, store.size() as usize);
        let mut run = Run { random: fastrand::Rng::with_seed(seed as u64), store, bytes };
        for _ in 0..2000 {
            run.step();
        }
        assert!(content(&run.store, 0, run.bytes.len()) == run.bytes);
        run.store.zero(0, run.store.size()).unwrap();
        assert_eq!(run.store.stored(), 0);
    }
}
