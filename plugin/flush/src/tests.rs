use memnbd_guest::{Geometry, Status, Value, content::random_at, testing};

use super::*;

const SIZE: u64 = (1 << 20) + 100;

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn base(minimum_block: u32) -> Lower {
    let capabilities = Capabilities::WRITABLE | Capabilities::ZERO | Capabilities::TRIM;
    testing::device_with(Geometry {
        size: SIZE - SIZE % u64::from(minimum_block),
        minimum_block,
        preferred_block: 65536,
        capabilities,
    })
}

fn open_above(base: Lower, mode: &str, arguments: &[(&str, Value)]) -> Flush {
    let request = OpenRequest { memory_limit: 1 << 30, ..OpenRequest::default() }
        .with("base", Value::Device(base))
        .with("flush-mode", text(mode));
    let request =
        arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()));
    Flush::open(&request).unwrap()
}

fn open(mode: &str, arguments: &[(&str, Value)]) -> Flush {
    open_above(base(1), mode, arguments)
}

fn serve(disk: &mut Flush, operation: Operation, offset: u64, bytes: &mut [u8]) {
    let request = Request::new(operation, offset, bytes.len() as u64);
    testing::serve(disk, &request, bytes).unwrap();
}

fn write(disk: &mut Flush, offset: u64, length: usize, byte: u8) {
    serve(disk, Operation::Write, offset, &mut vec![byte; length]);
}

fn read(disk: &mut Flush, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    serve(disk, Operation::Read, offset, &mut bytes);
    bytes
}

fn beneath(disk: &Flush, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    disk.base.read(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn failed_flush_loses_nothing() {
    let error = ("flush-error", text("ENOSPC"));
    let mut disk = open("fail", &[error, ("flush-nth", Value::Number(2))]);
    write(&mut disk, 10, 5000, 1);
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(disk.flush().unwrap_err().code, ErrorCode::Enospc);
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(beneath(&disk, 10, 5000), [1; 5000]);
    for operation in Operation::ALL {
        let passed = StableRoute::new(disk.base.at(7), SIZE - 7);
        assert_eq!(disk.stable(operation, 7), Some(passed));
    }
    let mut always = open("fail", &[]);
    assert!((0..5).all(|_| always.flush().is_err()));
}

#[test]
fn dropped_writes_are_those_since_the_last_good_flush() {
    let mut disk = open("drop", &[("flush-nth", Value::Number(2))]);
    write(&mut disk, 0, 10_000, 1);
    assert_eq!(disk.flush(), Ok(()));
    write(&mut disk, 5000, 10_000, 2);
    assert_eq!(read(&mut disk, 4999, 2), [1, 2]);
    let error = disk.flush().unwrap_err();
    assert_eq!(error.message.unwrap(), "injected by the filter flush; 12288 bytes were dropped");
    assert_eq!(read(&mut disk, 0, 20_000), [vec![1; 10_000], vec![0; 10_000]].concat());
    write(&mut disk, 0, 1, 3);
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(beneath(&disk, 0, 2), [3, 1]);
    let mut once = open("drop", &[]);
    assert!(once.flush().is_err() && once.flush().is_ok() && once.flush().is_ok());
}

#[test]
fn lies_are_found_out_in_a_crash() {
    let mut disk = open("lie", &[]);
    write(&mut disk, 0, 4096, 1);
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!((read(&mut disk, 0, 1), beneath(&disk, 0, 1)), (vec![1], vec![0]));
    assert_eq!(disk.execute("status", &[]).unwrap(), "4096 bytes are not flushed");
    assert_eq!(disk.execute("crash", &[]).unwrap(), "4096 bytes are lost");
    assert_eq!(read(&mut disk, 0, 4096), [0; 4096]);
    let mut liar_at_times = open("lie", &[("flush-nth", Value::Number(2))]);
    write(&mut liar_at_times, 0, 4096, 1);
    liar_at_times.flush().unwrap();
    write(&mut liar_at_times, 0, 4096, 2);
    liar_at_times.flush().unwrap();
    liar_at_times.execute("crash", &[]).unwrap();
    assert_eq!(read(&mut liar_at_times, 0, 4096), [1; 4096]);
}

#[test]
fn full_cache_is_written_back() {
    let mut disk = open("lie", &[("flush-cache", Value::Size(64 << 10))]);
    write(&mut disk, 0, 60 << 10, 1);
    assert_eq!(beneath(&disk, 0, 1), [0]);
    write(&mut disk, 60 << 10, 8 << 10, 2);
    assert_eq!((beneath(&disk, 0, 1), beneath(&disk, 60 << 10, 1)), (vec![1], vec![0]));
    write(&mut disk, 0, 100 << 10, 3);
    assert_eq!(disk.cache.bytes(), 0, "more than the cache takes");
    disk.crash();
    assert_eq!(read(&mut disk, 0, 100 << 10), vec![3; 100 << 10]);
    let mut none = open("lie", &[("flush-cache", Value::Size(0))]);
    write(&mut none, 5, 10, 4);
    assert_eq!(beneath(&none, 5, 10), [4; 10]);
}

#[test]
fn failure_beneath_loses_nothing() {
    let mut disk = open("lie", &[("flush-rate", Value::Probability(0.0))]);
    write(&mut disk, 0, 10_000, 1);
    testing::fail(disk.base, Some(ErrorCode::Eio));
    assert!(disk.flush().is_err());
    testing::fail(disk.base, None);
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(beneath(&disk, 0, 10_000), [1; 10_000]);
}

#[test]
fn cached_bytes_are_data() {
    for block in [1, 65536] {
        let mut disk = open_above(base(block), "lie", &[]);
        let page = 4096.max(block);
        write(&mut disk, u64::from(page), page as usize, 1);
        let extents = disk.extents(0, disk.size).unwrap();
        let rest = disk.size - 2 * u64::from(page);
        let expected =
            [(page.into(), Status::HOLE), (page.into(), Status::DATA), (rest, Status::HOLE)];
        let found: Vec<_> = extents.iter().map(|extent| (extent.length, extent.status)).collect();
        assert_eq!(found, expected);
        assert_eq!(disk.route(&Request::new(Operation::Extents, 0, 512)).unwrap(), {
            Route::lower(disk.base.at(0), 512)
        });
    }
}

#[test]
fn disk_is_the_same_in_all_modes_while_flushes_are_true() {
    for (mode, block) in [("fail", 1), ("drop", 1), ("lie", 1), ("lie", 16384)] {
        let rate = ("flush-rate", Value::Probability(0.0));
        let limit = ("flush-cache", Value::Size(200_000));
        let mut disk = open_above(base(block), mode, &[rate, limit]);
        let mut model = vec![0_u8; disk.size as usize];
        for step in 0..2000_u64 {
            let random = |index| random_at(step, index);
            let offset = random(0) % disk.size;
            let longest = [10, 5000, 100_000, 1_000_000][random(1) as usize % 4];
            let length = 1 + random(2) % longest.min(disk.size - offset);
            let range = offset as usize..(offset + length) as usize;
            match random(3) % 6 {
                0 | 1 => {
                    write(&mut disk, offset, length as usize, step as u8);
                    model[range].fill(step as u8);
                }
                2 => {
                    testing::serve(
                        &mut disk,
                        &Request::new(Operation::Zero, offset, length),
                        &mut [],
                    )
                    .unwrap();
                    model[range].fill(0);
                }
                3 => {
                    let trim = Request::new(Operation::Trim, offset, length);
                    testing::serve(&mut disk, &trim, &mut []).unwrap();
                    // Either value is right.
                    model[range.clone()].copy_from_slice(&read(&mut disk, offset, range.len()));
                }
                4 if step % 20 == 0 => disk.flush().unwrap(),
                _ => assert!(read(&mut disk, offset, range.len()) == model[range], "{mode} {step}"),
            }
        }
        disk.flush().unwrap();
        assert!(beneath(&disk, 0, model.len()) == model);
        assert_eq!(disk.cache.bytes(), 0);
    }
}

#[test]
fn parameters_change_and_the_cache_stays_or_is_written_back() {
    let mode = |mode| Argument { name: "flush-mode".into(), value: text(mode) };
    let mut disk = open("lie", &[]);
    write(&mut disk, 0, 10_000, 1);
    disk.execute("set", &[mode("drop")]).unwrap();
    assert_eq!((disk.cache.bytes(), beneath(&disk, 0, 1)), (12_288, vec![0]));
    let less = Argument { name: "flush-cache".into(), value: Value::Size(8192) };
    disk.execute("set", &[less]).unwrap();
    assert_eq!((disk.cache.bytes(), beneath(&disk, 0, 10_000)), (0, vec![1; 10_000]));
    write(&mut disk, 0, 100, 2);
    testing::fail(disk.base, Some(ErrorCode::Eio));
    assert!(disk.execute("set", &[mode("fail")]).is_err());
    testing::fail(disk.base, None);
    assert_eq!(disk.mode, Mode::Drop);
    disk.execute("set", &[mode("fail")]).unwrap();
    assert_eq!(beneath(&disk, 0, 101), [vec![2; 100], vec![1]].concat());
}

#[test]
fn flushes_and_writes_switch_states() {
    let mut disk = open(
        "fail",
        &[
            ("flush-state", Value::Number(2)),
            ("flush-set-state", text("pwrite:1:2:4k:512")),
            ("flush-set-state", text("flush:2:1")),
        ],
    );
    assert_eq!(disk.stable(Operation::Write, 0).unwrap().length, 4096);
    write(&mut disk, 0, 512, 1);
    assert_eq!(disk.flush(), Ok(()));
    write(&mut disk, 4096, 512, 1);
    assert!(disk.flush().is_err() && disk.flush().is_ok());
    assert_eq!(disk.execute("state", &[]).unwrap(), "state 1, 1 requests matched, 1 affected");
}

#[test]
fn host_asks_for_a_flush_after_fua() {
    let capabilities = open("fail", &[]).disk().capabilities;
    assert!(capabilities.contains(Capabilities::FLUSH));
    assert!(!capabilities.contains(Capabilities::FUA));
}
