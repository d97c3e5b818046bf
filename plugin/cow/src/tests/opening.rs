//! Devices and maps that do not fit each other.

use memnbd_guest::MAX_SIZE;

use super::*;

#[test]
fn unsuitable_devices_are_refused() {
    let base = device(8192);
    let small = device(8191);
    let fixed = testing::device(8192, Capabilities::NONE);
    let wanted = "has 8191 bytes; it must have at least the 8192 bytes of base";
    assert!(refusal(&above(base).and("overlay", small)).contains(wanted));
    let layered = above(base).and("layer", small).and("overlay", device(8192));
    assert!(refusal(&layered).contains(wanted));
    assert!(refusal(&above(base).and("overlay", fixed)).contains("overlay must be writable"));
    assert!(refusal(&above(base)).contains("overlay must be writable"));
    let request = above(base).and("overlay", device(8192));
    let fixed_map = testing::device(1 << 20, Capabilities::NONE);
    assert!(refusal(&request.clone().and("metadata", fixed_map)).contains("must be writable"));
    assert!(refusal(&request.clone().block(12288)).contains("power of two"));
    let metadata = device(4096);
    assert!(refusal(&request.and("metadata", metadata)).contains("the map needs 4097"));
    let read_only = |request: OpenRequest| OpenRequest { read_only: true, ..request };
    let pointless = read_only(above(base).and("metadata", map_device()));
    let lost = above(base).and("overlay", device(MAX_SIZE)).and("metadata", map_device());
    assert!(refusal(&lost).contains("\"overlay\" must name a device"));
    assert!(refusal(&pointless).contains("\"overlay\" must name a device"));
    let huge = above(device(1 << 62)).and("overlay", device(1 << 62));
    assert!(refusal(&huge).contains("larger cow-block-size"));
}

#[test]
fn disk_without_an_overlay_is_read_only() {
    let base = device(8192);
    base.write(0, &[1; 8192], false).unwrap();
    let request = OpenRequest { read_only: true, ..above(base) };
    let mut disk = Cow::open(&request).unwrap();
    assert!(!disk.disk().capabilities.contains(Capabilities::WRITABLE));
    assert_eq!(whole(&mut disk), [1; 8192]);
    assert_eq!(write(&mut disk, 0, b"x"), Err(Error::EPERM));
}

#[test]
fn maps_of_other_disks_are_refused() {
    let (base, overlay, metadata) = (device(1 << 20), device(2 << 20), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    let mut disk = Cow::open(&request.clone().block(4096)).unwrap();
    write(&mut disk, 5, b"x").unwrap();
    disk.flush().unwrap();
    assert_eq!(Cow::open(&request).unwrap().block, 4096, "the block size is that of the map");
    let message = refusal(&request.clone().block(8192));
    assert!(message.contains("in blocks of 4096 with 1 overlays"), "{message}");
    let message = refusal(&request.and("layer", overlay));
    assert!(message.contains("and 2 overlays are given"), "{message}");
    let larger = above(device(2 << 20)).and("overlay", overlay).and("metadata", metadata);
    assert!(refusal(&larger).contains("this one has 2097152 bytes"));
    let inheriting = above(base).and("overlay", device(1 << 20)).and("inherit", metadata);
    assert!(refusal(&inheriting).contains("and 0 overlays are given"));
    let empty = above(base).and("overlay", overlay).and("inherit", map_device());
    assert!(refusal(&empty).contains("inherit has no map"));
    let foreign = map_device();
    foreign.write(0, b"QFI\xfb", false).unwrap();
    let request = above(base).and("overlay", overlay).and("metadata", foreign);
    assert!(refusal(&request).contains("metadata holds something else"));
    assert_eq!(content(foreign, 5), b"QFI\xfb\0", "it is left alone");
}

#[test]
fn damaged_headers_are_refused() {
    let (base, overlay, metadata) = (device(1 << 20), device(1 << 20), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    Cow::open(&request).unwrap();
    let header = content(metadata, 512);
    for at in 0..512 {
        for bit in [1, 0x80] {
            metadata.write(at, &[header[at as usize] ^ bit], false).unwrap();
            let message = refusal(&request);
            assert!(message.starts_with("metadata "), "{at}: {message}");
            metadata.write(at, &[header[at as usize]], false).unwrap();
        }
    }
    for length in 1..36 {
        // Torn in the middle of the header.
        metadata.zero(length, 512 - length, Default::default()).unwrap();
        assert!(Cow::open(&request).is_err(), "{length}");
        metadata.write(0, &header, false).unwrap();
    }
    Cow::open(&request).unwrap();
}

#[test]
fn new_map_replaces_what_was_on_the_device_behind_the_header() {
    let (base, overlay, metadata) = (device(1 << 20), device(1 << 20), map_device());
    base.write(0, &[5; 1 << 20], false).unwrap();
    metadata.write(4096, &[1; 100], false).unwrap();
    let mut disk =
        Cow::open(&above(base).and("overlay", overlay).and("metadata", metadata)).unwrap();
    assert!(whole(&mut disk) == [5; 1 << 20]);
}

#[test]
fn empty_disk_has_an_empty_map() {
    let (base, overlay, metadata) = (device(0), device(0), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    for _ in 0..2 {
        let mut disk = Cow::open(&request).unwrap();
        assert_eq!(disk.disk().size, 0);
        disk.flush().unwrap();
    }
}

#[test]
fn disk_that_is_only_read_leaves_its_map_alone() {
    let (base, overlay, metadata) = (device(1 << 20), device(1 << 20), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    let read_only = OpenRequest { read_only: true, ..request.clone() };
    let mut disk = Cow::open(&read_only).unwrap();
    assert_eq!(read(&mut disk, 0, 10), [0; 10]);
    assert_eq!(content(metadata, 1 << 20), vec![0; 1 << 20]);
    assert!(!disk.disk().capabilities.contains(Capabilities::FLUSH));
    let mut disk = Cow::open(&request).unwrap();
    write(&mut disk, 0, b"x").unwrap();
    disk.flush().unwrap();
    assert_eq!(read(&mut Cow::open(&read_only).unwrap(), 0, 2), b"x\0");
}

#[test]
fn map_is_read_when_it_is_needed() {
    const BLOCK: u64 = 64 << 10;
    const SIZE: u64 = 1 << 40;
    let (base, overlay, metadata) = (device(SIZE), device(SIZE), device(1 << 30));
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    let mut disk = Cow::open(&request).unwrap();
    for at in [0, SIZE / 2, SIZE - BLOCK] {
        write(&mut disk, at, b"here").unwrap();
    }
    disk.flush().unwrap();
    let clone = above(base).and("layer", overlay).and("inherit", metadata);
    let mut disk = Cow::open(&clone.and("overlay", device(SIZE))).unwrap();
    assert_eq!(disk.map.memory(), 0);
    assert_eq!(read(&mut disk, SIZE / 2, 5), b"here\0");
    assert_eq!(disk.map.memory(), 4096);
    testing::fail(metadata, Some(ErrorCode::Eio));
    let failed = testing::serve(&mut disk, &Request::new(Operation::Read, 0, 5), &mut [0; 5]);
    assert_eq!(failed, Err(Error::EIO));
    assert_eq!(read(&mut disk, SIZE / 2 + BLOCK, 5), [0; 5], "it is in the same page");
    testing::fail(metadata, None);
    assert_eq!(read(&mut disk, 0, 5), b"here\0");
    assert_eq!(read(&mut disk, SIZE - BLOCK, 5), b"here\0");
}
