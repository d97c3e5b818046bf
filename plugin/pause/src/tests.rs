use memnbd_guest::{Capabilities, testing};

use super::*;

const SIZE: u64 = 1000;

fn open(arguments: &[(&str, Value)]) -> Pause {
    let base = testing::device(SIZE, Capabilities::WRITABLE);
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request =
        arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()));
    Pause::open(&request).unwrap()
}

fn execute(disk: &mut Pause, command: &str) -> String {
    disk.execute(command, &[]).unwrap()
}

/// The number under which a request for one byte is held, and its token.
fn route(disk: &mut Pause, operation: Operation, offset: u64) -> (Option<u64>, u64) {
    let route = disk.route(&Request::new(operation, offset, 1)).unwrap();
    assert_eq!(route.segments, Route::lower(disk.base.at(offset), 1).segments);
    (route.hold, route.done.unwrap())
}

#[test]
fn requests_wait_between_pause_and_resume() {
    let mut disk = open(&[]);
    assert_eq!(disk.stable(Operation::Write, 10).unwrap().length, SIZE - 10);
    let withdrawals = testing::withdrawals();
    assert_eq!(execute(&mut disk, "pause"), "paused");
    assert_eq!(testing::withdrawals(), withdrawals + 1);
    assert!(disk.stable(Operation::Write, 10).is_none());
    let (hold, first) = route(&mut disk, Operation::Write, 0);
    assert_eq!(hold, Some(PAUSED));
    let (_, second) = route(&mut disk, Operation::Extents, 0);
    assert_eq!(execute(&mut disk, "status"), "paused, 2 requests wait");
    disk.done(second, &Results::default()).unwrap();
    assert_eq!(execute(&mut disk, "status"), "paused, 1 requests wait");
    testing::released();
    assert_eq!(execute(&mut disk, "resume"), "resumed");
    assert_eq!(testing::released(), [PAUSED, HUNG]);
    assert_eq!(testing::withdrawals(), withdrawals + 2);
    assert_eq!(execute(&mut disk, "status"), "not paused, 0 requests wait");
    assert_eq!(execute(&mut disk, "pause"), "paused; 1 requests that came before are under way");
    disk.done(first, &Results::default()).unwrap();
    assert_eq!(execute(&mut disk, "pause"), "paused");
}

#[test]
fn disk_may_begin_paused() {
    let mut disk = open(&[("paused", Value::Boolean(true))]);
    assert_eq!(route(&mut disk, Operation::Read, 0).0, Some(PAUSED));
    testing::released();
    let argument = Argument { name: "paused".into(), value: Value::Boolean(false) };
    disk.execute("set", &[argument]).unwrap();
    assert_eq!(testing::released(), [PAUSED]);
    assert_eq!(disk.stable(Operation::Read, 0).unwrap().length, SIZE);
}

#[test]
fn requests_of_the_rule_hang_until_they_are_released() {
    let range = ("pause-range", Value::Text("100:10".into()));
    let write = ("pause-operation", Value::Text("pwrite".into()));
    let mut disk = open(&[range, write]);
    assert_eq!(disk.stable(Operation::Write, 0).unwrap().length, 100);
    assert_eq!(disk.stable(Operation::Read, 0).unwrap().length, SIZE);
    assert_eq!(route(&mut disk, Operation::Write, 100).0, Some(HUNG));
    assert_eq!(route(&mut disk, Operation::Write, 110).0, None);
    assert_eq!(execute(&mut disk, "status"), "not paused, 1 requests wait");
    testing::released();
    execute(&mut disk, "release");
    assert_eq!(testing::released(), [HUNG]);
    assert_eq!(execute(&mut disk, "status"), "not paused, 0 requests wait");
    assert_eq!(execute(&mut disk, "state"), "state 1, 1 requests matched, 1 affected");
}

#[test]
fn rules_limit_what_hangs() {
    let mut nth = open(&[("pause-nth", Value::Number(2)), ("pause-once", Value::Boolean(true))]);
    let holds = [(); 5].map(|()| route(&mut nth, Operation::Read, 0).0);
    assert_eq!(holds, [None, Some(HUNG), None, None, None]);
    assert!(nth.stable(Operation::Extents, 0).is_some());
    let mut rate = open(&[("pause-rate", Value::Probability(1.0))]);
    assert_eq!(route(&mut rate, Operation::Trim, 0).0, Some(HUNG));
    assert_eq!(route(&mut rate, Operation::Extents, 0).0, None);
    let extents = ("pause-operation", Value::Text("extents".into()));
    let mut extents = open(&[extents]);
    assert_eq!(route(&mut extents, Operation::Extents, 0).0, Some(HUNG));
    assert_eq!(route(&mut extents, Operation::Read, 0).0, None);
}

#[test]
fn paused_disk_stays_paused_when_parameters_change() {
    let mut disk = open(&[]);
    execute(&mut disk, "pause");
    let (_, token) = route(&mut disk, Operation::Read, 0);
    let nth = Argument { name: "pause-nth".into(), value: Value::Number(2) };
    disk.execute("set", &[nth]).unwrap();
    assert_eq!(execute(&mut disk, "status"), "paused, 1 requests wait");
    assert_ne!(route(&mut disk, Operation::Read, 0).1, token);
}
