//! Maps that somebody has tampered with.

use super::*;

/// Opens disks whose maps are mutations of a good one. They may be refused, and requests may fail, but
/// the component never panics, and routes only to places that exist.
#[test]
fn no_map_breaks_the_component() {
    const SIZE: u64 = 4096 * 5000;
    let mut random = fastrand::Rng::with_seed(1);
    let (base, lower, metadata) = (device(SIZE), device(SIZE), map_device());
    let request = above(base).and("overlay", lower).and("metadata", metadata).block(4096);
    let mut disk = Cow::open(&request).unwrap();
    for _ in 0..200 {
        let offset = random.u64(0..SIZE - 10);
        write(&mut disk, offset, b"data").unwrap();
    }
    disk.flush().unwrap();
    let good = content(metadata, 4096 + 5000);
    let mut opened = 0;
    let mut failed = 0;
    for _ in 0..400 {
        let bad = map_device();
        let mut image = good.clone();
        for _ in 0..random.usize(1..20) {
            // Mostly behind the header, whose checksum finds everything.
            let at = match random.u8(0..10) {
                0 => random.usize(0..40),
                _ => random.usize(4096..image.len()),
            };
            image[at] = random.u8(..);
        }
        if random.u8(0..10) == 0 {
            // A header with a right checksum and other numbers.
            let at = [12, 16, 24, 28][random.usize(0..4)];
            image[at] = random.u8(..);
            let sum = memnbd_guest::crc32(&image[..32]);
            image[32..36].copy_from_slice(&sum.to_le_bytes());
        }
        bad.write(0, &image, false).unwrap();
        let writable = above(base).and("overlay", lower).and("metadata", bad);
        let inherited = above(base).and("layer", lower).and("inherit", bad);
        for request in [writable, inherited.and("overlay", device(SIZE))] {
            let Ok(mut disk) = Cow::open(&request) else { continue };
            opened += 1;
            for _ in 0..20 {
                let offset = random.u64(0..SIZE);
                let length = 1 + random.u64(0..(SIZE - offset).min(100_000));
                let operation = Operation::ALL[random.usize(0..6)];
                let mut data = random_bytes(&mut random, length);
                let request = Request::new(operation, offset, length);
                match testing::serve(&mut disk, &request, &mut data) {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error.code, ErrorCode::Eio, "{request:?}");
                        assert!(error.message.unwrap().contains("is damaged"));
                        failed += 1;
                    }
                }
            }
            let _ = disk.flush();
            assert!(disk.pending.is_empty());
        }
    }
    assert!(opened > 200 && failed > 1000, "{opened} opened, {failed} requests failed");
}

#[test]
fn entries_of_layers_that_do_not_exist_are_told() {
    let (base, overlay, metadata) = (device(1 << 20), device(1 << 20), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    Cow::open(&request).unwrap();
    metadata.write(4096 + 3, &[2], false).unwrap();
    let mut disk = Cow::open(&request).unwrap();
    let error = disk.route(&Request::new(Operation::Read, 0, 10)).unwrap_err();
    let expected = "metadata is damaged: it has block 3 on overlay 2, and there are 1";
    assert_eq!(error.message.as_deref(), Some(expected));
}
