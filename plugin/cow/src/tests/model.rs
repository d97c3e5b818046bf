//! Comparison with arrays of bytes.

use super::*;

const BLOCK: u64 = 4096;
const SIZE: u64 = BLOCK * 20 + 100;

/// Makes random requests, some of which fail, and compares all with `model`, as well as what stable routes
/// lead to. Returns how many failed.
fn change(
    disk: &mut Cow,
    overlay: Lower,
    model: &mut Vec<u8>,
    random: &mut fastrand::Rng,
    steps: usize,
    failing: &[Lower],
) -> usize {
    let mut failures = 0;
    // The routes of the blocks, for each operation.
    let mut stable = [[None; SIZE.div_ceil(BLOCK) as usize]; 6];
    testing::set_routes();
    for step in 0..steps {
        let offset = random.u64(0..SIZE);
        let length = 1 + random.u64(0..(SIZE - offset).min(3 * BLOCK));
        let range = offset as usize..(offset + length) as usize;
        let operation = Operation::ALL[random.usize(0..6)];
        let mut data = random_bytes(random, length);
        let new = match operation {
            Operation::Write => data.clone(),
            Operation::Zero | Operation::Trim => vec![0; length as usize],
            _ => model[range.clone()].to_vec(),
        };
        let fails = random.u8(0..8) == 0 && operation.changes();
        let device = failing[random.usize(0..failing.len())];
        testing::fail(device, fails.then_some(ErrorCode::Enospc));
        let request = Request::new(operation, offset, length);
        let result = testing::serve(disk, &request, &mut data);
        testing::fail(device, None);
        let now = whole(disk);
        assert_eq!(now[..range.start], model[..range.start], "{step}: {request:?}");
        assert_eq!(now[range.end..], model[range.end..], "{step}: {request:?}");
        if result.is_err() {
            assert!(fails, "{step}: {request:?}");
            failures += 1;
        }
        // A trim keeps bytes or zeroes them. The devices fail without an effect.
        let either = operation == Operation::Trim || result.is_err();
        for at in range.clone() {
            let kept = either && now[at] == model[at];
            assert!(now[at] == new[at - range.start] || kept, "{step}: {request:?} at {at}");
        }
        if operation == Operation::Read {
            assert_eq!(data, new, "{step}: {request:?}");
        }
        *model = now;
        for route in testing::set_routes() {
            assert!(route.offset % BLOCK == 0 && route.length > 0);
            let blocks = route.offset / BLOCK..(route.offset + route.length).div_ceil(BLOCK);
            for operation in Operation::ALL {
                if route.operations.contains(operation) {
                    assert_eq!(route.place.map(|place| place.offset), Some(route.offset));
                    let device = route.place.map(|place| place.device);
                    stable[operation as usize][blocks.start as usize..blocks.end as usize]
                        .fill(device);
                }
            }
        }
        for operation in Operation::ALL {
            for (block, device) in stable[operation as usize].into_iter().enumerate() {
                let Some(device) = device else { continue };
                if operation.changes() {
                    assert_eq!(device, overlay, "{step}: {operation:?} of block {block}");
                }
                let range = block * BLOCK as usize..model.len().min((block + 1) * BLOCK as usize);
                let mut there = vec![0; range.len()];
                device.read(range.start as u64, &mut there).unwrap();
                assert!(there == model[range], "{step}: {operation:?} of block {block}");
            }
        }
    }
    assert!(disk.pending.is_empty());
    failures
}

/// A disk, what it has to hold, and the devices of the next disk that begins with it.
struct Generation {
    content: Vec<u8>,
    overlays: Vec<Lower>,
    metadata: Lower,
}

impl Generation {
    /// The arguments of a disk that begins with this one.
    fn next(&self, base: Lower) -> OpenRequest {
        let request = above(base).and("inherit", self.metadata);
        self.overlays.iter().fold(request, |request, layer| request.and("layer", *layer))
    }
}

#[test]
fn generations_of_snapshots_and_clones_hold_what_they_held() {
    let mut failed = 0;
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let base = random_device(&mut random, SIZE);
        let original = content(base, SIZE);
        let mut generations: Vec<Generation> = Vec::new();
        let mut failures = 0;
        for number in 0..8 {
            let overlay = random_device(&mut random, SIZE + number);
            let metadata = map_device();
            let (request, mut model, layers) = match generations.is_empty() {
                true => (above(base).block(BLOCK), original.clone(), Vec::new()),
                // Any earlier one: some have several that begin with them.
                false => {
                    let parent = &generations[random.usize(0..generations.len())];
                    (parent.next(base), parent.content.clone(), parent.overlays.clone())
                }
            };
            let flag = |random: &mut fastrand::Rng| Value::Boolean(random.u8(0..4) == 0);
            let request = request
                .and("overlay", overlay)
                .and("metadata", metadata)
                .with("cow-on-read", flag(&mut random))
                .with("cow-on-cache", flag(&mut random));
            let mut disk = Cow::open(&request).unwrap();
            assert_eq!(whole(&mut disk), model);
            // Reads copy only if the overlay does not fail.
            failures += change(&mut disk, overlay, &mut model, &mut random, 60, &[base, overlay]);
            disk.flush().unwrap();
            drop(disk);
            // Opened again, it is the same disk.
            let mut disk = Cow::open(&request).unwrap();
            assert_eq!(whole(&mut disk), model);
            failures += change(&mut disk, overlay, &mut model, &mut random, 20, &[base, overlay]);
            disk.flush().unwrap();
            let mut overlays = layers;
            overlays.push(overlay);
            generations.push(Generation { content: model, overlays, metadata });
        }
        failed += failures;
        assert_eq!(content(base, SIZE), original);
        for generation in &generations {
            // A clone without metadata, and a snapshot that is only read.
            let request = generation.next(base);
            let read_only = OpenRequest { read_only: true, ..request.clone() };
            assert_eq!(whole(&mut Cow::open(&read_only).unwrap()), generation.content);
            let overlay = device(SIZE);
            let mut clone = Cow::open(&request.and("overlay", overlay)).unwrap();
            let mut model = generation.content.clone();
            assert_eq!(whole(&mut clone), model);
            change(&mut clone, overlay, &mut model, &mut random, 20, &[base]);
        }
    }
    assert!(failed > 50, "{failed} requests failed");
}

#[test]
fn longest_chain_of_overlays_is_read_like_one() {
    const SIZE: u64 = BLOCK * 255;
    let base = device(SIZE);
    let mut map = map_device();
    let mut layers: Vec<Lower> = Vec::new();
    for number in 0..255_u64 {
        let (overlay, metadata) = (device(SIZE), map_device());
        let mut request =
            above(base).and("overlay", overlay).and("metadata", metadata).block(BLOCK);
        for layer in &layers {
            request = request.and("layer", *layer);
        }
        if number > 0 {
            request = request.and("inherit", map);
        }
        let mut disk = Cow::open(&request).unwrap();
        write(&mut disk, number * BLOCK, &[number as u8; 4096]).unwrap();
        disk.flush().unwrap();
        layers.push(overlay);
        map = metadata;
    }
    let request = layers.iter().fold(above(base), |request, layer| request.and("layer", *layer));
    let request = OpenRequest { read_only: true, ..request.and("inherit", map) };
    let mut disk = Cow::open(&request).unwrap();
    for number in 0..255 {
        assert_eq!(read(&mut disk, number * BLOCK + 5, 10), [number as u8; 10]);
    }
    let too_many = request.and("overlay", device(SIZE));
    assert!(refusal(&too_many).contains("256 overlays and layers; at most 255"));
}
