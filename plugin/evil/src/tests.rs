use memnbd_guest::{Capabilities, testing};

use super::*;

const SIZE: u64 = 1 << 20;

fn request(base: Lower, arguments: &[(&str, Value)]) -> OpenRequest {
    let request = OpenRequest::default()
        .with("base", Value::Device(base))
        .with("evil-seed", Value::Number(1));
    arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()))
}

fn open(mode: &str, probability: f64, more: &[(&str, Value)]) -> Evil {
    let base = testing::device(SIZE, Capabilities::WRITABLE | Capabilities::TRIM);
    let arguments = [("evil", text(mode)), ("evil-probability", Value::Probability(probability))];
    Evil::open(&request(base, &[&arguments, more].concat())).unwrap()
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn read(disk: &mut Evil, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut bytes).unwrap();
    bytes
}

fn write(disk: &mut Evil, offset: u64, data: &[u8]) {
    let request = Request::new(Operation::Write, offset, data.len() as u64);
    testing::serve(disk, &request, &mut data.to_vec()).unwrap();
}

/// Reads the whole disk in pieces of different lengths.
fn read_all(disk: &mut Evil) -> Vec<u8> {
    let mut bytes = Vec::new();
    for length in [1, 511, 7000, 100_000].into_iter().cycle() {
        let length = length.min(SIZE as usize - bytes.len());
        if length == 0 {
            return bytes;
        }
        bytes.extend(read(disk, bytes.len() as u64, length));
    }
    unreachable!("the cycle does not end")
}

fn ones(bytes: &[u8]) -> u32 {
    bytes.iter().map(|byte| byte.count_ones()).sum()
}

#[test]
fn as_many_bits_are_stuck_as_is_probable() {
    for probability in [1e-5, 1e-3, 0.2] {
        let mut disk = open("stuck-bits", probability, &[]);
        let zeroes = read_all(&mut disk);
        assert_eq!(zeroes, read(&mut disk, 0, SIZE as usize), "whatever the requests are");
        write(&mut disk, 0, &[0xff; SIZE as usize]);
        let stuck = ones(&zeroes) + (SIZE as u32 * 8 - ones(&read_all(&mut disk)));
        let expected = SIZE as f64 * 8.0 * probability;
        assert!((f64::from(stuck) / expected - 1.0).abs() < 0.25, "{stuck} of {expected}");
    }
    let mut all = open("stuck", 1.0, &[]);
    let bytes = read(&mut all, 0, 100_000);
    write(&mut all, 0, &[0xa5; 100_000]);
    assert_eq!(read(&mut all, 0, 100_000), bytes);
}

#[test]
fn blocks_without_affected_bits_pass() {
    let mut disk = open("stuck-bits", 1e-6, &[]);
    let bytes = read_all(&mut disk);
    let (mut at, mut own) = (0, 0);
    while at < SIZE {
        let stable = disk.stable(Operation::Read, at).unwrap();
        if stable.place == Place::Own {
            own += stable.length;
        } else {
            assert_eq!(stable.place, disk.base.at(at).into());
            assert_eq!(ones(&bytes[at as usize..(at + stable.length) as usize]), 0);
        }
        at += stable.length;
    }
    assert!((1..=20).contains(&(own / 4096)), "{own}");
    let route = disk.route(&Request::new(Operation::Read, 0, SIZE)).unwrap();
    assert!(route.segments.len() > 2);
    for operation in [Operation::Write, Operation::Zero, Operation::Cache, Operation::Extents] {
        assert_eq!(disk.stable(operation, 5).unwrap().length, SIZE - 5);
    }
}

#[test]
fn stuck_bits_stick_with_their_probability() {
    let half = [("evil-stuck-probability", Value::Probability(0.5))];
    let mut disk = open("stuck-bits", 1e-2, &half);
    let reads: Vec<u32> = (0..10).map(|_| ones(&read(&mut disk, 0, SIZE as usize))).collect();
    let expected = SIZE as f64 * 8.0 * 1e-2 / 4.0;
    assert!(reads.iter().all(|count| (f64::from(*count) / expected - 1.0).abs() < 0.1));
    assert!(reads.windows(2).any(|pair| pair[0] != pair[1]));
}

#[test]
fn cosmic_rays_flip_other_bits_each_time() {
    let mut disk = open("cosmic-rays", 1e-3, &[]);
    let (one, other) = (read_all(&mut disk), read_all(&mut disk));
    assert_ne!(one, other);
    let expected = SIZE as f64 * 8.0 * 1e-3;
    assert!((f64::from(ones(&one)) / expected - 1.0).abs() < 0.1);
    assert!(disk.stable(Operation::Read, 0).is_none());
    assert!(disk.replies.is_empty(), "what is complete is forgotten");
    let mut again = open("cosmic-rays", 1e-3, &[]);
    assert_eq!(read_all(&mut again), one);
    let mut rare = open("cosmic-rays", 1e-12, &[]);
    let route = rare.route(&Request::new(Operation::Read, 0, SIZE)).unwrap();
    assert_eq!(route, Route::lower(rare.base.at(0), SIZE));
}

#[test]
fn wires_are_stuck_wherever_a_reply_comes_from() {
    let mut disk = open("stuck-wires", 1e-3, &[]);
    let first = read(&mut disk, 0, 10_000);
    assert!(ones(&first) > 10);
    for offset in [1, 4095, 70_000, SIZE - 10_000] {
        assert_eq!(read(&mut disk, offset, 10_000), first);
    }
    assert_eq!(read(&mut disk, 12_345, 5000), first[..5000]);
}

#[test]
fn rotten_bits_are_flipped_until_they_are_rewritten() {
    let mut disk = open("bit-rot", 1e-3, &[]);
    let rotten = read_all(&mut disk);
    assert!(ones(&rotten) > 5000);
    write(&mut disk, 1000, &[0xff; 50_000]);
    let zero = Request::new(Operation::Zero, 200_000, 50_000);
    testing::serve(&mut disk, &zero, &mut []).unwrap();
    let trim = Request::new(Operation::Trim, 300_000, 50_000);
    testing::serve(&mut disk, &trim, &mut []).unwrap();
    let mut expected = rotten;
    expected[1000..51_000].fill(0xff);
    expected[200_000..250_000].fill(0);
    expected[300_000..350_000].fill(0);
    assert_eq!(read_all(&mut disk), expected);
    assert!(disk.rewriting.is_empty());
    assert_eq!(disk.stable(Operation::Write, 1000).unwrap().length % 4096, {
        let next = expected[51_000..].iter().position(|byte| *byte != 0).unwrap() as u64;
        (next + 50_000) % 4096
    });
}

#[test]
fn writes_that_fail_mend_nothing() {
    let mut disk = open("bit-rot", 1e-3, &[]);
    let rotten = read_all(&mut disk);
    testing::fail(disk.base, Some(memnbd_guest::ErrorCode::Eio));
    let request = Request::new(Operation::Write, 0, SIZE);
    assert!(testing::serve(&mut disk, &request, &mut [0; SIZE as usize]).is_err());
    testing::fail(disk.base, None);
    assert_eq!(read_all(&mut disk), rotten);
}

#[test]
fn rewritten_bits_are_not_too_many() {
    let mut disk = open("bit-rot", 1.0, &[]);
    let error = disk.route(&Request::new(Operation::Zero, 0, SIZE)).unwrap_err();
    assert!(error.message.unwrap().contains("too many rotten bits"));
    let limit = 1 << 17;
    write(&mut disk, 0, &[0; 1 << 17]);
    assert_eq!(ones(&read(&mut disk, 0, limit)), 0);
    assert!(disk.route(&Request::new(Operation::Write, limit as u64, 1)).is_err());
    assert!(disk.route(&Request::new(Operation::Write, 0, limit as u64)).is_ok());
}

#[test]
fn only_ranges_are_affected() {
    let range = [("evil-range", text("100k:4k")), ("evil-range", text("1000:1"))];
    for mode in ["cosmic-rays", "stuck-bits", "stuck-wires", "bit-rot"] {
        let mut disk = open(mode, 1.0, &range);
        let bytes = read_all(&mut disk);
        let affected: Vec<usize> =
            bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        let inside = |at: &usize| *at == 1000 || (102_400..106_496).contains(at);
        assert!(affected.iter().all(inside), "{mode}");
        assert!(affected.len() > 3500, "{mode}: {}", affected.len());
    }
}

#[test]
fn mode_that_is_set_last_holds() {
    let mut disk = open("cosmic", 1e-3, &[("evil-mode", text("stuck-wire"))]);
    assert_eq!(disk.mode, Mode::StuckWires);
    let mode = |name: &str, mode| Argument { name: name.into(), value: text(mode) };
    disk.execute("set", &[mode("evil", "bit-rot")]).unwrap();
    assert_eq!(disk.mode, Mode::BitRot);
    disk.execute("set", &[mode("evil-mode", "cosmic-rays")]).unwrap();
    assert_eq!(disk.mode, Mode::CosmicRays);
    let none = Argument { name: "evil-probability".into(), value: Value::Probability(0.0) };
    disk.execute("set", &[none]).unwrap();
    assert_eq!(disk.mode, Mode::CosmicRays);
    assert_eq!(disk.stable(Operation::Read, 0).unwrap().length, SIZE);
}

#[test]
fn largest_disk_is_read_at_its_end() {
    let base = testing::device(memnbd_guest::MAX_SIZE, Capabilities::NONE);
    let mut disk = Evil::open(&request(base, &[])).unwrap();
    let mut bytes = [0; 100];
    let offset = memnbd_guest::MAX_SIZE - 100;
    testing::serve(&mut disk, &Request::new(Operation::Read, offset, 100), &mut bytes).unwrap();
    assert!(disk.stable(Operation::Read, 0).unwrap().length < 1 << 40);
}
