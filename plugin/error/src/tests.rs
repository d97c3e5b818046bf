use memnbd_guest::{Capabilities, ErrorCode, Value, testing};

use super::*;

const SIZE: u64 = 1 << 20;

fn request() -> OpenRequest {
    let base = testing::device(SIZE, Capabilities::WRITABLE | Capabilities::CACHE);
    OpenRequest::default().with("base", Value::Device(base))
}

fn rate(rate: f64) -> Value {
    Value::Probability(rate)
}

fn open(arguments: &[(&str, Value)]) -> Faulty {
    let request = arguments
        .iter()
        .fold(request(), |request, (name, value)| request.with(name, value.clone()));
    Faulty::open(&request).unwrap()
}

/// The error of a request for one byte.
fn failure_at(disk: &mut Faulty, operation: Operation, offset: u64) -> Option<ErrorCode> {
    let request = Request::new(operation, offset, 1);
    match disk.route(&request) {
        Ok(route) => {
            assert_eq!(route, Route::lower(disk.base.at(offset), 1));
            None
        }
        Err(error) => Some(error.code),
    }
}

fn failure(disk: &mut Faulty, operation: Operation) -> Option<ErrorCode> {
    failure_at(disk, operation, 0)
}

/// The operations that are routed one by one.
fn routed(disk: &mut Faulty) -> Vec<Operation> {
    let mut routed = Operation::ALL.to_vec();
    routed.retain(|operation| disk.stable(*operation, 0).is_none_or(|route| route.length < SIZE));
    routed
}

/// Which of `count` reads fail.
fn failures(disk: &mut Faulty, count: usize) -> Vec<usize> {
    (1..=count).filter(|_| failure(disk, Operation::Read).is_some()).collect()
}

#[test]
fn without_a_rate_nothing_fails() {
    let mut disk = open(&[("error", Value::Text("ENOSPC".into()))]);
    assert_eq!(routed(&mut disk), []);
    assert_eq!(disk.stable(Operation::Read, SIZE - 1).unwrap().length, 1);
    assert_eq!(failures(&mut disk, 100), []);
}

#[test]
fn rate_and_error_apply_to_all_operations_or_to_one() {
    let mut disk = open(&[
        ("error", Value::Text("ENOSPC".into())),
        ("error-pwrite-rate", rate(1.0)),
        ("error-zero-rate", rate(1.0)),
        ("error-zero", Value::Text("EPERM".into())),
    ]);
    assert_eq!(routed(&mut disk), [Operation::Write, Operation::Zero]);
    assert_eq!(failure(&mut disk, Operation::Write), Some(ErrorCode::Enospc));
    assert_eq!(failure(&mut disk, Operation::Zero), Some(ErrorCode::Eperm));
    assert_eq!(failure(&mut disk, Operation::Read), None);
    let mut disk = open(&[("error-rate", rate(1.0)), ("error-cache-rate", rate(0.0))]);
    assert_eq!(routed(&mut disk).len(), 5);
    assert_eq!(failure(&mut disk, Operation::Extents), Some(ErrorCode::Eio));
    assert_eq!(failure(&mut disk, Operation::Cache), None);
}

#[test]
fn last_argument_for_an_operation_holds() {
    let mut disk = open(&[("error-cache-rate", rate(0.0)), ("error-rate", rate(1.0))]);
    assert_eq!(failure(&mut disk, Operation::Cache), Some(ErrorCode::Eio));
}

#[test]
fn share_of_failures_is_the_rate() {
    for seed in [None, Some(1)] {
        let mut arguments = vec![("error-rate", rate(0.1))];
        arguments.extend(seed.map(|seed| ("error-seed", Value::Number(seed))));
        let mut disk = open(&arguments);
        let count = failures(&mut disk, 10_000).len();
        // Six standard deviations.
        assert!((820..=1180).contains(&count), "{count} of 10000");
    }
}

#[test]
fn same_seed_makes_the_same_requests_fail() {
    let of = |seed| {
        let seed = ("error-seed", Value::Number(seed));
        failures(&mut open(&[("error-rate", rate(0.5)), seed]), 200)
    };
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
}

#[test]
fn every_nth_request_fails() {
    let mut disk = open(&[("error-nth", Value::Number(3))]);
    assert_eq!(failures(&mut disk, 10), [3, 6, 9]);
    assert_eq!(routed(&mut disk).len(), 5);
    assert!(disk.stable(Operation::Extents, 0).is_some());
}

#[test]
fn requests_that_cannot_fail_are_not_counted() {
    let mut disk = open(&[("error-nth", Value::Number(2)), ("error-pwrite-rate", rate(1.0))]);
    for _ in 0..5 {
        assert_eq!(failure(&mut disk, Operation::Read), None);
    }
    assert_eq!(failure(&mut disk, Operation::Write), None);
    assert_eq!(failure(&mut disk, Operation::Write), Some(ErrorCode::Eio));
}

#[test]
fn there_is_one_failure_with_once() {
    let once = ("error-once", Value::Boolean(true));
    let mut disk = open(std::slice::from_ref(&once));
    assert_eq!(failures(&mut disk, 10), [1]);
    assert_eq!(routed(&mut disk), []);
    let mut disk = open(&[once, ("error-nth", Value::Number(4))]);
    assert_eq!(failures(&mut disk, 10), [4]);
}

#[test]
fn only_requests_that_touch_a_range_fail() {
    let range = |text: &str| ("error-range", Value::Text(text.into()));
    let mut disk = open(&[range("4k:512"), range("1000:24")]);
    let failing: Vec<u64> = (0..SIZE)
        .filter(|offset| failure_at(&mut disk, Operation::Write, *offset).is_some())
        .collect();
    assert!(failing.iter().copied().eq((1000..1024).chain(4096..4608)));
    assert!(disk.route(&Request::new(Operation::Read, 0, 1000)).is_ok());
    assert!(disk.route(&Request::new(Operation::Read, 0, 1001)).is_err());
    assert!(disk.route(&Request::new(Operation::Read, 1023, 10)).is_err());
    assert!(disk.route(&Request::new(Operation::Read, 0, SIZE)).is_err());
    let mut stable = |offset| disk.stable(Operation::Read, offset).map(|route| route.length);
    assert_eq!(stable(0), Some(1000));
    assert_eq!(stable(1000), None);
    assert_eq!(stable(1023), None);
    assert_eq!(stable(1024), Some(3072));
    assert_eq!(stable(4607), None);
    assert_eq!(stable(4608), Some(SIZE - 4608));
}

#[test]
fn failed_requests_change_nothing_beneath() {
    let mut disk = open(&[("error-pwrite-rate", rate(1.0))]);
    let write = Request::new(Operation::Write, 10, 3);
    let error = testing::serve(&mut disk, &write, &mut [1, 2, 3]).unwrap_err();
    assert_eq!(error, Error::EIO.because("injected by the filter error"));
    let mut bytes = [9; 3];
    testing::serve(&mut disk, &Request::new(Operation::Read, 10, 3), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 3]);
}

#[test]
fn requests_fail_in_one_state_only() {
    let text = |text: &str| Value::Text(text.into());
    let mut disk = open(&[
        ("error-pread-rate", rate(1.0)),
        ("error-state", Value::Number(2)),
        ("error-set-state", text("pwrite:1:2:512:512")),
        ("error-set-state", text("trim:2:1")),
    ]);
    assert_eq!(failure(&mut disk, Operation::Read), None);
    assert_eq!(failure_at(&mut disk, Operation::Write, 511), None);
    assert_eq!(failure(&mut disk, Operation::Read), None);
    assert_eq!(failure_at(&mut disk, Operation::Write, 512), None);
    assert_eq!(failure(&mut disk, Operation::Read), Some(ErrorCode::Eio));
    assert_eq!(failure(&mut disk, Operation::Trim), None);
    assert_eq!(failure(&mut disk, Operation::Read), None);
    assert_eq!(disk.stable(Operation::Write, 0).unwrap().length, 512);
    let state = Argument { name: "state".into(), value: Value::Number(2) };
    let told = disk.execute("state", &[state]).unwrap();
    assert_eq!(told, "state 2, 1 requests matched, 1 affected");
    assert_eq!(failure(&mut disk, Operation::Read), Some(ErrorCode::Eio));
}
