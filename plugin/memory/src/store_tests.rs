//! Tests of the guarantees of the disk, one case at a time.

use super::*;
use crate::pages::LANDING_SIZE;
use crate::testing::{Vector, disk};

const PAGE: u64 = PAGE_SIZE as u64;
const LARGEST: u64 = i64::MAX as u64;
const MIB: u64 = 1 << 20;

#[test]
fn full_memory_takes_writes_again_after_a_trim() {
    let mut store = disk(1 << 40, 64 + 256);
    let block = vec![7; PAGE as usize];
    let full = (0..).find(|page| store.write_bytes(page * PAGE, &block).is_err()).unwrap();
    assert!(full > 250, "{full} pages of 256");
    assert_eq!(store.write_bytes(1 << 39, &block), Err(NoSpace));
    assert_eq!(store.write_bytes(5 * PAGE, &[8; 3 * PAGE as usize]), Ok(()), "they have pages");
    store.audit();

    store.zero(10 * PAGE, 20 * PAGE);
    for page in 10..30 {
        assert_eq!(store.write_bytes(page * PAGE, &block), Ok(()));
    }
    assert_eq!(store.write_bytes(full * PAGE, &block), Err(NoSpace));
    assert_eq!(store.read_bytes(5 * PAGE, 1), [8]);
    assert_eq!(store.read_bytes((full - 1) * PAGE, PAGE_SIZE), block);

    store.zero(0, 1 << 40);
    assert_eq!(store.stored(), 0);
    let again = (0..).find(|page| store.write_bytes(page * PAGE, &block).is_err()).unwrap();
    assert_eq!(again, full);
    store.audit();
}

#[test]
fn pages_keep_their_places_until_they_are_zeroed() {
    let mut store = disk(3 * MIB + 100, 512);
    assert_eq!(store.page(0), None, "a hole");
    store.write_bytes(PAGE + 5, &[7]).unwrap();
    let (address, length) = store.page(PAGE).unwrap();
    assert_eq!(length, PAGE_SIZE);
    assert_eq!(store.memory().bytes(address, 7), [0, 0, 0, 0, 0, 7, 0]);
    // Writes change the page in place, and writes elsewhere do not affect it.
    store.write_bytes(PAGE, &[8; PAGE as usize]).unwrap();
    store.write_bytes(2 * PAGE, &[9; MIB as usize]).unwrap();
    assert_eq!(store.page(PAGE), Some((address, PAGE_SIZE)));
    assert_eq!(store.memory().bytes(address, PAGE_SIZE), [8; PAGE as usize]);
    store.zero(PAGE, PAGE);
    assert_eq!(store.page(PAGE), None);
    // The last page ends where the disk ends.
    store.write_bytes(3 * MIB, &[1; 100]).unwrap();
    assert_eq!(store.page(3 * MIB).unwrap().1, 100);
    store.audit();
}

#[test]
fn whole_disk_requests_cost_what_is_stored() {
    let mut store = disk(LARGEST, 4096);
    for offset in [0, 1 << 40, LARGEST - 1] {
        store.write_bytes(offset, &[1]).unwrap();
    }
    store.memory().words_read.set(0);
    let runs = store.extents_of(0, LARGEST, 4096);
    assert_eq!(
        runs,
        [
            (PAGE, Status::Data),
            ((1 << 40) - PAGE, Status::Hole),
            (PAGE, Status::Data),
            (LARGEST + 1 - PAGE - (1 << 40) - PAGE, Status::Hole),
            (PAGE - 1, Status::Data),
        ]
    );
    store.zero(0, LARGEST);
    let words = store.memory().words_read.get();
    assert!(words < 50_000, "{words} words");
    assert_eq!(store.stored(), 0);
    assert_eq!(store.extents_of(0, LARGEST, 4096), [(LARGEST, Status::Hole)]);
    store.audit();
}

#[test]
fn extents_stop_before_they_take_long() {
    let mut store = disk(1 << 40, 8192);
    for stripe in 0..100 {
        store.write_bytes(stripe * 2 * MIB, &vec![1; 2 << 20]).unwrap();
    }
    assert_eq!(store.extents_of(0, 1 << 40, 4096), [(128 * MIB, Status::Data)]);
    assert_eq!(store.extents_of(128 * MIB, 1 << 30, 1), [(72 * MIB, Status::Data)]);
}

#[test]
fn zeroes_that_stay_allocated_keep_their_pages_until_zeroed_otherwise() {
    let mut store = disk(LARGEST, 4096);
    store.zero_allocated(PAGE / 2, 2 * PAGE).unwrap();
    assert_eq!(store.extents_of(0, 4 * PAGE, 9), [(3 * PAGE, Status::Zero), (PAGE, Status::Hole)]);
    store.zero_allocated(0, 3 * PAGE).unwrap();
    assert_eq!(store.stored(), 3 * PAGE);
    store.zero(PAGE, 1);
    assert_eq!(
        store.extents_of(0, 3 * PAGE, 9),
        [(PAGE, Status::Zero), (PAGE, Status::Hole), (PAGE, Status::Zero)]
    );
}

#[test]
fn whole_pages_for_absent_ones_are_adopted() {
    let mut store = disk(1 << 40, 8192);
    let stripe: Vec<u8> = (0..2 << 20).map(|at: u32| (at >> 12) as u8 | 1).collect();
    for number in 0..20 {
        store.write_bytes(number * 2 * MIB, &stripe).unwrap();
    }
    assert_eq!(store.memory().bytes_copied, 0);
    let mut chunks = 0;
    store.read(4 * MIB, 2 << 20, |_| chunks += 1);
    assert_eq!(chunks, 1, "the pages of a stripe lie side by side");
    for number in 0..20 {
        assert!(store.read_bytes(number * 2 * MIB, 2 << 20) == stripe);
    }

    store.write_bytes(0, &stripe).unwrap();
    assert_eq!(store.memory().bytes_copied, 2 * MIB, "present pages are written in place");
    store.audit();
}

#[test]
fn freed_pages_are_used_up_before_the_memory_grows() {
    let mut store = disk(1 << 40, 8192);
    let stripe = vec![1; 2 << 20];
    for number in 0..20 {
        store.write_bytes(number * 2 * MIB, &stripe).unwrap();
    }
    let total = store.pages.total();
    for _ in 0..10 {
        store.zero(0, 1 << 40);
        for number in 0..20 {
            store.write_bytes(number * 2 * MIB, &stripe).unwrap();
        }
    }
    assert!(store.pages.total() <= total + 64, "{} after {total} pages", store.pages.total());
    let mut chunks = 0;
    store.read(4 * MIB, 2 << 20, |_| chunks += 1);
    assert!(chunks <= 2, "pages that were freed in order come back in order: {chunks} chunks");
    store.audit();
}

#[test]
fn branches_that_lead_nowhere_are_used_again() {
    let mut store = disk(LARGEST, 4096);
    for place in 0..5000 {
        store.write_bytes(place << 50, &[1]).unwrap();
        store.zero(place << 50, 1);
    }
    assert_eq!(store.stored(), 0);
    let zone = LANDING_SIZE / PAGE_SIZE;
    assert!(store.pages.total() <= 2 * zone, "{} pages", store.pages.total());
    store.audit();
}

#[test]
fn overhead_is_below_two_percent_of_what_is_stored() {
    for block in [4096_usize, 100_000, 1 << 20, 2 << 20] {
        let mut store = disk(1 << 40, 16384);
        let payload = vec![1; block];
        let blocks = 400 * MIB / block as u64;
        (0..blocks).for_each(|at| store.write_bytes(at * block as u64, &payload).unwrap());
        let fresh = store.pages.not_in_use().len() as u64;
        let (content, nodes) = store.directory.audit(&mut store.pages);
        let stored = content.len() as u64;
        assert_eq!(stored, 400 * MIB / PAGE + u64::from(block == 100_000 && stored % 2 == 1));
        assert!(nodes.len() as u64 * 1000 < stored, "{} pages of nodes", nodes.len());
        assert!(fresh * PAGE < 40 * MIB, "{fresh} pages in reserve for {block}");
    }
}

#[test]
fn memory_too_small_for_a_landing_zone_is_no_disk() {
    let zone = LANDING_SIZE / PAGE_SIZE;
    assert!(Store::new(1, Vector::new(zone - 1)).is_none());
    let mut store = disk(1, zone);
    assert_eq!(store.write_bytes(0, &[1]), Err(NoSpace));
    assert_eq!(store.read_bytes(0, 1), [0]);
}
