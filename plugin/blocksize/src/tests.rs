use memnbd_guest::{ErrorCode, Geometry, Value, testing};

use super::*;

const SIZE: u64 = 1 << 20;

fn device(size: u64, minimum_block: u32) -> Lower {
    testing::device_with(Geometry {
        size,
        minimum_block,
        preferred_block: 4096,
        capabilities: Capabilities::WRITABLE | Capabilities::TRIM | Capabilities::ZERO,
    })
}

fn try_open(base: Lower, sizes: &[(&str, u64)]) -> Result<BlockSize, Error> {
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request =
        sizes.iter().fold(request, |request, (name, size)| request.with(name, Value::Size(*size)));
    BlockSize::open(&request)
}

fn open(sizes: &[(&str, u64)]) -> BlockSize {
    try_open(device(SIZE, 1), sizes).unwrap()
}

/// The segments of a request: where they are, and their lengths.
fn segments(disk: &mut BlockSize, operation: Operation, offset: u64, length: u64) -> Vec<String> {
    let route = disk.route(&Request::new(operation, offset, length)).unwrap();
    let segments = route.segments.iter().map(|segment| match segment.place {
        Place::Lower(location) => format!("{}+{}", location.offset, segment.length),
        Place::Own => format!("own {}", segment.length),
        Place::Hole => format!("hole {}", segment.length),
    });
    segments.collect()
}

#[test]
fn requests_pass_without_limits() {
    let mut disk = open(&[]);
    for operation in Operation::ALL {
        assert_eq!(disk.stable(operation, 5).unwrap().length, SIZE - 5);
    }
    assert_eq!(disk.rules(), Rules::NONE);
    // A limit concerns some operations.
    let mut disk = open(&[("maxdata", 4096)]);
    let stable = Operation::ALL.map(|operation| disk.stable(operation, 0).is_some());
    assert_eq!(stable, [false, false, true, true, false, true]);
    let mut disk = open(&[("maxlen", 4096)]);
    assert!(Operation::ALL.iter().all(|operation| disk.stable(*operation, 0).is_none()));
}

#[test]
fn long_requests_become_several() {
    let mut disk = open(&[("maxdata", 3000), ("maxlen", 5000)]);
    for operation in [Operation::Read, Operation::Write, Operation::Cache] {
        assert_eq!(segments(&mut disk, operation, 7, 7000), ["7+3000", "3007+3000", "6007+1000"]);
    }
    for operation in [Operation::Zero, Operation::Trim] {
        assert_eq!(segments(&mut disk, operation, 7, 7000), ["7+5000", "5007+2000"]);
    }
    assert_eq!(segments(&mut disk, Operation::Extents, 7, 7000), ["7+5000"]);
    assert_eq!(open(&[("maxlen", 5000)]).max_data, 5000);
}

#[test]
fn parts_of_blocks_are_changed_by_the_component() {
    let mut disk = open(&[("minblock", 512), ("maxdata", 1024)]);
    for operation in [Operation::Read, Operation::Write] {
        assert_eq!(
            segments(&mut disk, operation, 500, 2100),
            ["own 12", "512+1024", "1536+1024", "own 40"]
        );
    }
    assert_eq!(segments(&mut disk, Operation::Zero, 500, 2100), ["own 12", "512+2048", "own 40"]);
    assert_eq!(segments(&mut disk, Operation::Trim, 500, 2100), ["hole 12", "512+2048", "hole 40"]);
    assert_eq!(segments(&mut disk, Operation::Trim, 1, 2), ["hole 2"]);
    assert_eq!(segments(&mut disk, Operation::Cache, 500, 2100), ["own 2100"]);
    assert_eq!(segments(&mut disk, Operation::Extents, 500, 2100), ["own 2100"]);
    assert_eq!(segments(&mut disk, Operation::Extents, 512, 1024), ["512+1024"]);
    let rules = disk.rules();
    assert_eq!((rules.granule, rules.read, rules.zero), (512, Lock::None, Lock::Exclusive));
}

#[test]
fn fast_zeroing_is_one_request_or_fails() {
    let mut disk = open(&[("minblock", 512), ("maxlen", 4096)]);
    let fast =
        |offset, length| Request { fast: true, ..Request::new(Operation::Zero, offset, length) };
    assert!(disk.route(&fast(512, 4096)).is_ok());
    for request in [fast(0, 4608), fast(1, 512), fast(0, 100)] {
        assert_eq!(disk.route(&request), Err(Error::ENOTSUP));
    }
}

#[test]
fn minimum_block_is_at_least_that_of_the_device() {
    for (beneath, given, block) in [(1, None, 1), (512, None, 512), (512, Some(1), 512)] {
        let sizes: Vec<_> = given.map(|given| ("minblock", given)).into_iter().collect();
        assert_eq!(try_open(device(SIZE, beneath), &sizes).unwrap().block, block);
    }
    let disk = try_open(device(100_000, 1), &[("minblock", 65536)]).unwrap().disk();
    assert_eq!((disk.size, disk.minimum_block, disk.preferred_block), (65536, 1, 65536));
    assert_eq!(try_open(device(100, 1), &[("minblock", 512)]).unwrap().disk().size, 0);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for sizes in [
        &[("minblock", 3)][..],
        &[("minblock", 512), ("maxdata", 513)],
        &[("minblock", 512), ("maxdata", 256)],
        &[("minblock", 512), ("maxlen", 1000)],
    ] {
        let error = try_open(device(SIZE, 1), sizes).unwrap_err();
        assert!(error.message.unwrap().contains("must be"), "{sizes:?}");
    }
    assert!(try_open(device(SIZE, 4096), &[("maxdata", 512)]).is_err());
}

#[test]
fn component_makes_what_a_route_has_no_room_for() {
    let size = 1 << 40;
    let mut disk = try_open(device(size, 1), &[("maxlen", 16), ("maxdata", 16)]).unwrap();
    let within = 16 * MAX_PARTS as u64;
    assert_eq!(segments(&mut disk, Operation::Read, 0, within).len(), MAX_PARTS);
    for operation in [Operation::Read, Operation::Write, Operation::Zero, Operation::Trim] {
        let own = [format!("own {}", within + 1)];
        assert_eq!(segments(&mut disk, operation, 0, within + 1), own);
    }
    let mut serve = |operation, length| {
        testing::serve(&mut disk, &Request::new(operation, 5, length), &mut [])
            .map_err(|error| error.code)
    };
    for operation in [Operation::Zero, Operation::Trim] {
        assert_eq!(serve(operation, 16 * MAX_REQUESTS), Ok(()));
        assert_eq!(serve(operation, 16 * MAX_REQUESTS + 1), Err(ErrorCode::Eoverflow));
    }
    assert_eq!(serve(Operation::Cache, size - 5), Ok(()));
}

#[test]
fn extents_begin_where_they_were_asked_for() {
    let mut disk = open(&[("minblock", 4096), ("maxlen", 16384)]);
    disk.base.write(4096, &[1; 4096], false).unwrap();
    let mut lengths = |offset, length| -> Vec<(u64, bool)> {
        let extents = disk.extents(offset, length).unwrap();
        extents.iter().map(|extent| (extent.length, extent.status.hole)).collect()
    };
    assert_eq!(lengths(1, 2), [(4095, true)]);
    assert_eq!(lengths(5000, 2), [(3192, false)]);
    assert_eq!(lengths(4095, 2), [(1, true), (4096, false)]);
    assert_eq!(lengths(100, 1 << 19), [(3996, true), (4096, false), (8192, true)]);
}

#[test]
fn disk_behaves_like_an_array() {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = memnbd_guest::content::random_at(state, 1);
        state % below
    };
    for (block, maximum) in [(1, 700), (8, 16), (512, 1024), (4096, 65536), (65536, 65536)] {
        let mut disk = open(&[("minblock", block), ("maxdata", maximum), ("maxlen", maximum)]);
        let mut model = vec![0_u8; SIZE as usize];
        for _ in 0..300 {
            let offset = random(SIZE);
            let longest = [20, 5000, 200_000][random(3) as usize];
            let length = 1 + random(longest.min(SIZE - offset));
            let (start, end) = (offset as usize, (offset + length) as usize);
            let mut serve = |operation, bytes: &mut [u8]| {
                testing::serve(&mut disk, &Request::new(operation, offset, length), bytes).unwrap();
            };
            match random(4) {
                0 => {
                    let mut data: Vec<u8> = (0..length).map(|_| random(256) as u8).collect();
                    serve(Operation::Write, &mut data);
                    model[start..end].copy_from_slice(&data);
                }
                1 => {
                    serve(Operation::Zero, &mut []);
                    model[start..end].fill(0);
                }
                2 => serve(Operation::Cache, &mut []),
                _ => {
                    let mut data = vec![1; length as usize];
                    serve(Operation::Read, &mut data);
                    assert!(data == model[start..end], "{block} {maximum} {offset} {length}");
                }
            }
        }
    }
}
