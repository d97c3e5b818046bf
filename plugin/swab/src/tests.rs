use memnbd_guest::{Geometry, Value, testing};

use super::*;

fn open(base: Lower, bits: Option<&str>) -> Swab {
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request = match bits {
        Some(bits) => request.with("swab-bits", Value::Text(bits.into())),
        None => request,
    };
    Swab::open(&request).unwrap()
}

fn base(size: u64) -> Lower {
    testing::device(size, Capabilities::WRITABLE | Capabilities::TRIM | Capabilities::ZERO)
}

#[test]
fn bytes_of_words_are_reversed() {
    for (bits, expected) in [
        (None, [1, 0, 3, 2, 5, 4, 7, 6]),
        (Some("8"), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Some("16"), [1, 0, 3, 2, 5, 4, 7, 6]),
        (Some("32"), [3, 2, 1, 0, 7, 6, 5, 4]),
        (Some("64"), [7, 6, 5, 4, 3, 2, 1, 0]),
    ] {
        let base = base(100);
        let mut disk = open(base, bits);
        base.write(8, &[0, 1, 2, 3, 4, 5, 6, 7], false).unwrap();
        let mut bytes = [9; 8];
        testing::serve(&mut disk, &Request::new(Operation::Read, 8, 8), &mut bytes).unwrap();
        assert_eq!(bytes, expected, "{bits:?}");
        // Written back, they are as they were.
        testing::serve(&mut disk, &Request::new(Operation::Write, 16, 8), &mut bytes).unwrap();
        base.read(16, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7], "{bits:?}");
    }
}

#[test]
fn disk_ends_with_a_whole_word() {
    for (bits, size, block) in [("8", 103, 1), ("16", 102, 2), ("32", 100, 4), ("64", 96, 8)] {
        let disk = open(base(103), Some(bits)).disk();
        assert_eq!((disk.size, disk.minimum_block), (size, block));
    }
}

#[test]
fn whole_words_are_zeroed_beneath() {
    let base = base(100);
    let mut disk = open(base, Some("32"));
    for operation in [Operation::Zero, Operation::Trim] {
        let whole = Request::new(operation, 4, 8);
        assert_eq!(disk.route(&whole), Ok(base.pass(&whole)));
        for (offset, length) in [(3, 8), (4, 7)] {
            let route = disk.route(&Request::new(operation, offset, length)).unwrap();
            assert_eq!(route, Route::new().segment(Place::Own, length));
        }
        assert_eq!(disk.stable(operation, 0), None);
        assert_eq!(open(base, Some("8")).stable(operation, 5), base.pass_until(5, 100));
    }
    disk.write(0, &[7; 16], false).unwrap();
    disk.zero(4, 4, ZeroOptions::default()).unwrap();
    disk.trim(8, 4, false).unwrap();
    let mut bytes = [9; 16];
    disk.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7]);
}

#[test]
fn stable_routes_are_those_of_requests() {
    for bits in ["8", "16", "64"] {
        let mut disk = open(base(100), Some(bits));
        for operation in Operation::ALL {
            let route = disk.route(&Request::new(operation, 8, 16)).unwrap();
            if let Some(stable) = disk.stable(operation, 8) {
                assert_eq!(Route::new().segment(stable.place, 16), route, "{bits} {operation:?}");
                assert_eq!(stable.length, disk.size - 8);
            }
            assert_eq!(disk.stable(operation, disk.size), None);
        }
    }
}

#[test]
fn extents_consist_of_whole_words() {
    // Pages of 4096 bytes are allocated; the device ends within a word.
    let base = base((1 << 20) + 2);
    base.write(4096, &[1], false).unwrap();
    let mut disk = open(base, Some("64"));
    let lengths = |extents: Vec<Extent>| -> Vec<(u64, Status)> {
        extents.iter().map(|extent| (extent.length, extent.status)).collect()
    };
    let extents = lengths(disk.extents(0, 1 << 20).unwrap());
    let rest = (1 << 20) - 8192;
    let expected = [(4096, Status::HOLE), (4096, Status::DATA), (rest, Status::HOLE)];
    assert_eq!(extents, expected);
    assert!(!disk.has_whole_extents());
    let route = disk.route(&Request::new(Operation::Extents, 0, 4096)).unwrap();
    assert_eq!(route, Route::new().segment(Place::Own, 4096));
    let blocks = testing::device_with(Geometry { minimum_block: 8, ..base.geometry() });
    assert!(open(blocks, Some("64")).has_whole_extents());
    // A request that ends within an extent of the device beneath, and one that begins there.
    assert_eq!(lengths(disk.extents(4088, 16).unwrap()), [(8, Status::HOLE), (8, Status::DATA)]);
}

#[test]
fn holes_stay_holes() {
    let mut disk = open(base(1 << 22), None);
    disk.write(0, &[1, 2], false).unwrap();
    let chunks = disk.read_chunks(0, 2).unwrap();
    assert_eq!(chunks, [Chunk::Data(vec![1, 2])]);
    let long = disk.read_chunks(0, 3 << 20).unwrap();
    assert!(matches!(&long[..], [Chunk::Data(bytes)] if bytes.len() == 3 << 20));
}
