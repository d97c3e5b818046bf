use memnbd_guest::{Capabilities, Value, testing};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn open(arguments: &[(&str, Value)]) -> Result<Retry, Error> {
    let base = testing::device(1000, Capabilities::WRITABLE);
    let request = OpenRequest::default().with("base", Value::Device(base));
    Retry::open(
        &arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone())),
    )
}

impl Retry {
    /// Routes a request, and returns its token.
    fn begin(&mut self, operation: Operation) -> u64 {
        let route = self.route(&Request::new(operation, 10, 20)).unwrap();
        assert_eq!(route.segments, Route::lower(self.base.at(10), 20).segments);
        route.done.unwrap()
    }

    /// Ends an execution with EIO, and returns after how many seconds there is another one.
    fn fail(&mut self, token: u64) -> Option<u64> {
        let results = Results { copies: vec![], segments: vec![Some(ErrorCode::Eio)] };
        self.repeat(token, &results).unwrap().map(|delay| delay.as_secs())
    }

    fn succeed(&mut self, token: u64) {
        let results = Results { copies: vec![], segments: vec![None] };
        assert_eq!(self.repeat(token, &results), Ok(None));
        assert!(self.attempts.ended(token >> 1).is_none());
    }

    fn set(&mut self, name: &str, value: Value) {
        self.execute("set", &[Argument { name: name.into(), value }]).unwrap();
    }

    fn reopened(&self) -> u32 {
        testing::reopenings(self.base)
    }
}

#[test]
fn delays_are_doubled_and_the_device_is_opened_anew_after_each() {
    let mut disk = open(&[]).unwrap();
    let token = disk.begin(Operation::Read);
    for (number, delay) in [2, 4, 8, 16, 32].into_iter().enumerate() {
        assert_eq!(disk.fail(token), Some(delay));
        assert_eq!(disk.reopened(), number as u32);
        assert_eq!(disk.fail(token), Some(0));
        assert_eq!(disk.reopened(), number as u32 + 1);
    }
    assert_eq!(disk.fail(token), None);
    assert!(disk.attempts.ended(token >> 1).is_none());
}

#[test]
fn delays_can_be_the_same_each_time_and_are_at_most_ten_minutes() {
    let delays = |arguments: &[(&str, Value)]| {
        let mut disk = open(arguments).unwrap();
        let token = disk.begin(Operation::Write);
        let delays = core::iter::from_fn(|| disk.fail(token)).filter(|delay| *delay > 0);
        delays.collect::<Vec<_>>()
    };
    let fixed = ("retry-exponential", Value::Boolean(false));
    assert_eq!(delays(core::slice::from_ref(&fixed)), [2; 5]);
    let (many, longer) = (Value::Number(499), Value::Duration(100 * SECOND));
    let expected = [&[100, 200, 400][..], &[600; 496]].concat();
    assert_eq!(delays(&[("retries", many), ("retry-delay", longer)]), expected);
    assert_eq!(delays(&[("retries", Value::Number(1)), fixed]), [2]);
}

#[test]
fn device_that_works_again_is_not_opened_anew() {
    let mut disk = open(&[]).unwrap();
    let token = disk.begin(Operation::Write);
    assert_eq!(disk.fail(token), Some(2));
    disk.succeed(token);
    assert_eq!(disk.reopened(), 0);
}

#[test]
fn device_is_opened_anew_once_for_all_that_failed() {
    let mut disk = open(&[]).unwrap();
    let tokens = [(); 3].map(|()| disk.begin(Operation::Read));
    for token in tokens {
        assert_eq!(disk.fail(token), Some(2));
    }
    for token in tokens {
        assert_eq!(disk.fail(token), Some(0));
    }
    assert_eq!(disk.reopened(), 1);
    tokens.into_iter().for_each(|token| disk.succeed(token));
}

#[test]
fn device_that_cannot_be_opened_anew_is_tried_again() {
    let mut disk = open(&[("retries", Value::Number(3))]).unwrap();
    testing::fail_reopening(disk.base, Some(ErrorCode::Eio));
    let token = disk.begin(Operation::Read);
    assert_eq!([(); 3].map(|()| disk.fail(token)), [Some(2), Some(4), Some(8)]);
    testing::fail_reopening(disk.base, None);
    assert_eq!(disk.fail(token), Some(0));
    assert_eq!(disk.fail(token), None);
    assert_eq!(disk.reopened(), 3);
}

#[test]
fn disk_is_read_only_after_a_failure_if_that_is_wished() {
    let mut disk = open(&[("retry-readonly", Value::Boolean(true))]).unwrap();
    let (write, read) = (disk.begin(Operation::Write), disk.begin(Operation::Read));
    disk.succeed(write);
    let write = disk.begin(Operation::Write);
    assert_eq!(disk.fail(read), Some(2));
    assert_eq!(disk.fail(write), None, "it is not tried again");
    for operation in [Operation::Write, Operation::Zero, Operation::Trim] {
        let refused = disk.route(&Request::new(operation, 0, 1)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Eperm);
    }
    disk.succeed(read);
    disk.begin(Operation::Read);
    disk.set("retries", Value::Number(0));
    assert_eq!(disk.stable(Operation::Write, 0), None);
    assert!(disk.stable(Operation::Read, 0).is_some());
    disk.set("retry-readonly", Value::Boolean(true));
    assert!(disk.stable(Operation::Write, 0).is_some());
    disk.begin(Operation::Write);
}

#[test]
fn fast_zeroing_that_is_not_possible_is_not_tried_again() {
    let mut disk = open(&[("retry-readonly", Value::Boolean(true))]).unwrap();
    let token = disk.begin(Operation::Zero);
    let results = Results { copies: vec![], segments: vec![Some(ErrorCode::Enotsup)] };
    assert_eq!(disk.repeat(token, &results), Ok(None));
    disk.begin(Operation::Write);
}

#[test]
fn without_retries_everything_passes() {
    let mut disk = open(&[("retries", Value::Number(0))]).unwrap();
    let base = disk.base;
    for operation in Operation::ALL {
        assert_eq!(disk.stable(operation, 10), Some(StableRoute::new(base.at(10), 990)));
    }
    // One that was routed before the parameter was changed.
    let token = disk.begin(Operation::Read);
    assert_eq!(disk.fail(token), None);
    assert_eq!(open(&[]).unwrap().stable(Operation::Read, 0), None);
}

#[test]
fn delay_is_more_than_nothing_and_at_most_ten_minutes() {
    let delay = |delay| open(&[("retry-delay", Value::Duration(delay))]).map(|_| ());
    let error =
        Err(Error::EINVAL.because("retry-delay must be more than 0 and at most 10 minutes"));
    assert_eq!(delay(Duration::ZERO), error);
    assert_eq!(delay(MAX_DELAY + Duration::from_nanos(1)), error);
    assert_eq!(delay(MAX_DELAY), Ok(()));
}
