use memnbd_guest::content::random_at;
use memnbd_guest::{Geometry, Value, testing};

use super::*;

fn open(base: Lower, parameters: &[(&str, u64)]) -> Result<Truncate, Error> {
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request = parameters
        .iter()
        .fold(request, |request, (name, size)| request.with(name, Value::Size(*size)));
    Truncate::open(&request)
}

fn base(size: u64) -> Lower {
    testing::device(size, Capabilities::WRITABLE | Capabilities::TRIM | Capabilities::ZERO)
}

#[test]
fn size_is_set_and_then_rounded_up_and_down() {
    let size = |parameters: &[(&str, u64)]| open(base(1000), parameters).unwrap().disk().size;
    assert_eq!(size(&[]), 1000);
    assert_eq!(size(&[("truncate", 5)]), 5);
    assert_eq!(size(&[("truncate", 0)]), 0);
    assert_eq!(size(&[("truncate", MAX_SIZE)]), MAX_SIZE);
    assert_eq!(size(&[("round-up", 512)]), 1024);
    assert_eq!(size(&[("round-down", 512)]), 512);
    assert_eq!(size(&[("round-down", 1024)]), 0);
    assert_eq!(size(&[("round-down", 4096), ("round-up", 512), ("truncate", 7000)]), 4096);
    assert_eq!(size(&[("round-up", 1)]), 1000);
}

#[test]
fn units_are_powers_of_two_and_the_disk_is_not_too_large() {
    let message =
        |parameters: &[(&str, u64)]| open(base(1000), parameters).unwrap_err().message.unwrap();
    assert_eq!(message(&[("round-up", 513)]), "round-up=513 must be a power of two");
    assert_eq!(message(&[("round-down", 3)]), "round-down=3 must be a power of two");
    let large = [("truncate", MAX_SIZE), ("round-up", 512)];
    assert!(message(&large).contains("larger than 9223372036854775807 bytes"));
}

#[test]
fn what_is_after_the_end_takes_zeroes_only() {
    let mut disk = open(base(1000), &[("truncate", 2000)]).unwrap();
    let mut write = |offset, data: &mut [u8]| {
        let request = Request::new(Operation::Write, offset, data.len() as u64);
        testing::serve(&mut disk, &request, data).map_err(|error| Error::new(error.code))
    };
    assert_eq!(write(990, &mut [7; 10]), Ok(()));
    assert_eq!(write(990, &mut [0; 20]), Ok(()));
    assert_eq!(write(1990, &mut [0; 10]), Ok(()));
    assert_eq!(write(1999, &mut [1]), Err(Error::ENOSPC));
    assert_eq!(write(995, &mut [8; 10]), Err(Error::ENOSPC));
    let mut bytes = [9; 20];
    testing::serve(&mut disk, &Request::new(Operation::Read, 990, 20), &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0\x08\x08\x08\x08\x08\0\0\0\0\0\0\0\0\0\0", "as in nbdkit");
    let zero = Request::new(Operation::Zero, 500, 1500);
    for zero in [zero, Request { keep_allocated: true, ..zero }, Request { fast: true, ..zero }] {
        assert_eq!(testing::serve(&mut disk, &zero, &mut []), Ok(()));
    }
}

#[test]
fn requests_are_divided_at_the_end() {
    let mut disk = open(base(1000), &[("truncate", 2000)]).unwrap();
    for operation in Operation::ALL {
        let place = match operation {
            Operation::Write | Operation::Zero => Place::Own,
            _ => Place::Hole,
        };
        let route = disk.route(&Request::new(operation, 900, 300)).unwrap();
        assert_eq!(route, Route::lower(disk.base.at(900), 100).segment(place, 200));
        assert_eq!(disk.stable(operation, 900), disk.base.pass_until(900, 1000));
        assert_eq!(disk.stable(operation, 1000), Some(StableRoute::new(place, 1000)));
        assert_eq!(disk.stable(operation, 2000), None);
    }
    let mut disk = open(base(1000), &[("truncate", 500)]).unwrap();
    assert_eq!(disk.stable(Operation::Read, 10), disk.base.pass_until(10, 500));
    let mut empty = open(base(0), &[("round-up", 512), ("truncate", 1)]).unwrap();
    let route = empty.route(&Request::new(Operation::Read, 0, 512)).unwrap();
    assert_eq!(route, Route::new().segment(Place::Hole, 512));
}

#[test]
fn blocks_divide_both_sizes() {
    let block = |size, truncate| {
        let geometry = Geometry {
            size,
            minimum_block: 4096,
            preferred_block: 65536,
            capabilities: Capabilities::WRITABLE | Capabilities::ZERO,
        };
        open(testing::device_with(geometry), &[("truncate", truncate)]).unwrap().disk()
    };
    assert_eq!(block(8192, 4096).minimum_block, 4096);
    assert_eq!(block(8192, 1 << 20).minimum_block, 4096);
    assert_eq!(block(8192, 512).minimum_block, 512);
    assert_eq!(block(8192, 8193).minimum_block, 1);
    let fast = |disk: Disk| disk.capabilities.contains(Capabilities::FAST_ZERO);
    assert!(!fast(block(8192, 4096)) && fast(block(8192, 16384)));
}

/// Random requests against a byte array, whose end takes zeroes only.
#[test]
fn disk_behaves_like_an_array() {
    for (size, real) in [(1000, 700), (1000, 1000), (500, 900)] {
        let mut disk = open(base(real), &[("truncate", size)]).unwrap();
        let mut model = vec![0; size as usize];
        for step in 0..2000_u64 {
            let random = |index: u64| random_at(size ^ real, step * 4 + index);
            let offset = random(0) % size;
            let length = 1 + random(1) % (size - offset).min(200);
            let range = offset as usize..(offset + length) as usize;
            let operation = Operation::ALL[(random(2) % 4) as usize];
            let request = Request::new(operation, offset, length);
            let byte = if random(3).is_multiple_of(4) { 0 } else { random(3) as u8 };
            let mut data = vec![byte; length as usize];
            let result = testing::serve(&mut disk, &request, &mut data);
            match operation {
                Operation::Read => assert!(data == model[range], "{request:?}"),
                Operation::Write => {
                    let inside = range.start..range.end.min(real as usize).max(range.start);
                    let is_beyond = range.end > real as usize && byte != 0;
                    assert_eq!(result.is_err(), is_beyond, "{request:?}");
                    model[inside].fill(byte);
                }
                _ => model[range].fill(0),
            }
        }
    }
}
