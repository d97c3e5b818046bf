use memnbd_guest::content::random_at;
use memnbd_guest::{ErrorCode, Geometry, MAX_SIZE, Value, testing};

use super::*;

fn open(base: Lower, maps: &[&str], size: Option<u64>) -> Map {
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request =
        maps.iter().fold(request, |request, map| request.with("map", Value::Text((*map).into())));
    let request = match size {
        Some(size) => request.with("map-size", Value::Size(size)),
        None => request,
    };
    Map::open(&request).unwrap()
}

fn base(size: u64) -> Lower {
    testing::device(size, Capabilities::WRITABLE | Capabilities::TRIM | Capabilities::ZERO)
}

#[test]
fn requests_are_divided_and_moved() {
    let base = base(2000);
    let mut disk = open(base, &["0-511:512", "512-1023:0"], None);
    for operation in Operation::ALL {
        let route = disk.route(&Request::new(operation, 500, 1000)).unwrap();
        let expected =
            Route::lower(base.at(1012), 12).segment(base.at(0), 512).segment(base.at(1024), 476);
        assert_eq!(route, expected);
        let stable = |place: u64, length| Some(StableRoute::new(base.at(place), length));
        assert_eq!(disk.stable(operation, 10), stable(522, 502));
        assert_eq!(disk.stable(operation, 600), stable(88, 424));
        assert_eq!(disk.stable(operation, 1024), stable(1024, 976));
        assert_eq!(disk.stable(operation, 2000), None);
    }
}

#[test]
fn size_may_be_another() {
    let size = |base, size| open(base, &[], size).disk().size;
    assert_eq!(size(base(1000), None), 1000);
    assert_eq!(size(base(1000), Some(10)), 10);
    assert_eq!(size(base(1000), Some(MAX_SIZE)), MAX_SIZE);
}

#[test]
fn what_is_not_beneath_fails() {
    let mut disk = open(base(1000), &["100-199:950", "1000-1099:0"], Some(2000));
    let mut fails = |operation, offset, length| {
        disk.route(&Request::new(operation, offset, length)).err().map(|error| error.code)
    };
    let eio = Some(ErrorCode::Eio);
    assert_eq!(fails(Operation::Read, 0, 100), None);
    assert_eq!(fails(Operation::Read, 100, 50), None);
    assert_eq!(fails(Operation::Read, 100, 51), eio);
    assert_eq!(fails(Operation::Write, 50, 200), eio);
    assert_eq!(fails(Operation::Read, 1000, 100), None);
    assert_eq!(fails(Operation::Read, 1100, 1), eio);
    assert_eq!(fails(Operation::Extents, 1050, 200), None, "up to there");
    assert_eq!(fails(Operation::Extents, 1100, 200), eio);
    assert_eq!(disk.stable(Operation::Read, 100), None);
    assert!(disk.stable(Operation::Read, 1000).is_some());
    assert_eq!(disk.stable(Operation::Read, 1100), None);
}

#[test]
fn changes_of_two_parts_at_one_place_are_made_in_order() {
    let base = base(100);
    let mut disk = open(base, &["50-59:10"], None);
    let own = Ok(Route::new().segment(Place::Own, 60));
    assert_eq!(disk.route(&Request::new(Operation::Write, 5, 60)), own);
    assert_ne!(disk.route(&Request::new(Operation::Read, 5, 60)), own);
    assert_ne!(disk.route(&Request::new(Operation::Write, 20, 60)), own);
    let mut data: Vec<u8> = (0..60).collect();
    testing::serve(&mut disk, &Request::new(Operation::Write, 5, 60), &mut data).unwrap();
    let mut bytes = [0; 10];
    base.read(10, &mut bytes).unwrap();
    assert_eq!(bytes, [45, 46, 47, 48, 49, 50, 51, 52, 53, 54]);
}

#[test]
fn blocks_divide_all_ranges() {
    let block = |map| {
        let base = testing::device_with(Geometry {
            size: 1 << 20,
            minimum_block: 4096,
            preferred_block: 65536,
            capabilities: Capabilities::WRITABLE,
        });
        open(base, &[map], None).disk().minimum_block
    };
    assert_eq!(block("0-4095:8192"), 4096);
    assert_eq!(block("0-511:8192"), 512);
    assert_eq!(block("0-4095:1024"), 1024);
    assert_eq!(block("0-2:8192"), 1);
}

/// Random requests against an array of what is beneath.
#[test]
fn disk_behaves_like_a_moved_array() {
    let (size, base) = (1500_u64, base(1500));
    let mut disk =
        open(base, &["100-299:800", "800-999:100", "900-1199:50", "1400-1449:1450"], None);
    let place = |at: u64| match at {
        100..300 => at + 700,
        800..1000 => at - 700,
        1000..1200 => at - 850,
        1400..1450 => at + 50,
        _ => at,
    } as usize;
    let mut model = vec![0; size as usize];
    for step in 0..3000_u64 {
        let random = |index: u64| random_at(3, step * 4 + index);
        let offset = random(0) % size;
        let length = 1 + random(1) % (size - offset).min(400);
        let operation = Operation::ALL[(random(2) % 4) as usize];
        let mut data: Vec<u8> = (0..length).map(|n| (random(3) + n) as u8).collect();
        let written = data.clone();
        testing::serve(&mut disk, &Request::new(operation, offset, length), &mut data).unwrap();
        for (at, index) in (offset..offset + length).zip(0..) {
            match operation {
                Operation::Read => assert_eq!(data[index], model[place(at)], "{at}"),
                Operation::Write => model[place(at)] = written[index],
                _ => model[place(at)] = 0,
            }
        }
    }
}
