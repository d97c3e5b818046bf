//! What a crash leaves.
//!
//! The changes of all devices are recorded. A crash cuts the record off anywhere; what a device has got
//! since its last flush is there in part, by sectors. Then the disk is opened again.

use memnbd_guest::testing::Change;
use std::collections::BTreeSet;

use super::*;

const BLOCK: u64 = 4096;
const SIZE: u64 = BLOCK * 10 + 600;
const SECTOR: u64 = 512;
/// 4096 bytes and one for each block.
const MAP: u64 = 4096 + 11;

/// A request, by the number of changes recorded when it began.
struct Wrote {
    begin: usize,
    offset: u64,
    data: Vec<u8>,
}

/// A flush that has succeeded, by the number of changes recorded then, and of requests.
struct Flushed {
    end: usize,
    requests: usize,
    content: Vec<u8>,
}

/// Returns a copy of a device as a crash after `changes` leaves it.
fn crashed(
    original: &[u8],
    device: Lower,
    changes: &[Change],
    random: &mut fastrand::Rng,
) -> Lower {
    let of_device = |change: &&Change| match change {
        Change::Write(of, ..) | Change::Zero(of, ..) | Change::Flush(of) => *of == device,
    };
    let changes: Vec<&Change> = changes.iter().filter(of_device).collect();
    let flushed = changes.iter().rposition(|change| matches!(change, Change::Flush(_)));
    let mut image = original.to_vec();
    let survival = [0, 1, 5, 9, 10][random.usize(0..5)];
    for (index, change) in changes.into_iter().enumerate() {
        let safe = flushed.is_some_and(|flushed| index < flushed);
        let zeroes;
        let (offset, data) = match change {
            Change::Write(_, offset, data) => (*offset, data),
            Change::Zero(_, offset, length) => {
                zeroes = vec![0; *length as usize];
                (*offset, &zeroes)
            }
            Change::Flush(_) => continue,
        };
        let mut at = 0;
        while at < data.len() {
            let sector_end = ((offset + at as u64) / SECTOR + 1) * SECTOR;
            let end = data.len().min((sector_end - offset) as usize);
            if safe || random.u8(0..10) < survival {
                let to = offset as usize + at;
                image[to..to + end - at].copy_from_slice(&data[at..end]);
            }
            at = end;
        }
    }
    let copy = testing::device(image.len() as u64, EVERYTHING);
    copy.write(0, &image, false).unwrap();
    copy
}

/// Checks that each byte is that of the last flush, or of a request after it.
fn check(now: &[u8], cut: usize, flushes: &[Flushed], requests: &[Wrote], told: &str) {
    let last = flushes.iter().rfind(|flushed| flushed.end <= cut).expect("the first one");
    let later = &requests[last.requests..];
    for (at, byte) in now.iter().enumerate() {
        if *byte == last.content[at] {
            continue;
        }
        let mut possible = BTreeSet::new();
        for wrote in later.iter().filter(|wrote| wrote.begin < cut) {
            if let Some(byte) =
                at.checked_sub(wrote.offset as usize).and_then(|at| wrote.data.get(at))
            {
                possible.insert(*byte);
            }
        }
        assert!(possible.contains(byte), "{told}: {byte} at {at}, not of {possible:?}");
    }
}

#[test]
fn flushed_data_survive_crashes_and_others_are_old_or_new() {
    let (mut crashes, mut flushed) = (0, 0);
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let base = random_device(&mut random, SIZE);
        let garbage = random_bytes(&mut random, SIZE);
        let first = device(SIZE);
        first.write(0, &garbage, false).unwrap();
        let first_map = device(MAP);
        // An earlier disk, so that there are three layers.
        let request = above(base).and("overlay", first).and("metadata", first_map).block(BLOCK);
        let mut disk = Cow::open(&request).unwrap();
        for _ in 0..4 {
            let offset = random.u64(0..SIZE - 3000);
            let data = random_bytes(&mut random, 3000);
            write(&mut disk, offset, &data).unwrap();
        }
        disk.flush().unwrap();
        let original = whole(&mut disk);
        drop(disk);

        let (overlay, map) = (device(SIZE), device(MAP));
        overlay.write(0, &garbage, false).unwrap();
        let with = |overlay, map| {
            let request = above(base).and("layer", first).and("inherit", first_map);
            request.and("overlay", overlay).and("metadata", map)
        };
        testing::start_journal();
        let mut disk = Cow::open(&with(overlay, map)).unwrap();
        // The disk that has not been opened yet holds the same as when it is.
        let mut flushes = vec![Flushed { end: 0, requests: 0, content: original }];
        let mut requests: Vec<Wrote> = Vec::new();
        for _ in 0..40 {
            let offset = random.u64(0..SIZE);
            let length = 1 + random.u64(0..(SIZE - offset).min(2 * BLOCK));
            let mut data = random_bytes(&mut random, length);
            let operation = match random.u8(0..6) {
                0 => Operation::Zero,
                1 => Operation::Trim,
                2 => {
                    disk.flush().unwrap();
                    let content = whole(&mut disk);
                    let end = testing::journal_length();
                    flushes.push(Flushed { end, requests: requests.len(), content });
                    continue;
                }
                _ => Operation::Write,
            };
            if operation != Operation::Write {
                data.fill(0);
            }
            requests.push(Wrote { begin: testing::journal_length(), offset, data: data.clone() });
            testing::serve(&mut disk, &Request::new(operation, offset, length), &mut data).unwrap();
        }
        let journal = testing::take_journal();
        for cut in 0..=journal.len() {
            for _ in 0..3 {
                let changes = &journal[..cut];
                let copy = crashed(&garbage, overlay, changes, &mut random);
                let map = crashed(&[0; MAP as usize], map, changes, &mut random);
                let told = std::format!("seed {seed}, after {cut} changes");
                let mut disk = Cow::open(&with(copy, map)).expect(&told);
                check(&whole(&mut disk), cut, &flushes, &requests, &told);
                // What is written after the crash is there.
                let offset = random.u64(0..SIZE - 5000);
                write(&mut disk, offset, &[9; 5000]).unwrap();
                disk.flush().unwrap();
                let now = whole(&mut disk);
                assert_eq!(now[offset as usize..][..5000], [9; 5000]);
                assert!(whole(&mut Cow::open(&with(copy, map)).unwrap()) == now);
                crashes += 1;
            }
        }
        flushed += flushes.len() - 1;
    }
    assert!(crashes > 2000 && flushed > 50, "{crashes} crashes, {flushed} flushes");
}

#[test]
fn map_tells_of_data_only_after_they_are_on_stable_storage() {
    let (base, overlay, metadata) = (device(1 << 20), device(1 << 20), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    let mut disk = Cow::open(&request).unwrap();
    testing::start_journal();
    write(&mut disk, 0, b"x").unwrap();
    disk.flush().unwrap();
    disk.flush().unwrap();
    let order: Vec<_> = testing::take_journal()
        .into_iter()
        .map(|change| match change {
            Change::Write(device, ..) => (device, false),
            Change::Zero(device, ..) => (device, false),
            Change::Flush(device) => (device, true),
        })
        .collect();
    let data = [(overlay, false), (overlay, false), (overlay, true)];
    let map = [(metadata, false), (metadata, true)];
    // The second flush has nothing to tell the map.
    assert_eq!(order, [&data[..], &map, &[(overlay, true)]].concat());
}

#[test]
fn map_stays_as_it_was_once_the_overlay_has_failed_to_flush() {
    let (base, overlay, metadata) = (device(1 << 20), device(1 << 20), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    let mut disk = Cow::open(&request).unwrap();
    write(&mut disk, 0, b"x").unwrap();
    let before = content(metadata, 1 << 20);
    testing::fail(overlay, Some(ErrorCode::Eio));
    assert_eq!(disk.flush(), Err(Error::EIO));
    testing::fail(overlay, None);
    let error = disk.flush().unwrap_err();
    assert!(error.message.unwrap().contains("failed to flush before"));
    assert!(content(metadata, 1 << 20) == before);
    assert_eq!(read(&mut disk, 0, 1), b"x", "it can still be read");
}

#[test]
fn map_that_was_not_written_is_written_by_the_next_flush() {
    let (base, overlay, metadata) = (device(1 << 20), device(1 << 20), map_device());
    let request = above(base).and("overlay", overlay).and("metadata", metadata);
    let mut disk = Cow::open(&request).unwrap();
    write(&mut disk, 0, b"x").unwrap();
    testing::fail(metadata, Some(ErrorCode::Enospc));
    assert_eq!(disk.flush(), Err(Error::ENOSPC));
    testing::fail(metadata, None);
    disk.flush().unwrap();
    assert_eq!(read(&mut Cow::open(&request).unwrap(), 0, 1), b"x");
}
