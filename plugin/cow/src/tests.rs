//! Tests of the disk, above devices in memory.

extern crate std;

mod crash;
mod hostile;
mod model;
mod opening;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Error, ErrorCode, Filter, Lower, OpenRequest, Operation, Place, Request,
    Results, Value, testing,
};

use crate::Cow;

const EVERYTHING: Capabilities = Capabilities::WRITABLE
    .union(Capabilities::TRIM)
    .union(Capabilities::ZERO)
    .union(Capabilities::FAST_ZERO)
    .union(Capabilities::CACHE);

/// A device of `size` bytes that can do everything.
fn device(size: u64) -> Lower {
    testing::device(size, EVERYTHING)
}

/// A device for a map.
fn map_device() -> Lower {
    device(1 << 20)
}

/// The arguments for a disk above `base`.
fn above(base: Lower) -> OpenRequest {
    OpenRequest::default().with("base", Value::Device(base))
}

trait With {
    fn and(self, name: &str, device: Lower) -> Self;
    fn block(self, block: u64) -> Self;
}

impl With for OpenRequest {
    fn and(self, name: &str, device: Lower) -> Self {
        self.with(name, Value::Device(device))
    }

    fn block(self, block: u64) -> Self {
        self.with("cow-block-size", Value::Size(block))
    }
}

/// Returns the message of a disk that cannot be opened.
fn refusal(request: &OpenRequest) -> String {
    let error = Cow::open(request).expect_err("it is refused");
    error.message.expect("there is a message").into_owned()
}

fn random_bytes(random: &mut fastrand::Rng, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    random.fill(&mut bytes);
    bytes
}

/// A device with random content, but some of it zero.
fn random_device(random: &mut fastrand::Rng, size: u64) -> Lower {
    let device = device(size);
    device.write(0, &random_bytes(random, size), false).unwrap();
    device.zero(size / 3, size / 5, Default::default()).unwrap();
    device
}

fn content(device: Lower, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    device.read(0, &mut bytes).unwrap();
    bytes
}

fn read(disk: &mut Cow, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xa5; length as usize];
    let request = Request::new(Operation::Read, offset, length);
    testing::serve(disk, &request, &mut bytes).unwrap();
    bytes
}

fn whole(disk: &mut Cow) -> Vec<u8> {
    let size = disk.size;
    read(disk, 0, size)
}

fn write(disk: &mut Cow, offset: u64, data: &[u8]) -> Result<(), Error> {
    let request = Request::new(Operation::Write, offset, data.len() as u64);
    testing::serve(disk, &request, &mut data.to_vec())
}

#[test]
fn only_the_missing_bytes_of_partial_blocks_are_copied() {
    let open = || Cow::open(&above(device(10_000)).and("overlay", device(10_000)).block(4096));
    let copied = |disk: &mut Cow, offset, length| {
        let route = disk.route(&Request::new(Operation::Write, offset, length)).unwrap();
        if let Some(token) = route.done {
            disk.done(token, &Results::default()).unwrap();
        }
        let copies = route.copies.iter();
        copies.map(|copy| (copy.from.offset, copy.length)).collect::<Vec<_>>()
    };
    let mut disk = open().unwrap();
    assert_eq!(copied(&mut disk, 100, 50), [(0, 100), (150, 3946)]);
    assert_eq!(copied(&mut disk, 100, 50), []);
    // The last block ends with the disk.
    assert_eq!(copied(&mut disk, 8192, 1000), [(9192, 808)]);
    let mut disk = open().unwrap();
    assert_eq!(copied(&mut disk, 4096, 10_000 - 4096), []);
    assert_eq!(copied(&mut disk, 10, 5000), [(0, 10)]);
}

#[test]
fn block_stays_where_it_was_if_the_copy_or_the_write_failed() {
    let (base, overlay) = (device(8192), device(8192));
    base.write(0, &[1; 8192], false).unwrap();
    let mut disk = Cow::open(&above(base).and("overlay", overlay).block(4096)).unwrap();
    for failing in [base, overlay] {
        testing::fail(failing, Some(ErrorCode::Eio));
        assert_eq!(write(&mut disk, 10, b"x"), Err(Error::EIO));
        testing::fail(failing, None);
        assert!(!disk.is_on_top(&(0..1)) && disk.pending.is_empty());
        assert_eq!(whole(&mut disk), [1; 8192]);
    }
    write(&mut disk, 10, b"x").unwrap();
    assert!(disk.is_on_top(&(0..1)) && !disk.is_on_top(&(0..2)));
}

#[test]
fn reads_with_too_many_runs_are_finished_by_the_component() {
    const BLOCKS: u64 = 10_000;
    const BLOCK: u64 = 4096;
    let devices = above(device(BLOCKS * BLOCK)).and("overlay", device(BLOCKS * BLOCK));
    let mut disk = Cow::open(&devices.block(BLOCK)).unwrap();
    for block in (0..BLOCKS).step_by(2) {
        write(&mut disk, block * BLOCK, &[block as u8 | 1; BLOCK as usize]).unwrap();
    }
    let request = Request::new(Operation::Read, 0, BLOCKS * BLOCK);
    let route = disk.route(&request).unwrap();
    testing::check(&route, &request);
    assert_eq!(route.segments.last().unwrap().place, Place::Own);
    let bytes = read(&mut disk, 0, BLOCKS * BLOCK);
    for (block, bytes) in (0..BLOCKS).zip(bytes.chunks(BLOCK as usize)) {
        let expected = if block % 2 == 0 { block as u8 | 1 } else { 0 };
        assert!(bytes.iter().all(|byte| *byte == expected), "block {block}");
    }
    for operation in [Operation::Trim, Operation::Cache, Operation::Extents] {
        let request = Request { operation, ..request };
        testing::check(&disk.route(&request).unwrap(), &request);
    }
}

#[test]
fn fast_zeroing_that_would_copy_fails() {
    let devices = above(device(8192)).and("overlay", device(8192));
    let mut disk = Cow::open(&devices.block(4096)).unwrap();
    let zero =
        |offset, length| Request { fast: true, ..Request::new(Operation::Zero, offset, length) };
    assert_eq!(disk.route(&zero(1, 4095)), Err(Error::ENOTSUP));
    testing::serve(&mut disk, &zero(0, 4096), &mut []).unwrap();
    testing::serve(&mut disk, &zero(1, 1), &mut []).unwrap();
    assert!(disk.pending.is_empty());
}

#[test]
fn blocks_are_copied_when_they_are_read_or_prefetched_if_that_is_asked_for() {
    const SIZE: u64 = 4096 * 10 + 7;
    let (base, overlay) = (device(SIZE), device(SIZE));
    base.write(0, &[7; SIZE as usize], false).unwrap();
    let devices = above(base).and("overlay", overlay).block(4096);
    let yes = Value::Boolean(true);
    let mut disk = Cow::open(&devices.clone().with("cow-on-read", yes.clone())).unwrap();
    assert_eq!(read(&mut disk, 4095, 2), [7; 2]);
    assert!(disk.is_on_top(&(0..2)) && !disk.is_on_top(&(0..3)));
    assert_eq!(content(overlay, SIZE)[..8193], [&[7; 8192][..], &[0]].concat());
    assert_eq!(read(&mut disk, 0, SIZE), [7; SIZE as usize]);
    assert!(disk.is_on_top(&(0..11)) && disk.pending.is_empty());
    // With the wrong content in the base, the right one can only come from the overlay.
    base.write(0, &[8; SIZE as usize], false).unwrap();
    assert_eq!(read(&mut disk, 0, SIZE), [7; SIZE as usize]);

    let mut disk = Cow::open(&devices.with("cow-on-cache", yes)).unwrap();
    assert_eq!(read(&mut disk, 0, SIZE), [8; SIZE as usize]);
    assert!(!disk.is_on_top(&(0..1)));
    let request = Request::new(Operation::Cache, 8000, 8192);
    testing::serve(&mut disk, &request, &mut []).unwrap();
    assert!(!disk.is_on_top(&(0..1)) && disk.is_on_top(&(1..4)) && !disk.is_on_top(&(1..5)));
    testing::fail(overlay, Some(ErrorCode::Enospc));
    let request = Request::new(Operation::Cache, 0, SIZE);
    assert_eq!(testing::serve(&mut disk, &request, &mut []), Err(Error::ENOSPC));
    testing::fail(overlay, None);
    assert!(!disk.is_on_top(&(0..1)) && disk.pending.is_empty());
}

#[test]
fn pages_whose_blocks_are_all_written_take_no_memory_of_their_own() {
    const BLOCK: u64 = 64 << 10;
    const SIZE: u64 = BLOCK * 4096 * 3;
    let overlay = device(SIZE);
    let mut disk = Cow::open(&above(device(SIZE)).and("overlay", overlay)).unwrap();
    for block in (0..4096 * 3).rev() {
        let route = disk.route(&Request::new(Operation::Write, block * BLOCK, BLOCK)).unwrap();
        disk.done(route.done.unwrap(), &Results::default()).unwrap();
    }
    assert_eq!(disk.map.memory(), 0);
    assert!(disk.is_on_top(&(0..4096 * 3)));
    let mut disk = Cow::open(&above(device(SIZE)).and("overlay", overlay)).unwrap();
    let zero = Request::new(Operation::Zero, BLOCK + 5, SIZE - 2 * BLOCK - 10);
    testing::serve(&mut disk, &zero, &mut []).unwrap();
    assert_eq!(disk.map.memory(), 8192, "of the first page and the last");
    assert!(disk.is_on_top(&(1..4096 * 3 - 1)));
    assert!(!disk.is_on_top(&(0..1)) && !disk.is_on_top(&(4096 * 3 - 1..4096 * 3)));
}
