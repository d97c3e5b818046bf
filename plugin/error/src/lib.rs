//! A filter that makes requests to another disk fail, like nbdkit's filter `error`. It tests how
//! clients handle errors.
//!
//! # Parameters of nbdkit
//!
//! `error` is the error, `EIO` by default, and `error-rate` the probability with which each request
//! fails, 0 by default. `error-pread`, `error-pread-rate` and so on are the same for one operation:
//! `pread`, `pwrite`, `trim`, `zero`, `extents` (block status) or `cache`. Of several parameters
//! that set the same, the last one holds. Flushing never fails.
//!
//! nbdkit's `error-file`, which limits errors to the time in which a file exists, does not exist
//! here: components see no files.
//!
//! # Additions
//!
//! A request *matches* if its operation has a rate above 0, it touches one of the ranges, and the disk
//! is in the right state.
//!
//! - `error-range=OFFSET:LENGTH` limits errors to requests that touch this range, like bad sectors.
//!   It can be repeated. Requests elsewhere cost no call of this component.
//! - `error-nth=N` lets only every Nth request that matches fail: the Nth, the 2Nth and so on,
//!   counted from the start over all operations. The rate then applies to these.
//! - `error-once=true` lets one request fail, and none after it. Together with `error-nth=N` this
//!   is exactly the Nth request that matches.
//! - `error-seed=N` makes the random numbers the same each time.
//! - `error-state=N` limits errors to a state of the disk, as with qemu's `blkdebug`. It begins in
//!   state 1.
//! - `error-set-state=EVENT:FROM:TO` switches the state from `FROM` to `TO` after a request, where
//!   `EVENT` is `pread`, `pwrite`, `zero`, `trim`, `cache` or `extents`. `EVENT:FROM:TO:OFFSET:LENGTH`
//!   is for requests that touch this range. It can be repeated; the first that applies holds.
//!
//! If `error-range`, `error-nth`, `error-once` or `error-state` is given, but no rate, all rates are
//! 100%, except for that of `extents`. This lets reads fail once something was written to the second
//! half of a disk:
//!
//! ```text
//! error-pread-rate=1 error-state=2 error-set-state=pwrite:1:2:512M:512M
//! ```
//!
//! One instance decides about all requests of the disk, in the order in which they arrive there. That
//! costs little, for a decision is short and no data are moved in it; but clients with several
//! requests in flight do not know this order.
//!
//! # Commands
//!
//! `set KEY=VALUE...` changes parameters while the disk is in use. Counting begins anew, and so do
//! the random numbers of `error-seed`, and the state is 1 again. `state` tells the state, and how many
//! requests matched and failed; `state state=N` goes to another state.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod injector;

use alloc::string::String;
use alloc::vec::Vec;

use memnbd_faults::{ERROR_NAMES, Rule};
use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Filter, Lower, OpenRequest,
    Operation, Parameter, Request, Route, StableRoute, withdraw_routes,
};

use injector::{Injector, NAMES, OPERATIONS};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Faulty {
    base: Lower,
    size: u64,
    injector: Injector,
    /// What the settings were made of.
    request: OpenRequest,
}

impl Backend for Faulty {
    fn describe() -> Description {
        let codes = ERROR_NAMES;
        let description = Description::new(
            "error",
            env!("CARGO_PKG_VERSION"),
            "another disk, some of whose requests fail",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(Parameter::choice("error", "the error", codes).default("EIO"))
        .parameter(
            Parameter::probability(NAMES.rate, "the probability with which a request fails")
                .default("0, or 100% with error-range, error-nth, error-once or error-state"),
        );
        let description = OPERATIONS.iter().fold(description, |description, (_, error, rate)| {
            description
                .parameter(
                    Parameter::choice(error, "the error of these requests", codes).default("error"),
                )
                .parameter(
                    Parameter::probability(rate, "the probability with which these fail")
                        .default("error-rate"),
                )
        });
        NAMES.declare(description)
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        let injector = Injector::open(request, size)?;
        Ok(Self { base, size, injector, request: request.clone() })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for Faulty {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        match self.injector.inject(request) {
            Some(code) => Err(Error::new(code).because("injected by the filter error")),
            None => Ok(self.base.pass(request)),
        }
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let length = self.injector.rule.safe(operation, offset, self.size)?;
        Some(StableRoute::new(self.base.at(offset), length))
    }
}

impl Control for Faulty {
    fn commands(&self) -> Vec<Command> {
        Rule::commands(Self::describe())
    }

    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error> {
        if let Some(told) = self.injector.rule.execute(command, arguments) {
            return Ok(told);
        }
        *self = Self::open(&self.request.changed(arguments))?;
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Faulty);
memnbd_guest::control!(Faulty);

#[cfg(test)]
mod tests;
