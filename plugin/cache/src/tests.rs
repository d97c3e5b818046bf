use memnbd_guest::{ErrorCode, Value, ZeroOptions, content, testing};

use super::*;

const BLOCK: u64 = 4096;
const SIZE: u64 = 100 * BLOCK + 100;

fn can() -> Capabilities {
    Capabilities::WRITABLE | Capabilities::ZERO | Capabilities::TRIM
}

fn try_open(slots: u64, arguments: &[(&str, Value)]) -> Result<Cache, Error> {
    let request = OpenRequest::default()
        .with("base", Value::Device(testing::device(SIZE, can())))
        .with("cache-device", Value::Device(testing::device(slots * BLOCK, can())))
        .with("cache-min-block-size", Value::Size(BLOCK));
    let request =
        arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()));
    Cache::open(&request)
}

fn open(slots: u64, mode: &str, on_read: bool) -> Cache {
    let mode = ("cache", Value::Text(mode.into()));
    try_open(slots, &[mode, ("cache-on-read", Value::Boolean(on_read))]).unwrap()
}

fn write(disk: &mut Cache, offset: u64, data: &[u8]) -> Result<(), Error> {
    let request = Request::new(Operation::Write, offset, data.len() as u64);
    testing::serve(disk, &request, &mut data.to_vec())
}

fn read(disk: &mut Cache, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![9; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut bytes).unwrap();
    bytes
}

fn beneath(disk: &Cache, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![9; length];
    disk.base.read(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn writes_reach_the_disk_beneath_at_a_flush() {
    let mut disk = open(20, "writeback", false);
    disk.base.write(0, &[7; 8192], false).unwrap();
    write(&mut disk, 4000, &[1; 200]).unwrap();
    assert_eq!(beneath(&disk, 4000, 200), [7; 200]);
    // Parts of blocks are complete.
    assert_eq!(read(&mut disk, 3999, 202), [&[7][..], &[1; 200], &[7]].concat());
    disk.flush().unwrap();
    assert_eq!(beneath(&disk, 3999, 202), [&[7][..], &[1; 200], &[7]].concat());
    assert!(disk.slots.dirty().next().is_none());
    assert!(disk.pending.is_empty());
}

#[test]
fn flushes_and_the_cache_are_for_what_the_mode_says() {
    let mut disk = open(20, "unsafe", false);
    write(&mut disk, 0, &[1; 10]).unwrap();
    disk.flush().unwrap();
    assert_eq!(beneath(&disk, 0, 10), [0; 10]);
    let mut disk = open(20, "writethrough", true);
    read(&mut disk, 0, 10);
    assert_eq!(disk.slots.len(), 1);
    write(&mut disk, 0, &[1; 10]).unwrap();
    assert_eq!((beneath(&disk, 0, 10), disk.slots.len()), (vec![1; 10], 0));
    assert_eq!(read(&mut disk, 0, 10), [1; 10]);
}

#[test]
fn reads_and_prefetches_fill_the_cache() {
    let mut disk = open(20, "writeback", false);
    read(&mut disk, 0, 10_000);
    assert_eq!(disk.slots.len(), 0);
    testing::serve(&mut disk, &Request::new(Operation::Cache, 5, 5000), &mut []).unwrap();
    assert_eq!(disk.slots.len(), 2);
    let mut disk = open(20, "writeback", true);
    disk.base.write(0, &[7; 8192], false).unwrap();
    assert_eq!(read(&mut disk, 0, 8192), [7; 8192]);
    // The disk beneath is not needed any more.
    testing::fail(disk.base, Some(ErrorCode::Eio));
    assert_eq!(read(&mut disk, 0, 8192), [7; 8192]);
}

#[test]
fn least_recently_used_blocks_leave_a_full_cache() {
    let mut disk = open(20, "writeback", false);
    for block in 0..19 {
        write(&mut disk, block * BLOCK, &[block as u8 + 1; 4096]).unwrap();
    }
    assert_eq!(disk.slots.len(), 19);
    read(&mut disk, 0, 1);
    write(&mut disk, 19 * BLOCK, &[20; 4096]).unwrap();
    // To 80% of 20, and one more.
    assert_eq!(disk.slots.len(), 17);
    let gone: Vec<u64> = (0..20).filter(|block| disk.slots.get(*block).is_none()).collect();
    assert_eq!(gone, [1, 2, 3]);
    assert_eq!(beneath(&disk, 3 * BLOCK, 5), [4; 5]);
    for block in 0..20 {
        assert_eq!(read(&mut disk, block * BLOCK, 4096), [block as u8 + 1; 4096]);
    }
}

#[test]
fn blocks_that_are_in_use_stay_and_others_go_beneath() {
    let mut disk = open(1, "writeback", false);
    let first = disk.route(&Request::new(Operation::Write, 0, BLOCK)).unwrap();
    let second = disk.route(&Request::new(Operation::Write, BLOCK, BLOCK)).unwrap();
    assert_eq!(first.segments[0].place, Place::Lower(disk.space.at(0)));
    assert_eq!(second, Route::lower(disk.base.at(BLOCK), BLOCK));
    let succeeded = Results { copies: vec![], segments: vec![None] };
    disk.done(first.done.unwrap(), &succeeded).unwrap();
    let third = disk.route(&Request::new(Operation::Write, BLOCK, BLOCK)).unwrap();
    assert_eq!(third.segments[0].place, Place::Lower(disk.space.at(0)));
}

#[test]
fn block_stays_dirty_while_a_write_to_it_is_under_way() {
    let mut disk = open(20, "writeback", false);
    write(&mut disk, 0, &[1; 4096]).unwrap();
    let under_way = disk.route(&Request::new(Operation::Write, 0, 10)).unwrap().done.unwrap();
    disk.flush().unwrap();
    assert_eq!(beneath(&disk, 0, 10), [1; 10]);
    disk.space.write(0, &[2; 10], false).unwrap();
    disk.done(under_way, &Results { copies: vec![], segments: vec![None] }).unwrap();
    disk.flush().unwrap();
    assert_eq!(beneath(&disk, 0, 10), [2; 10]);
}

#[test]
fn block_that_could_not_be_filled_is_not_in_the_cache() {
    let mut disk = open(20, "writeback", true);
    disk.base.write(0, &[7; 4096], false).unwrap();
    testing::fail(disk.space, Some(ErrorCode::Enospc));
    assert_eq!(write(&mut disk, 5, &[1]).unwrap_err().code, ErrorCode::Enospc);
    assert_eq!(write(&mut disk, 0, &[1; 4096]).unwrap_err().code, ErrorCode::Enospc);
    assert_eq!((disk.slots.len(), disk.pending.len()), (0, 0));
    testing::fail(disk.space, None);
    assert_eq!(read(&mut disk, 0, 4096), [7; 4096]);
}

#[test]
fn error_of_writing_back_is_told_and_loses_nothing() {
    let mut disk = open(2, "writeback", false);
    write(&mut disk, 0, &[1; 4096]).unwrap();
    write(&mut disk, BLOCK, &[2; 4096]).unwrap();
    testing::fail(disk.base, Some(ErrorCode::Eio));
    assert_eq!(disk.flush().unwrap_err().code, ErrorCode::Eio);
    // There is no room either.
    assert_eq!(write(&mut disk, 2 * BLOCK, &[3; 4096]).unwrap_err().code, ErrorCode::Eio);
    testing::fail(disk.base, None);
    disk.flush().unwrap();
    assert_eq!((beneath(&disk, 0, 1), beneath(&disk, BLOCK, 1)), (vec![1], vec![2]));
}

#[test]
fn zeroes_are_not_overtaken_by_what_is_written_back() {
    let mut disk = open(20, "writeback", true);
    disk.base.write(0, &[7; 16384], false).unwrap();
    read(&mut disk, 0, 16384);
    write(&mut disk, 5000, &[1; 10]).unwrap();
    let zero = Request::new(Operation::Zero, 100, 12000);
    let under_way = disk.route(&zero).unwrap();
    assert_eq!(under_way.segments.len(), 3);
    // Its place is the slot, which is written back before or after.
    assert_eq!(under_way.segments[1].place, Place::Lower(disk.space.at(BLOCK)));
    disk.done(under_way.done.unwrap(), &Results::default()).unwrap();
    testing::serve(&mut disk, &zero, &mut []).unwrap();
    assert_eq!(read(&mut disk, 99, 12002), [&[7][..], &[0; 12000], &[7]].concat());
    disk.flush().unwrap();
    assert_eq!(beneath(&disk, 99, 12002), [&[7][..], &[0; 12000], &[7]].concat());
}

#[test]
fn parameters_that_do_not_fit_are_refused() {
    for (name, value) in
        [("cache-max-size", Value::Size(4095)), ("cache-low-threshold", Value::Number(95))]
    {
        assert!(try_open(20, &[(name, value)]).unwrap_err().message.is_some(), "{name}");
    }
    assert!(try_open(0, &[]).is_err());
    assert_eq!(try_open(20, &[("cache-max-size", Value::Size(5 * BLOCK))]).unwrap().high, 5);
}

#[test]
fn disk_behaves_like_an_array() {
    let mut state = 3_u64;
    let mut random = |below: u64| {
        state = content::random_at(state, 1);
        state % below
    };
    for (slots, mode, on_read) in [
        (3, "writeback", true),
        (20, "writeback", false),
        (200, "writeback", true),
        (10, "writethrough", true),
        (10, "unsafe", false),
    ] {
        let mut disk = open(slots, mode, on_read);
        let mut model = vec![0_u8; SIZE as usize];
        for step in 0..700 {
            let offset = random(SIZE);
            let longest = [20, 5000, 40_000][random(3) as usize];
            let length = 1 + random(longest.min(SIZE - offset));
            let (start, end) = (offset as usize, (offset + length) as usize);
            let mut serve = |operation, bytes: &mut [u8]| {
                testing::serve(&mut disk, &Request::new(operation, offset, length), bytes).unwrap();
            };
            match random(8) {
                0 | 1 => {
                    let mut data: Vec<u8> = (0..length).map(|_| random(256) as u8).collect();
                    serve(Operation::Write, &mut data);
                    model[start..end].copy_from_slice(&data);
                }
                2 => {
                    serve(Operation::Zero, &mut []);
                    model[start..end].fill(0);
                }
                3 => serve(Operation::Cache, &mut []),
                4 => serve(Operation::Extents, &mut []),
                5 if mode != "unsafe" => {
                    disk.flush().unwrap();
                    assert!(beneath(&disk, 0, SIZE as usize) == model, "{slots} {mode} {step}");
                }
                _ => {
                    let mut data = vec![1; length as usize];
                    serve(Operation::Read, &mut data);
                    assert!(data == model[start..end], "{slots} {mode} {offset} {length}");
                }
            }
            assert!(disk.slots.len() <= disk.high && disk.pending.is_empty());
        }
    }
}

#[test]
fn component_moves_what_a_route_has_no_room_for() {
    let size = 64 << 20;
    let request = OpenRequest::default()
        .with("base", Value::Device(testing::device(size, can())))
        .with("cache-device", Value::Device(testing::device(100 * BLOCK, can())))
        .with("cache-min-block-size", Value::Size(BLOCK));
    let mut disk = Cache::open(&request).unwrap();
    write(&mut disk, 5 * BLOCK, &[1; 4096]).unwrap();
    let own = disk.route(&Request::new(Operation::Read, 0, size)).unwrap();
    assert_eq!(own, Route::new().segment(Place::Own, size));
    let data: Vec<u8> = (0..size / 512).flat_map(|at| [at as u8; 512]).collect();
    write(&mut disk, 0, &data).unwrap();
    assert!(read(&mut disk, 0, size as usize) == data);
    disk.flush().unwrap();
    assert!(beneath(&disk, 0, size as usize) == data);
    disk.base.zero(0, 1, ZeroOptions::default()).unwrap();
}
