//! A filter that executes single requests to another disk again when they fail, like nbdkit's filter
//! `retry-request`. The filter `retry` also opens the disk anew in between.
//!
//! A request is executed again up to `retry-request-retries` times, 2 by default and at most 1000; with
//! 0, the filter does nothing. Each time it waits for `retry-request-delay` before, 2 seconds by default
//! and at most 10 minutes. The delay can be a fraction of a second, such as `300ms`, which is an
//! addition to nbdkit's.
//!
//! Requests that wait occupy neither this component nor a thread, and others go on meanwhile. The client
//! gets the error of the last attempt. If it goes away, the request is not executed again.
//!
//! # Differences to nbdkit
//!
//! - Flushing is not tried again: a second flush can succeed although what was to be flushed is lost.
//! - `ENOTSUP`, with which fast zeroing fails, is an answer and not tried again.
//! - There is no `retry-request-open`: a filter is opened after the disk beneath it. The server tries
//!   again by itself to open a disk when a client asks for it.
//!
//! # Commands
//!
//! `set KEY=VALUE...` changes parameters while the disk is in use.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, ErrorCode, Filter, Lower,
    MAX_DELAY, OpenRequest, Operation, Parameter, Repeats, Request, Results, Route, StableRoute,
    withdraw_routes,
};

/// The most retries: as often as the host executes a request again.
const MAX_RETRIES: i64 = 1000;

/// The open disk.
#[derive(Clone, Debug)]
pub struct RetryRequest {
    base: Lower,
    retries: u32,
    delay: Duration,
    /// How often requests were executed again.
    attempts: Repeats<u32>,
    /// What the settings were made of.
    request: OpenRequest,
}

impl Backend for RetryRequest {
    fn describe() -> Description {
        Description::new(
            "retry-request",
            env!("CARGO_PKG_VERSION"),
            "another disk, whose requests are executed again when they fail",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::number(
                "retry-request-retries",
                "how often a request is executed again",
                0,
                MAX_RETRIES,
            )
            .default("2"),
        )
        .parameter(
            Parameter::duration("retry-request-delay", "the time to wait before that").default("2"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let delay = request.duration("retry-request-delay").unwrap_or(Duration::from_secs(2));
        if delay.is_zero() || delay > MAX_DELAY {
            return Err(Error::EINVAL
                .because("retry-request-delay must be more than 0 and at most 10 minutes"));
        }
        Ok(Self {
            base,
            // The host has checked that it is not more than 1000.
            retries: request.number("retry-request-retries").unwrap_or(2) as u32,
            delay,
            attempts: Repeats::new(),
            request: request.clone(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for RetryRequest {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(self.base.pass(request).token(self.attempts.token()))
    }

    fn repeat(&mut self, token: u64, results: &Results) -> Result<Option<Duration>, Error> {
        match results.segments[..] {
            [Some(code)] if code != ErrorCode::Enotsup => {
                if let Some(attempts) = self.attempts.failed(token)
                    && *attempts < self.retries
                {
                    *attempts += 1;
                    return Ok(Some(self.delay));
                }
            }
            _ => {}
        }
        self.attempts.ended(token);
        Ok(None)
    }

    fn stable(&mut self, _: Operation, offset: u64) -> Option<StableRoute> {
        if self.retries > 0 {
            return None;
        }
        self.base.pass_all(offset)
    }
}

impl Control for RetryRequest {
    fn commands(&self) -> Vec<Command> {
        vec![Command::set(Self::describe())]
    }

    fn execute(&mut self, _: &str, arguments: &[Argument]) -> Result<String, Error> {
        let changed = Self::open(&self.request.changed(arguments))?;
        // Requests under way stay.
        *self = Self { attempts: core::mem::take(&mut self.attempts), ..changed };
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(RetryRequest);
memnbd_guest::control!(RetryRequest);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Capabilities, Value, testing};

    use super::*;

    fn open(arguments: &[(&str, Value)]) -> Result<RetryRequest, Error> {
        let base = testing::device(1000, Capabilities::WRITABLE);
        let request = OpenRequest::default().with("base", Value::Device(base));
        RetryRequest::open(
            &arguments
                .iter()
                .fold(request, |request, (name, value)| request.with(name, value.clone())),
        )
    }

    fn ended(code: Option<ErrorCode>) -> Results {
        Results { copies: vec![], segments: vec![code] }
    }

    const FAILED: Option<ErrorCode> = Some(ErrorCode::Eio);

    fn token(disk: &mut RetryRequest) -> u64 {
        let route = disk.route(&Request::new(Operation::Write, 10, 20)).unwrap();
        assert_eq!(route.segments, Route::lower(disk.base.at(10), 20).segments);
        route.done.unwrap()
    }

    #[test]
    fn failed_request_is_repeated_twice_after_two_seconds() {
        let mut disk = open(&[]).unwrap();
        let (first, second) = (token(&mut disk), token(&mut disk));
        let mut again = |token, code| disk.repeat(token, &ended(code)).unwrap();
        let delay = Some(Duration::from_secs(2));
        assert_eq!(again(first, FAILED), delay);
        assert_eq!(again(second, FAILED), delay);
        assert_eq!(again(first, Some(ErrorCode::Enospc)), delay);
        assert_eq!(again(first, FAILED), None, "there were two retries");
        assert_eq!(again(second, None), None, "it has succeeded");
        assert_eq!(disk.attempts.ended(first), None);
        assert_eq!(disk.attempts.ended(second), None);
    }

    #[test]
    fn fast_zeroing_that_is_not_possible_is_not_tried_again() {
        let mut disk = open(&[]).unwrap();
        let token = token(&mut disk);
        assert_eq!(disk.repeat(token, &ended(Some(ErrorCode::Enotsup))), Ok(None));
    }

    #[test]
    fn without_retries_everything_passes() {
        let mut disk = open(&[("retry-request-retries", Value::Number(0))]).unwrap();
        let base = disk.base;
        for operation in Operation::ALL {
            assert_eq!(disk.stable(operation, 10), Some(StableRoute::new(base.at(10), 990)));
        }
        assert_eq!(open(&[]).unwrap().stable(Operation::Read, 0), None);
    }

    #[test]
    fn delay_is_more_than_nothing_and_at_most_ten_minutes() {
        let delay = |delay| open(&[("retry-request-delay", Value::Duration(delay))]).map(|_| ());
        let message = "retry-request-delay must be more than 0 and at most 10 minutes";
        assert_eq!(delay(Duration::ZERO), Err(Error::EINVAL.because(message)));
        assert_eq!(delay(MAX_DELAY + Duration::from_nanos(1)), Err(Error::EINVAL.because(message)));
        assert_eq!(delay(MAX_DELAY), Ok(()));
    }

    #[test]
    fn settings_are_changed_while_requests_are_under_way() {
        let mut disk = open(&[]).unwrap();
        let token = token(&mut disk);
        assert!(disk.repeat(token, &ended(FAILED)).unwrap().is_some());
        let argument = Argument { name: "retry-request-retries".into(), value: Value::Number(1) };
        disk.execute("set", &[argument]).unwrap();
        assert_eq!(disk.repeat(token, &ended(FAILED)), Ok(None), "it was repeated once");
        assert_eq!(testing::withdrawals(), 1);
    }
}
