use super::*;

const NAMES: Names = crate::names!("bad");
const SIZE: u64 = 1 << 20;
const READ: Event = Event::Request(Operation::Read);
const WRITE: Event = Event::Request(Operation::Write);

fn open(arguments: &[(&str, Value)]) -> Rule {
    let request = arguments
        .iter()
        .fold(OpenRequest::default(), |request, (name, value)| request.with(name, value.clone()));
    Rule::open(&request, &NAMES, SIZE).unwrap()
}

/// A rule for all writes.
fn writes(arguments: &[(&str, Value)]) -> Rule {
    let mut rule = open(arguments);
    rule.set_rate(WRITE, 1.0);
    rule
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn write(rule: &mut Rule, offset: u64) -> bool {
    rule.affects(&Request::new(Operation::Write, offset, 1))
}

fn read(rule: &mut Rule, offset: u64) -> bool {
    rule.affects(&Request::new(Operation::Read, offset, 1))
}

#[test]
fn names_are_declared_as_they_are_read() {
    let description = NAMES.declare(Description::new("bad", "1", "bad"));
    let names: Vec<&str> = description.parameters.iter().map(|parameter| parameter.name).collect();
    assert_eq!(
        names,
        ["bad-range", "bad-nth", "bad-once", "bad-seed", "bad-state", "bad-set-state"]
    );
}

#[test]
fn rule_without_a_rate_affects_nothing() {
    let mut rule = open(&[("bad-nth", Value::Number(1))]);
    assert!(rule.is_limited() && !rule.watches(WRITE));
    assert!(!write(&mut rule, 0) && !rule.affects_flush());
    assert_eq!(rule.safe(Operation::Write, 10, SIZE), Some(SIZE - 10));
    assert_eq!(rule.safe(Operation::Write, SIZE, SIZE), None);
}

#[test]
fn every_nth_is_affected_or_only_one() {
    let mut rule = writes(&[("bad-nth", Value::Number(3))]);
    let affected: Vec<u64> = (1..=10).filter(|_| write(&mut rule, 0)).collect();
    assert_eq!(affected, [3, 6, 9]);
    let mut rule = writes(&[("bad-nth", Value::Number(3)), ("bad-once", Value::Boolean(true))]);
    let affected: Vec<u64> = (1..=10).filter(|_| write(&mut rule, 0)).collect();
    assert_eq!(affected, [3]);
    assert_eq!(rule.safe(Operation::Write, 0, SIZE), Some(SIZE));
}

#[test]
fn rate_is_that_of_the_seed() {
    let affected = |seed| {
        let mut rule = open(&[("bad-seed", Value::Number(seed))]);
        rule.set_rate(WRITE, 0.25);
        (0..1000).filter(|_| write(&mut rule, 0)).collect::<Vec<u64>>()
    };
    assert_eq!(affected(1), affected(1));
    assert_ne!(affected(1), affected(2));
    assert!((200..300).contains(&affected(1).len()));
}

#[test]
fn only_requests_that_touch_a_range_are_affected() {
    let mut rule = writes(&[("bad-range", text("4k:512")), ("bad-range", text("1000:24"))]);
    let affected = (0..SIZE).filter(|offset| write(&mut rule, *offset));
    assert!(affected.eq((1000..1024).chain(4096..4608)));
    assert_eq!(rule.safe(Operation::Write, 0, SIZE), Some(1000));
    assert_eq!(rule.safe(Operation::Write, 1023, SIZE), None);
    assert_eq!(rule.safe(Operation::Write, 1024, SIZE), Some(3072));
    assert_eq!(rule.safe(Operation::Write, 4608, SIZE), Some(SIZE - 4608));
    assert_eq!(rule.safe(Operation::Read, 1000, SIZE), Some(SIZE - 1000));
}

#[test]
fn states_are_switched_by_requests_after_they_are_decided() {
    let mut rule = writes(&[
        ("bad-state", Value::Number(2)),
        ("bad-set-state", text("pread:1:2:4k:512")),
        ("bad-set-state", text("pwrite:2:3")),
        ("bad-set-state", text("flush:3:1")),
    ]);
    assert!(!write(&mut rule, 0));
    assert!(!read(&mut rule, 0) && !write(&mut rule, 0));
    assert!(!read(&mut rule, 4096) && write(&mut rule, 0));
    assert!(!write(&mut rule, 0), "it is state 3");
    assert!(!rule.affects_flush());
    assert!(!read(&mut rule, 4607) && write(&mut rule, 0));
    assert!(rule.watches(Event::Flush) && rule.watches(READ));
    assert!(!rule.watches(Event::Request(Operation::Trim)));
}

#[test]
fn requests_that_switch_states_are_seen() {
    let rule = writes(&[
        ("bad-range", text("8k:512")),
        ("bad-set-state", text("pwrite:1:2:4k:512")),
        ("bad-set-state", text("pread:1:2")),
    ]);
    assert_eq!(rule.safe(Operation::Write, 0, SIZE), Some(4096));
    assert_eq!(rule.safe(Operation::Write, 4096, SIZE), None);
    assert_eq!(rule.safe(Operation::Write, 4608, SIZE), Some(8192 - 4608));
    assert_eq!(rule.safe(Operation::Write, 8704, SIZE), Some(SIZE - 8704));
    assert_eq!(rule.safe(Operation::Read, 0, SIZE), None);
    assert_eq!(rule.safe(Operation::Trim, 0, SIZE), Some(SIZE));
}

#[test]
fn flushes_can_be_affected() {
    let mut rule = open(&[("bad-nth", Value::Number(2))]);
    rule.set_rate(Event::Flush, 1.0);
    assert!(!rule.affects_flush() && rule.affects_flush() && !rule.affects_flush());
}

#[test]
fn command_tells_and_sets_the_state() {
    let mut rule = writes(&[("bad-state", Value::Number(5))]);
    assert!(!write(&mut rule, 0));
    let state = Argument { name: "state".into(), value: Value::Number(5) };
    let told = rule.execute("state", &[state]).unwrap();
    assert_eq!(told, "state 5, 0 requests matched, 0 affected");
    assert!(write(&mut rule, 0));
    assert_eq!(rule.execute("state", &[]).unwrap(), "state 5, 1 requests matched, 1 affected");
    assert_eq!(rule.execute("set", &[]), None);
}
