use memnbd_guest::{Capabilities, Operation, testing};

use super::*;

fn open(arguments: &[(&str, Value)]) -> Stats {
    let base = testing::device(1 << 30, Capabilities::WRITABLE | Capabilities::TRIM);
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request =
        arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()));
    Stats::open(&request).unwrap()
}

/// Adds requests that took a microsecond each.
fn add(disk: &mut Stats, kind: Kind, requests: impl IntoIterator<Item = (u64, u64)>) {
    for (offset, length) in requests {
        disk.tallies.add(kind, offset, length, Duration::from_micros(1));
    }
}

fn report(disk: &Stats) -> String {
    report::of(&disk.tallies, Duration::from_secs(2), disk.threshold)
}

#[test]
fn report_is_that_of_nbdkit_with_latencies() {
    let mut disk = open(&[]);
    add(&mut disk, Kind::Read, (0..96).map(|n| (n * 4096, 4096)));
    add(&mut disk, Kind::Read, [(1, 512), (3, 65536), (5, 65536), (7, 100)]);
    add(&mut disk, Kind::Trim, [(0, 1 << 30)]);
    disk.tallies.fail(Kind::Trim);
    disk.tallies.fail(Kind::Zero);
    add(&mut disk, Kind::Flush, [(0, 0)]);
    assert_eq!(
        report(&disk),
        "total: 102 ops, 2.000000 s, 1.00 GiB, 512.25 MiB/s
read: 100 ops, 0.000100 s, 512.60 KiB, 4.89 GiB/s op, 256.30 KiB/s total
  Latency: 50% 1.0 us, 90% 1.0 us, 99% 1.0 us, 99.9% 1.0 us, longest 1.0 us
  Request size and alignment breakdown:
    12 bits: 96.0% (96 reqs, 384.00 KiB total)
         12 bit aligned: 100.0% (96)
         13 bit aligned:  50.0% (48)
         14 bit aligned:  25.0% (24)
         15 bit aligned:  12.5% (12)
         16 bit aligned:   6.2% (6)
         17+ bit-aligned:  3.1% (3)
    other sizes:  4.0% (4 reqs, 128.60 KiB total)

trim: 1 ops, 0.000001 s, 1.00 GiB, 1000000.00 GiB/s op, 512.00 MiB/s total
  Failed: 1 ops
  Latency: 50% 1.0 us, 90% 1.0 us, 99% 1.0 us, 99.9% 1.0 us, longest 1.0 us
  Request size and alignment breakdown:
    30 bits: 100.0% (1 reqs, 1.00 GiB total)

zero: 0 ops, 0.000000 s, 0 bytes, (n/a)/s op, 0 bytes/s total
  Failed: 1 ops
flush: 1 ops, 0.000001 s, 0 bytes, 0 bytes/s op, 0 bytes/s total
  Latency: 50% 1.0 us, 90% 1.0 us, 99% 1.0 us, 99.9% 1.0 us, longest 1.0 us
"
    );
}

#[test]
fn sizes_are_listed_up_to_the_threshold() {
    let lines = |threshold| {
        let mut disk = open(&[("statsthreshold", Value::Number(threshold))]);
        add(&mut disk, Kind::Write, [(0, 1), (0, 2), (0, 2), (0, 4), (0, 4), (0, 4)]);
        report(&disk).matches(" bits: ").count()
    };
    assert_eq!([0, 1, 50, 51, 83, 84, 100].map(lines), [0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn requests_are_counted_when_they_have_ended() {
    let mut disk = open(&[]);
    let write = disk.route(&Request::new(Operation::Write, 4096, 512)).unwrap().done.unwrap();
    let read = Request::new(Operation::Read, 0, 512);
    testing::serve(&mut disk, &read, &mut [0; 512]).unwrap();
    let failed = Results { segments: vec![Some(ErrorCode::Eio)], ..Results::default() };
    assert_eq!(disk.tallies.get(Kind::Read).count, 1);
    assert_eq!(disk.tallies.get(Kind::Write).failed, 0);
    disk.done(write, &failed).unwrap();
    let flush = disk.flush_began();
    disk.flush_ended(flush, None);
    let tally = disk.tallies.get(Kind::Write);
    assert_eq!((tally.count, tally.failed, tally.bytes), (0, 1, 0));
    assert_eq!(disk.tallies.get(Kind::Flush).count, 1);
    assert!(disk.begun.is_empty());
}

#[test]
fn report_is_written_in_the_end_and_on_command() {
    let output = testing::output();
    let mut disk = open(&[("statsfile", Value::Output(output))]);
    disk.execute("write", &[]).unwrap();
    disk.closing();
    assert_eq!(testing::written(output).matches("total: 0 ops").count(), 2);
    let mut silent = open(&[]);
    silent.closing();
    assert!(silent.execute("write", &[]).is_err());
    add(&mut silent, Kind::Read, [(0, 512)]);
    assert!(silent.execute("show", &[]).unwrap().contains("read: 1 ops"));
    silent.execute("reset", &[]).unwrap();
    assert!(!silent.execute("show", &[]).unwrap().contains("read"));
}

#[test]
fn answer_is_cut_however_diverse_the_requests_are() {
    let mut disk = open(&[("statsthreshold", Value::Number(100))]);
    for (kind, _) in Kind::ALL {
        let each = (0..50).flat_map(|size| (0..62).map(move |offset| (1 << offset, 1 << size)));
        add(&mut disk, kind, each);
    }
    assert!(report(&disk).len() > 64 << 10 && report(&disk).is_ascii());
    let shown = disk.execute("show", &[]).unwrap();
    assert!(shown.len() <= 64 << 10 && shown.ends_with("...\n"));
}
