use memnbd_guest::{Capabilities, Operation, testing};

use super::*;

const SIZE: u64 = 1 << 20;

fn open(format: &str, limit: usize) -> (Log, Output) {
    let base = testing::device(SIZE, Capabilities::WRITABLE | Capabilities::ZERO);
    let output = testing::output_of(limit);
    let request = OpenRequest { export_name: "a b".into(), ..OpenRequest::default() }
        .with("base", Value::Device(base))
        .with("logfile", Value::Output(output))
        .with("log-format", Value::Text(format.into()));
    (Log::open(&request).unwrap(), output)
}

/// The lines that were written since the last time, without their times.
fn lines(output: Output) -> Vec<String> {
    let text = testing::written(output);
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let without_time = |line: &str| match line.strip_prefix("{\"time\":\"") {
        Some(rest) => rest.split_once("\",").unwrap().1.to_owned(),
        None => line.splitn(3, ' ').nth(2).unwrap().to_owned(),
    };
    text.lines().map(without_time).collect()
}

#[test]
fn requests_have_two_lines_as_in_nbdkit() {
    let (mut disk, output) = open("nbdkit", usize::MAX);
    // The server may only look whether the disk can be opened.
    assert!(lines(output).is_empty());
    let read = Request::new(Operation::Read, 512, 1024);
    testing::serve(&mut disk, &read, &mut [0; 1024]).unwrap();
    assert_eq!(
        lines(output),
        [
            "Open export=\"a b\" size=0x100000 minsize=0x1 prefsize=0x1000 write=1 flush=1 \
             rotational=0 trim=0 zero=1 fua=1 extents=1 cache=0 fast_zero=0",
            "Read id=1 offset=0x200 count=0x400 ...",
            "...Read id=1 return=0",
        ]
    );
    let zero = Request { fua: true, fast: true, ..Request::new(Operation::Zero, 0, 512) };
    let first = disk.route(&zero).unwrap().done.unwrap();
    let trim = disk.route(&Request::new(Operation::Trim, 0, 512)).unwrap().done.unwrap();
    let failed = Results { segments: vec![Some(ErrorCode::Enospc)], ..Results::default() };
    disk.done(trim, &Results { segments: vec![None], ..Results::default() }).unwrap();
    disk.done(first, &failed).unwrap();
    let flush = disk.flush_began();
    disk.flush_ended(flush, Some(ErrorCode::Eio));
    disk.closing();
    assert_eq!(
        lines(output),
        [
            "Zero id=2 offset=0x0 count=0x200 trim=1 fua=1 fast=1 ...",
            "Trim id=3 offset=0x0 count=0x200 fua=0 ...",
            "...Trim id=3 return=0",
            "...Zero id=2 return=-1 error=ENOSPC",
            "Flush id=4 ...",
            "...Flush id=4 return=-1 error=EIO",
            "Close transactions=4",
        ]
    );
    assert!(disk.begun.is_empty());
}

#[test]
fn requests_are_one_line_of_json() {
    let (mut disk, output) = open("json", usize::MAX);
    let write = Request { fua: true, ..Request::new(Operation::Write, 512, 3) };
    let token = disk.route(&write).unwrap().done.unwrap();
    assert!(lines(output).is_empty());
    let failed = Results { segments: vec![Some(ErrorCode::Eio)], ..Results::default() };
    disk.done(token, &failed).unwrap();
    let [first, line] = &lines(output)[..] else { panic!("two lines") };
    assert!(first.starts_with("\"event\":\"open\",\"export\":\"a b\",\"size\":1048576,"));
    let (before, after) = line.split_once("\"duration\":").unwrap();
    assert_eq!(before, "\"event\":\"write\",\"id\":1,\"offset\":512,\"length\":3,\"fua\":true,");
    let (duration, error) = after.split_once(',').unwrap();
    assert!(duration.parse::<u64>().is_ok());
    assert_eq!(error, "\"error\":\"EIO\"}");
}

#[test]
fn format_can_be_changed() {
    let (mut disk, output) = open("json", usize::MAX);
    let json = disk.flush_began();
    let to = [Argument { name: "log-format".into(), value: Value::Text("nbdkit".into()) }];
    disk.execute("set", &to).unwrap();
    disk.flush_ended(json, None);
    assert_eq!(lines(output).pop().unwrap(), "...Flush id=1 return=0");
}

#[test]
fn nothing_fails_because_the_log_is_full() {
    let (mut disk, output) = open("nbdkit", 400);
    let read = Request::new(Operation::Read, 0, 10);
    for _ in 0..100 {
        testing::serve(&mut disk, &read, &mut [0; 10]).unwrap();
    }
    assert!(disk.is_full);
    assert!(testing::written(output).len() <= 400);
    assert_eq!(disk.disk().size, SIZE);
}
