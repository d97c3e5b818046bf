use memnbd_guest::{Value, testing};

use super::*;

fn open(capabilities: Capabilities, mode: &str, fast_mode: &str) -> NoZero {
    let base = testing::device(1000, capabilities | Capabilities::WRITABLE | Capabilities::ZERO);
    let request = OpenRequest::default()
        .with("base", Value::Device(base))
        .with("zeromode", Value::Text(mode.into()))
        .with("fastzeromode", Value::Text(fast_mode.into()));
    NoZero::open(&request).unwrap()
}

const ZERO: Request = Request::new(Operation::Zero, 10, 20);
const FAST: Request = Request { fast: true, ..ZERO };

#[test]
fn default_is_to_write_zeroes() {
    let base = testing::device(1000, Capabilities::WRITABLE | Capabilities::FAST_ZERO);
    let request = OpenRequest::default().with("base", Value::Device(base));
    let capabilities = NoZero::open(&request).unwrap().disk().capabilities;
    assert!(!capabilities.contains(Capabilities::ZERO));
    assert!(!capabilities.contains(Capabilities::FAST_ZERO));
    assert!(capabilities.contains(Capabilities::WRITABLE));
}

#[test]
fn modes_decide_what_is_offered() {
    let none = Capabilities::NONE;
    let fast = Capabilities::FAST_ZERO;
    for (base, mode, fast_mode, zeroes, zeroes_fast) in [
        (fast, "none", "ignore", false, false),
        (fast, "none", "slow", false, false),
        (none, "emulate", "default", true, true),
        (none, "emulate", "slow", true, true),
        (fast, "emulate", "none", false, false),
        (none, "notrim", "default", true, false),
        (fast, "notrim", "default", true, true),
        (fast, "notrim", "none", true, false),
        (none, "plugin", "default", true, false),
        (fast, "plugin", "default", true, true),
        (fast, "plugin", "none", true, false),
        (none, "plugin", "slow", true, true),
        (none, "plugin", "ignore", true, true),
    ] {
        let capabilities = open(base, mode, fast_mode).disk().capabilities;
        assert_eq!(capabilities.contains(Capabilities::ZERO), zeroes, "{mode} {fast_mode}");
        assert_eq!(capabilities.contains(fast), zeroes_fast, "{mode} {fast_mode}");
    }
}

#[test]
fn modes_decide_where_zeroing_goes() {
    let own = || Ok(Route::new().segment(Place::Own, 20));
    let refused = || Err(Error::ENOTSUP);
    for (mode, fast_mode, zero, fast) in [
        ("emulate", "default", Some(own()), refused()),
        ("emulate", "ignore", Some(own()), refused()),
        ("notrim", "default", Some(own()), own()),
        ("notrim", "slow", Some(own()), refused()),
        ("notrim", "ignore", Some(own()), own()),
        ("plugin", "slow", None, refused()),
        ("plugin", "ignore", None, own()),
    ] {
        let mut disk = open(Capabilities::FAST_ZERO, mode, fast_mode);
        assert_eq!(disk.stable(Operation::Zero, 0), None);
        let passed = Ok(disk.base.pass(&ZERO));
        assert_eq!(disk.route(&ZERO), zero.unwrap_or(passed), "{mode} {fast_mode}");
        assert_eq!(disk.route(&FAST), fast, "{mode} {fast_mode}");
    }
    for fast_mode in ["default", "none"] {
        let mut disk = open(Capabilities::FAST_ZERO, "plugin", fast_mode);
        assert_eq!(disk.stable(Operation::Zero, 10), disk.base.pass_all(10));
    }
}

#[test]
fn zeroing_changes_what_is_beneath_or_asks_for_writes() {
    for (mode, fast_mode, expected) in [
        ("emulate", "default", Err(Error::ENOTSUP)),
        ("notrim", "default", Ok(())),
        ("plugin", "ignore", Ok(())),
    ] {
        let mut disk = open(Capabilities::NONE, mode, fast_mode);
        disk.write(0, &[7; 40], false).unwrap();
        assert_eq!(disk.zero(10, 20, ZeroOptions::default()), expected, "{mode}");
        let mut bytes = [0; 40];
        disk.read(0, &mut bytes).unwrap();
        let zeroed = bytes.iter().filter(|byte| **byte == 0).count();
        assert_eq!(zeroed, if expected.is_ok() { 20 } else { 0 }, "{mode}");
    }
}

#[test]
fn other_requests_pass() {
    let mut disk = open(Capabilities::NONE, "none", "default");
    for operation in Operation::ALL.into_iter().filter(|one| *one != Operation::Zero) {
        assert_eq!(disk.stable(operation, 10), disk.base.pass_all(10));
        let request = Request::new(operation, 10, 20);
        assert_eq!(disk.route(&request), Ok(disk.base.pass(&request)));
    }
}
