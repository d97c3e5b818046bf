use memnbd_guest::{ErrorCode, Value, content, testing};

use super::*;

const EVERYTHING: Capabilities = Capabilities::WRITABLE
    .union(Capabilities::ZERO)
    .union(Capabilities::FAST_ZERO)
    .union(Capabilities::TRIM);

/// Random numbers below a bound.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 += 1;
        content::random_at(1, self.0) % bound
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

fn open(size: u64, block: u64) -> Cow {
    let base = testing::device(size, Capabilities::NONE);
    let overlay = testing::device(size + 1, EVERYTHING);
    let request = OpenRequest::default()
        .with("base", Value::Device(base))
        .with("overlay", Value::Device(overlay))
        .with("block", Value::Size(block));
    Cow::open(&request).unwrap()
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

fn write(disk: &mut Cow, offset: u64, data: &[u8]) -> Result<(), Error> {
    let request = Request::new(Operation::Write, offset, data.len() as u64);
    testing::serve(disk, &request, &mut data.to_vec())
}

/// Compares the disk with an array of bytes through random requests, some of which fail.
#[test]
fn disk_is_an_array_of_bytes_above_an_unchanged_base() {
    const SIZE: u64 = 512 * 40 + 100;
    let mut random = Random(0);
    let base = testing::device(SIZE, Capabilities::WRITABLE);
    base.write(0, &random.bytes(SIZE), false).unwrap();
    let original = content(base, SIZE);
    let overlay = testing::device(SIZE, EVERYTHING);
    overlay.write(0, &random.bytes(SIZE), false).unwrap();
    let request = OpenRequest::default()
        .with("base", Value::Device(base))
        .with("overlay", Value::Device(overlay))
        .with("block", Value::Size(512));
    let mut failures = 0;
    for _ in 0..20 {
        let mut disk = Cow::open(&request).unwrap();
        let mut model = original.clone();
        for step in 0..300 {
            let offset = random.below(SIZE);
            let length = 1 + random.below((SIZE - offset).min(2000));
            let range = offset as usize..(offset + length) as usize;
            let operation = Operation::ALL[random.below(6) as usize];
            let mut data = random.bytes(length);
            let new = match operation {
                Operation::Write => data.clone(),
                Operation::Zero | Operation::Trim => vec![0; length as usize],
                _ => model[range.clone()].to_vec(),
            };
            // Copies read the base, and changes go to the overlay.
            let fails = random.below(8) == 0 && operation.changes();
            let failing = if random.below(2) == 0 { base } else { overlay };
            testing::fail(failing, fails.then_some(ErrorCode::Enospc));
            let request = Request::new(operation, offset, length);
            let result = testing::serve(&mut disk, &request, &mut data);
            testing::fail(failing, None);
            let now = read(&mut disk, 0, SIZE);
            assert_eq!(now[..range.start], model[..range.start], "{step}: {request:?}");
            assert_eq!(now[range.end..], model[range.end..], "{step}: {request:?}");
            if result.is_err() {
                assert!(fails, "{step}: {request:?}");
                failures += 1;
            }
            // A trim keeps bytes or zeroes them. The devices fail without an effect.
            let either = operation == Operation::Trim || result.is_err();
            for at in range.clone() {
                let expected = new[at - range.start];
                let kept = either && now[at] == model[at];
                assert!(now[at] == expected || kept, "{step}: {request:?} at {at}");
            }
            if operation == Operation::Read {
                assert_eq!(data, new, "{step}: {request:?}");
            }
            model = now;
        }
        assert!(disk.pending.is_empty());
    }
    assert!(failures > 100, "{failures} requests failed");
    assert_eq!(content(base, SIZE), original);
}

#[test]
fn only_the_missing_bytes_of_partial_blocks_are_copied() {
    let mut disk = open(10_000, 4096);
    let copied = |disk: &mut Cow, offset, length| {
        let route = disk.route(&Request::new(Operation::Write, offset, length)).unwrap();
        if let Some(token) = route.done {
            disk.done(token, &Results::default()).unwrap();
        }
        let copies = route.copies.iter();
        copies.map(|copy| (copy.from.offset, copy.length)).collect::<Vec<_>>()
    };
    assert_eq!(copied(&mut disk, 100, 50), [(0, 100), (150, 3946)]);
    assert_eq!(copied(&mut disk, 100, 50), []);
    // The last block ends with the disk.
    assert_eq!(copied(&mut disk, 8192, 1000), [(9192, 808)]);
    let mut disk = open(10_000, 4096);
    assert_eq!(copied(&mut disk, 4096, 10_000 - 4096), []);
    assert_eq!(copied(&mut disk, 10, 5000), [(0, 10)]);
}

#[test]
fn block_stays_on_the_base_if_the_copy_or_the_write_failed() {
    let mut disk = open(8192, 4096);
    for failing in [disk.base, disk.overlay] {
        testing::fail(failing, Some(ErrorCode::Eio));
        assert_eq!(write(&mut disk, 10, b"x"), Err(Error::EIO));
        testing::fail(failing, None);
        assert!(!disk.is_present(0));
        assert!(disk.pending.is_empty());
    }
    write(&mut disk, 10, b"x").unwrap();
    assert!(disk.is_present(0) && !disk.is_present(1));
}

#[test]
fn reads_with_too_many_runs_are_finished_by_the_component() {
    const BLOCKS: u64 = 10_000;
    let mut disk = open(BLOCKS * 512, 512);
    for block in (0..BLOCKS).step_by(2) {
        write(&mut disk, block * 512, &[block as u8 | 1; 512]).unwrap();
    }
    let request = Request::new(Operation::Read, 0, BLOCKS * 512);
    let route = disk.route(&request).unwrap();
    testing::check(&route, &request);
    assert_eq!(route.segments.last().unwrap().place, Place::Own);
    let bytes = read(&mut disk, 0, BLOCKS * 512);
    for (block, bytes) in (0..BLOCKS).zip(bytes.chunks(512)) {
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
    let mut disk = open(8192, 4096);
    let zero =
        |offset, length| Request { fast: true, ..Request::new(Operation::Zero, offset, length) };
    assert_eq!(disk.route(&zero(1, 4095)), Err(Error::ENOTSUP));
    testing::serve(&mut disk, &zero(0, 4096), &mut []).unwrap();
    testing::serve(&mut disk, &zero(1, 1), &mut []).unwrap();
}

#[test]
fn unsuitable_devices_are_refused() {
    let base = testing::device(8192, Capabilities::NONE);
    let message = |overlay, read_only| {
        let request = OpenRequest { read_only, ..OpenRequest::default() }
            .with("base", Value::Device(base))
            .with("overlay", Value::Device(overlay));
        Cow::open(&request).err().map(|error| error.message.unwrap().into_owned())
    };
    let small = testing::device(8191, EVERYTHING);
    let expected = "overlay has 8191 bytes; it must have at least the 8192 bytes of base";
    assert_eq!(message(small, false).as_deref(), Some(expected));
    assert!(message(base, false).unwrap().contains("different"));
    let read_only = testing::device(8192, Capabilities::NONE);
    assert!(message(read_only, false).unwrap().contains("writable"));
    assert_eq!(message(read_only, true), None);
}
