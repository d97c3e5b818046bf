//! A filter that executes requests to another disk again when they fail, and opens that disk anew if
//! that does not help, like nbdkit's filter `retry`. The filter `retry-request` does the former alone.
//!
//! # Parameters
//!
//! - `retries=N`: how often a request is tried again, 5 times by default and at most 499; with 0, the
//!   filter does nothing.
//! - `retry-delay=TIME`: the time to wait before the first retry, 2 seconds by default and at most 10
//!   minutes. It can be a fraction of a second, such as `300ms`, which is an addition to nbdkit's.
//! - `retry-exponential=false`: wait equally long each time. By default each delay is twice as long as
//!   the one before, up to 10 minutes.
//! - `retry-readonly=true`: after the first failure, refuse what changes the disk with `EPERM`, until
//!   the disk is closed. A write that fails is not tried again then.
//!
//! By default a request fails after about a minute, with the error of the last attempt. Requests that
//! wait occupy neither this component nor a thread. If the client goes away, its request is not executed
//! again.
//!
//! # Opening the disk anew
//!
//! A retry executes the request, and if that fails as well, it opens the disk beneath anew and executes
//! the request once more. If several requests fail, the disk is opened once for all. nbdkit opens it each
//! time before it executes the request.
//!
//! The disk is opened as it was at the beginning: a file by its path, also if that is another file by
//! now, and components with new instances, also if they have failed. This includes all layers beneath:
//! a disk in memory is empty after that, `error` counts from the beginning, and what commands have
//! changed beneath is forgotten. The disk must have the same size as before, and offer at least what it
//! did; otherwise the old one stays in use, as it does if it cannot be opened. It is opened anew up to 16
//! times in quick succession, and then once in a second; the old and the new one together may take the
//! memory of the disk.
//!
//! Requests that are under way beneath end before that, for which this disk waits up to 5 minutes, and
//! what was written is flushed. If that fails, the next flush of a client fails.
//!
//! A disk beneath that is an export of its own (`base=NAME`) is not opened anew, for others may use it:
//! the requests are executed again without that. The same is true for a disk that stands on an export
//! which it alone may use.
//!
//! # Differences to nbdkit
//!
//! - Flushing is not tried again, and does not open the disk anew: a second flush can succeed although
//!   what was to be flushed is lost.
//! - `ENOTSUP`, with which fast zeroing fails, is an answer and not tried again.
//! - Requests of one client are executed at the same time. nbdkit's filter executes one after the other.
//! - `retry-readonly` is for all clients of the disk, unless each has a disk of its own (`--private`).
//!   The disk beneath is still opened for writing.
//!
//! # Commands
//!
//! `set KEY=VALUE...` changes parameters while the disk is in use. `set retry-readonly=...` also ends
//! the refusal of writes.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, ErrorCode, Filter, Level, Lower,
    MAX_DELAY, OpenRequest, Operation, Parameter, Repeats, Request, Results, Route, StableRoute,
    log, withdraw_routes,
};

/// The most retries: the host executes a request again up to 1000 times, and a retry takes two.
const MAX_RETRIES: i64 = 499;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Retry {
    base: Lower,
    retries: u32,
    delay: Duration,
    exponential: bool,
    readonly: bool,
    /// A request has failed, so that the disk is read-only from now on.
    refuses_changes: bool,
    /// How often the device beneath was opened anew.
    reopenings: u64,
    attempts: Repeats<Attempts>,
    /// What the settings were made of.
    request: OpenRequest,
}

/// What was done for a request that failed.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    /// The number of the present retry; 0 before the first one.
    retry: u32,
    /// How often the device beneath had been opened anew when the retry began.
    reopenings: u64,
    /// The request was executed after the device was opened anew for this retry.
    reopened: bool,
}

impl Retry {
    /// Returns how long to wait before a retry of this number.
    fn delay(&self, retry: u32) -> Duration {
        let doublings = if self.exponential { retry - 1 } else { 0 };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.delay.saturating_mul(factor).min(MAX_DELAY)
    }

    /// Opens the device beneath anew, unless that has been done since a retry began. Returns false if it
    /// was not opened.
    fn reopen(&mut self, attempts: Attempts) -> bool {
        if attempts.reopenings != self.reopenings {
            return true;
        }
        match self.base.reopen() {
            Ok(()) => {
                self.reopenings += 1;
                log(Level::Info, "the disk was opened anew after a request had failed");
                true
            }
            // This disk stands on an export, which is not said each time.
            Err(error) if error.code == ErrorCode::Enotsup => false,
            Err(error) => {
                let reason = error.message.as_deref().unwrap_or("no reason is known");
                log(Level::Warn, &format!("the disk could not be opened anew: {reason}"));
                false
            }
        }
    }

    /// Returns the time after which a request that failed is executed again, or `None` if it is not.
    fn retry(&mut self, number: u64) -> Option<Duration> {
        let attempts = *self.attempts.failed(number)?;
        let (next, delay) = if attempts.retry > 0 && !attempts.reopened && self.reopen(attempts) {
            (Attempts { reopened: true, ..attempts }, Duration::ZERO)
        } else if attempts.retry < self.retries {
            let retry = attempts.retry + 1;
            let next = Attempts { retry, reopenings: self.reopenings, reopened: false };
            (next, self.delay(retry))
        } else {
            return None;
        };
        *self.attempts.failed(number)? = next;
        Some(delay)
    }
}

/// Returns the token of a request.
const fn token(number: u64, changes: bool) -> u64 {
    number << 1 | changes as u64
}

impl Backend for Retry {
    fn describe() -> Description {
        Description::new(
            "retry",
            env!("CARGO_PKG_VERSION"),
            "another disk, which is opened anew when requests fail",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::number("retries", "how often a request is tried again", 0, MAX_RETRIES)
                .default("5"),
        )
        .parameter(
            Parameter::duration("retry-delay", "the time to wait before the first retry")
                .default("2"),
        )
        .parameter(
            Parameter::boolean("retry-exponential", "whether the delay is doubled each time")
                .default("true"),
        )
        .parameter(
            Parameter::boolean(
                "retry-readonly",
                "whether the disk is read-only after the first failure",
            )
            .default("false"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let delay = request.duration("retry-delay").unwrap_or(Duration::from_secs(2));
        if delay.is_zero() || delay > MAX_DELAY {
            let message = "retry-delay must be more than 0 and at most 10 minutes";
            return Err(Error::EINVAL.because(message));
        }
        Ok(Self {
            base,
            // The host has checked that it is not more than 499.
            retries: request.number("retries").unwrap_or(5) as u32,
            delay,
            exponential: request.boolean("retry-exponential").unwrap_or(true),
            readonly: request.boolean("retry-readonly").unwrap_or(false),
            refuses_changes: false,
            reopenings: 0,
            attempts: Repeats::new(),
            request: request.clone(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for Retry {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let changes = request.operation.changes();
        if changes && self.refuses_changes {
            let message = "the disk is read-only since a request has failed (retry-readonly)";
            return Err(Error::EPERM.because(message));
        }
        Ok(self.base.pass(request).token(token(self.attempts.token(), changes)))
    }

    fn repeat(&mut self, token: u64, results: &Results) -> Result<Option<Duration>, Error> {
        let (number, changes) = (token >> 1, token & 1 != 0);
        let failed = results.segments.iter().flatten().any(|&code| code != ErrorCode::Enotsup);
        self.refuses_changes |= failed && self.readonly && self.retries > 0;
        let delay = match failed && !(changes && self.refuses_changes) {
            true => self.retry(number),
            false => None,
        };
        if delay.is_none() {
            self.attempts.ended(number);
        }
        Ok(delay)
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if self.retries > 0 || (operation.changes() && self.refuses_changes) {
            return None;
        }
        self.base.pass_all(offset)
    }
}

impl Control for Retry {
    fn commands(&self) -> Vec<Command> {
        vec![Command::set(Self::describe())]
    }

    fn execute(&mut self, _: &str, arguments: &[Argument]) -> Result<String, Error> {
        let changed = Self::open(&self.request.changed(arguments))?;
        let ends_refusal = arguments.iter().any(|argument| argument.name == "retry-readonly");
        // Requests under way stay.
        *self = Self {
            refuses_changes: self.refuses_changes && !ends_refusal,
            reopenings: self.reopenings,
            attempts: core::mem::take(&mut self.attempts),
            ..changed
        };
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Retry);
memnbd_guest::control!(Retry);

#[cfg(test)]
mod tests;
