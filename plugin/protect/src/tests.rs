use memnbd_guest::content::random_at;
use memnbd_guest::{Geometry, Value, testing};

use super::*;

fn open(base: Lower, protect: &[&str]) -> Protect {
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request = protect
        .iter()
        .fold(request, |request, text| request.with("protect", Value::Text((*text).into())));
    Protect::open(&request).unwrap()
}

fn base(size: u64) -> Lower {
    testing::device(size, Capabilities::WRITABLE | Capabilities::TRIM | Capabilities::ZERO)
}

fn serve(
    disk: &mut Protect,
    operation: Operation,
    offset: u64,
    data: &mut [u8],
) -> Result<(), Error> {
    let request = Request::new(operation, offset, data.len() as u64);
    let buffer = if operation == Operation::Write { data } else { &mut [] };
    testing::serve(disk, &request, buffer).map_err(|error| Error::new(error.code))
}

#[test]
fn changes_are_divided_at_the_ends_of_ranges() {
    let base = base(1000);
    let mut disk = open(base, &["100-199", "300-"]);
    for operation in Operation::ALL {
        let route = disk.route(&Request::new(operation, 50, 900)).unwrap();
        if !operation.changes() {
            assert_eq!(route, Route::lower(base.at(50), 900));
            assert_eq!(disk.stable(operation, 150), base.pass_all(150));
            continue;
        }
        let expected = Route::lower(base.at(50), 50)
            .segment(Place::Own, 100)
            .segment(base.at(200), 100)
            .segment(Place::Own, 650);
        assert_eq!(route, expected);
        assert_eq!(disk.stable(operation, 0), base.pass_until(0, 100));
        assert_eq!(disk.stable(operation, 150), Some(StableRoute::new(Place::Own, 50)));
        assert_eq!(disk.stable(operation, 200), base.pass_until(200, 300));
        assert_eq!(disk.stable(operation, 300), Some(StableRoute::new(Place::Own, 700)));
        assert_eq!(disk.stable(operation, 1000), None);
    }
}

#[test]
fn protected_bytes_take_what_they_have() {
    let base = base(1 << 20);
    base.write(100, b"boot", false).unwrap();
    let mut disk = open(base, &["100-0xfffff"]);
    let mut boot = *b"boot";
    assert_eq!(serve(&mut disk, Operation::Write, 100, &mut boot), Ok(()));
    assert_eq!(serve(&mut disk, Operation::Write, 99, &mut b"xboot\0".clone()), Ok(()));
    for data in [b"Boot", b"booT"] {
        assert_eq!(serve(&mut disk, Operation::Write, 100, &mut data.clone()), Err(Error::EPERM));
    }
    for operation in [Operation::Zero, Operation::Trim] {
        assert_eq!(serve(&mut disk, operation, 103, &mut [0; 5]), Err(Error::EPERM));
        assert_eq!(serve(&mut disk, operation, 104, &mut [0; 500_000]), Ok(()));
    }
    let error = disk.write(100, b"Boot", false).unwrap_err();
    assert_eq!(error.message.unwrap(), "bytes 100 to 1048575 are protected and would change");
}

#[test]
fn zeroes_that_are_stored_are_found() {
    let base = base(1 << 30);
    base.write(0, &vec![0; 3 << 20], false).unwrap();
    let mut disk = open(base, &["-"]);
    assert_eq!(disk.zero(5, (1 << 30) - 5, ZeroOptions::default()), Ok(()));
    base.write((3 << 20) - 1, &[1], false).unwrap();
    assert_eq!(disk.zero(5, (3 << 20) - 6, ZeroOptions::default()), Ok(()));
    let error = disk.trim(5, 1 << 25, false).unwrap_err();
    assert_eq!(error.code, memnbd_guest::ErrorCode::Eperm);
}

/// Data that are all zero, with holes in between.
#[test]
fn search_for_zeroes_ends() {
    let base = base(1 << 30);
    for piece in 0..1100 {
        base.write(piece << 18, &[0], false).unwrap();
    }
    let disk = open(base, &["-"]);
    let error = disk.check_zero(0, 1 << 30).unwrap_err();
    assert_eq!(error.code, memnbd_guest::ErrorCode::Eoverflow);
    assert_eq!(disk.check_zero(0, 1000 << 18), Ok(()));
}

#[test]
fn blocks_are_protected_as_a_whole_or_not_at_all() {
    let block = |protect: &[&str]| {
        let base = testing::device_with(Geometry {
            size: 1 << 20,
            minimum_block: 4096,
            preferred_block: 65536,
            capabilities: Capabilities::WRITABLE,
        });
        open(base, protect).disk().minimum_block
    };
    assert_eq!(block(&[]), 4096);
    assert_eq!(block(&["8192-0x3fff"]), 4096);
    assert_eq!(block(&["0-511"]), 512);
    assert_eq!(block(&["0-445"]), 2);
}

/// Random requests against a byte array, parts of which do not change.
#[test]
fn disk_behaves_like_an_array_with_protected_parts() {
    let (size, base) = (2000, base(2000));
    base.write(0, &[7; 1000], false).unwrap();
    let mut disk = open(base, &["100-299", "900-1099", "1500-1500"]);
    let is_protected = |at: usize| matches!(at, 100..300 | 900..1100 | 1500);
    let mut model = vec![0; size as usize];
    model[..1000].fill(7);
    for step in 0..3000_u64 {
        let random = |index: u64| random_at(1, step * 4 + index);
        let offset = random(0) % size;
        let length = 1 + random(1) % (size - offset).min(300);
        let operation = Operation::ALL[(random(2) % 4) as usize];
        let request = Request::new(operation, offset, length);
        let byte = [7, 0, 3][(random(3) % 3) as usize];
        let mut data = vec![byte; length as usize];
        let result = testing::serve(&mut disk, &request, &mut data);
        let range = offset as usize..(offset + length) as usize;
        if operation == Operation::Read {
            assert!(data == model[range], "{request:?}");
            continue;
        }
        let byte = if operation == Operation::Write { byte } else { 0 };
        let would_change = range.clone().any(|at| is_protected(at) && model[at] != byte);
        assert_eq!(result.is_err(), would_change, "{request:?}");
        for at in range.filter(|at| !is_protected(*at)) {
            model[at] = byte;
        }
    }
}
