use memnbd_faults::Ranges;
use memnbd_guest::{Capabilities, ErrorCode, testing};

use super::*;

const SIZE: u64 = (1 << 20) + 100;

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn try_open(arguments: &[(&str, Value)]) -> Result<BadBlocks, Error> {
    let base = testing::device(SIZE, Capabilities::WRITABLE | Capabilities::ZERO);
    let request = OpenRequest::default()
        .with("base", Value::Device(base))
        .with("badblocks-seed", Value::Number(1));
    let request =
        arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()));
    BadBlocks::open(&request)
}

fn open(arguments: &[(&str, Value)]) -> BadBlocks {
    try_open(arguments).unwrap()
}

fn serve(disk: &mut BadBlocks, operation: Operation, offset: u64, length: u64) -> bool {
    let mut bytes = vec![1; length as usize];
    let request = Request::new(operation, offset, length);
    match testing::serve(disk, &request, &mut bytes) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.code, ErrorCode::Eio);
            false
        }
    }
}

fn reads(disk: &mut BadBlocks, offset: u64, length: u64) -> bool {
    serve(disk, Operation::Read, offset, length)
}

fn writes(disk: &mut BadBlocks, offset: u64, length: u64) -> bool {
    serve(disk, Operation::Write, offset, length)
}

#[test]
fn reads_of_bad_sectors_fail_and_others_pass() {
    let mut disk = open(&[("badblocks-range", text("1000:100"))]);
    assert!(reads(&mut disk, 0, 512) && !reads(&mut disk, 0, 513));
    assert!(!reads(&mut disk, 1535, 1) && reads(&mut disk, 1536, SIZE - 1536));
    assert!(!serve(&mut disk, Operation::Cache, 512, 1));
    assert!(serve(&mut disk, Operation::Trim, 0, SIZE));
    assert_eq!(disk.stable(Operation::Read, 0).unwrap().length, 512);
    assert!(disk.stable(Operation::Read, 600).is_none());
    assert_eq!(disk.stable(Operation::Write, 1536).unwrap().length, SIZE - 1536);
    assert_eq!(disk.stable(Operation::Extents, 0).unwrap().length, SIZE);
    let error = disk.route(&Request::new(Operation::Read, 600, 10)).unwrap_err();
    assert_eq!(error.message.unwrap(), "the sector at 600 is bad");
}

#[test]
fn writes_that_cover_sectors_mend_them() {
    let range = [("badblocks-range", text("1024:2048"))];
    let mut disk = open(&range);
    assert!(writes(&mut disk, 1024, 512));
    assert!(reads(&mut disk, 0, 1536) && !reads(&mut disk, 1536, 1));
    assert!(!writes(&mut disk, 1600, 10), "a part of a sector");
    assert!(!writes(&mut disk, 1600, 1000) && !writes(&mut disk, 1536, 600));
    assert!(serve(&mut disk, Operation::Zero, 1536, 512));
    assert!(reads(&mut disk, 0, 2048) && !reads(&mut disk, 2048, 512));
    assert!(writes(&mut disk, 100, 10_000));
    assert!(reads(&mut disk, 0, SIZE));
    assert!(disk.rewriting.is_empty());
    testing::fail(disk.base, Some(ErrorCode::Eio));
    let mut disk = open(&range);
    testing::fail(disk.base, Some(ErrorCode::Eio));
    assert!(!writes(&mut disk, 1024, 2048));
    testing::fail(disk.base, None);
    assert!(!reads(&mut disk, 1024, 1), "a write that failed mends nothing");
}

#[test]
fn last_sector_may_be_short() {
    let mut disk = open(&[("badblocks-range", text("1M:1"))]);
    assert!(!reads(&mut disk, SIZE - 1, 1));
    assert!(!writes(&mut disk, 1 << 20, 99));
    assert!(writes(&mut disk, 1 << 20, 100) && reads(&mut disk, 0, SIZE));
}

#[test]
fn sectors_that_are_not_mended_stay_bad() {
    let mend = ("badblocks-mend", Value::Boolean(false));
    let mut disk = open(&[("badblocks-range", text("4k:512")), mend]);
    assert!(!writes(&mut disk, 0, SIZE) && !writes(&mut disk, 4096, 512));
    assert!(writes(&mut disk, 0, 4096));
    assert!(!reads(&mut disk, 4096, 512));
}

#[test]
fn sectors_are_chosen_by_chance_and_the_seed() {
    let bad = |count: i64, seed| {
        let count = ("badblocks-count", Value::Number(count));
        let mut arguments = vec![count, ("badblocks-sector", Value::Size(4096))];
        arguments.push(("badblocks-range", text("0:1")));
        let request = arguments.into_iter().fold(
            OpenRequest::default()
                .with("base", Value::Device(testing::device(SIZE, Capabilities::WRITABLE)))
                .with("badblocks-seed", Value::Number(seed)),
            |request, (name, value)| request.with(name, value),
        );
        BadBlocks::open(&request).unwrap().sectors.bad
    };
    let sectors = |ranges: &Ranges| {
        let lengths =
            ranges.as_slice().iter().map(|range| (range.end - range.start).div_ceil(4096));
        lengths.sum::<u64>()
    };
    assert!((10..=11).contains(&sectors(&bad(10, 1))));
    assert!((200..=201).contains(&sectors(&bad(200, 1))));
    assert_eq!(sectors(&bad(257, 1)), 257);
    assert_eq!(bad(10, 1), bad(10, 1));
    assert_ne!(bad(10, 1), bad(10, 2));
}

#[test]
fn rate_is_that_of_sectors() {
    let rate = |rate| [("badblocks-rate", Value::Probability(rate))];
    let bad = open(&rate(0.1)).sectors.bad;
    let length: u64 = bad.as_slice().iter().map(|range| range.end - range.start).sum();
    assert!((150..260).contains(&(length / 512)), "{length}");
    assert!(open(&rate(0.0)).sectors.bad.is_empty());
    let mut all = open(&rate(1.0));
    assert!(!reads(&mut all, 12_345, 1) && writes(&mut all, 0, SIZE));
    let huge = testing::device(memnbd_guest::MAX_SIZE, Capabilities::NONE);
    let request = OpenRequest::default().with("base", Value::Device(huge));
    let error = BadBlocks::open(&request.clone().with("badblocks-rate", Value::Probability(0.01)));
    assert!(error.unwrap_err().message.unwrap().contains("a lower rate"));
    assert!(BadBlocks::open(&request.with("badblocks-rate", Value::Probability(1.0))).is_ok());
}

#[test]
fn map_files_of_ddrescue_are_read() {
    let map = b"0 +\n0 0x1000 +\n0x1000 10 -\n0x1200 0x100000 +\n";
    let file = testing::device(map.len() as u64, Capabilities::WRITABLE);
    file.write(0, map, false).unwrap();
    let mut disk = open(&[("badblocks-mapfile", Value::Device(file))]);
    assert!(reads(&mut disk, 0, 4096) && !reads(&mut disk, 4607, 1));
    assert!(writes(&mut disk, 4096, 512) && reads(&mut disk, 0, SIZE));
}

#[test]
fn commands_add_and_remove_and_list() {
    let mut disk = open(&[("badblocks-range", text("0:1"))]);
    let range = |range: &str| Argument { name: "range".into(), value: text(range) };
    let withdrawals = testing::withdrawals();
    disk.execute("add", &[range("4096:513"), range("1M:100")]).unwrap();
    assert_eq!(testing::withdrawals(), withdrawals + 1);
    assert_eq!(disk.execute("list", &[]).unwrap(), "0:512\n4096:1024\n1048576:100\n");
    disk.execute("remove", &[range("4608:1"), range("0:1")]).unwrap();
    assert_eq!(disk.execute("list", &[]).unwrap(), "4096:512\n1048576:100\n");
    assert!(disk.execute("add", &[range("0:512"), range("x")]).is_err());
    assert_eq!(disk.execute("list", &[]).unwrap(), "4096:512\n1048576:100\n");
    disk.execute("set", &[]).unwrap();
    assert_eq!(disk.execute("list", &[]).unwrap(), "0:512\n");
    let many = Argument { name: "badblocks-count".into(), value: Value::Number(1024) };
    disk.execute("set", &[many]).unwrap();
    let list = disk.execute("list", &[]).unwrap();
    assert!(list.lines().count() <= MAX_LISTED + 1 && list.len() < 64 << 10);
}

#[test]
fn mistakes_are_told() {
    for (name, value, message) in [
        ("badblocks-sector", Value::Size(1000), "must be a power of two"),
        ("badblocks-count", Value::Number(65536), "more than the 2049 sectors"),
        ("badblocks-range", text("2M:1"), "ends beyond the device"),
    ] {
        let error = try_open(&[(name, value)]).unwrap_err();
        assert!(error.message.as_deref().unwrap().contains(message), "{error:?}");
    }
}
