//! A filter that changes forced unit access (FUA) and flushes of another disk, like nbdkit's filter
//! `fua`. With FUA, a write is on stable storage before it is complete.
//!
//! `fuamode` is one of:
//!
//! - `none`, the default, or `emulate`: the disk beneath gets no FUA. After a request with FUA it is
//!   flushed. nbdkit does not offer FUA to clients with `none`; here it is offered with both, because
//!   the host always does.
//! - `native` or `pass`: everything passes.
//! - `force`: all writes, zeroing and trims have FUA, and flushes do nothing.
//! - `discard`: the disk beneath gets neither FUA nor flushes. What was written may be lost in a crash.
//!
//! With `force`, requests without FUA go through this component, and with the other modes but `native`
//! and `pass` those with FUA. All others are only moved.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute, ZeroOptions,
};

/// What happens to FUA and flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Emulate,
    Pass,
    Force,
    Discard,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Fua {
    base: Lower,
    mode: Mode,
}

impl Fua {
    /// Returns true if the device beneath gets FUA with what this component passes on itself.
    fn forces(&self) -> bool {
        self.mode == Mode::Force
    }
}

impl Backend for Fua {
    fn describe() -> Description {
        Description::new(
            "fua",
            env!("CARGO_PKG_VERSION"),
            "another disk, with another forced unit access",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::choice(
                "fuamode",
                "FUA becomes a flush, passes, is added to all requests, or is discarded with flushes",
                &["none", "emulate", "native", "force", "pass", "discard"],
            )
            .default("none"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let mode = match request.text("fuamode") {
            Some("native" | "pass") => Mode::Pass,
            Some("force") => Mode::Force,
            Some("discard") => Mode::Discard,
            _ => Mode::Emulate,
        };
        Ok(Self { base: request.device("base").ok_or(Error::EINVAL)?, mode })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        let mut capabilities = disk.capabilities | Capabilities::INTERCHANGEABLE;
        if self.mode != Mode::Pass {
            // The host then calls `flush` after a request with FUA that comes here.
            capabilities = capabilities.without(Capabilities::FUA) | Capabilities::FLUSH;
        }
        Disk { capabilities, ..disk }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        self.base.write(offset, data, self.forces())
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        self.base.zero(offset, length, ZeroOptions { fua: self.forces(), ..options })
    }

    fn trim(&mut self, offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
        self.base.trim(offset, length, self.forces())
    }

    fn flush(&mut self) -> Result<(), Error> {
        match self.mode {
            Mode::Emulate | Mode::Pass => self.base.flush(),
            Mode::Force | Mode::Discard => Ok(()),
        }
    }
}

impl Filter for Fua {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let changes = match self.mode {
            Mode::Pass => false,
            Mode::Force => request.operation.changes() && !request.fua,
            Mode::Emulate | Mode::Discard => request.fua,
        };
        Ok(if changes {
            Route::new().segment(Place::Own, request.length)
        } else {
            self.base.pass(request)
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if operation.changes() && self.mode != Mode::Pass {
            return None;
        }
        self.base.pass_all(offset)
    }
}

memnbd_guest::filter!(Fua);

#[cfg(test)]
mod tests {
    use memnbd_guest::{ErrorCode, Value, testing};

    use super::*;

    fn open(mode: Option<&str>) -> Fua {
        let base = testing::device(1000, Capabilities::WRITABLE | Capabilities::TRIM);
        let request = OpenRequest::default().with("base", Value::Device(base));
        let request = match mode {
            Some(mode) => request.with("fuamode", Value::Text(mode.into())),
            None => request,
        };
        Fua::open(&request).unwrap()
    }

    /// Which requests go through the component: those without FUA, and those with.
    fn own(disk: &mut Fua, operation: Operation) -> (bool, bool) {
        let request = Request::new(operation, 10, 20);
        let (passed, own) = (disk.base.pass(&request), Route::new().segment(Place::Own, 20));
        let mut is_own = |fua| {
            let route = disk.route(&Request { fua, ..request }).unwrap();
            assert!(route == passed || route == own);
            route == own
        };
        (is_own(false), is_own(true))
    }

    #[test]
    fn mode_decides_which_requests_are_changed() {
        for (mode, expected) in [
            (None, (false, true)),
            (Some("none"), (false, true)),
            (Some("emulate"), (false, true)),
            (Some("native"), (false, false)),
            (Some("pass"), (false, false)),
            (Some("force"), (true, false)),
            (Some("discard"), (false, true)),
        ] {
            let mut disk = open(mode);
            for operation in Operation::ALL.into_iter().filter(|one| one.changes()) {
                assert_eq!(own(&mut disk, operation), expected, "{mode:?}");
                let is_stable = disk.stable(operation, 0).is_some();
                assert_eq!(is_stable, expected == (false, false), "{mode:?}");
            }
            for operation in [Operation::Read, Operation::Extents, Operation::Cache] {
                assert_eq!(disk.stable(operation, 10), disk.base.pass_all(10));
            }
        }
    }

    #[test]
    fn flushes_pass_or_do_nothing() {
        for (mode, passes, own) in [
            ("none", true, true),
            ("emulate", true, true),
            ("native", true, false),
            ("force", false, true),
            ("discard", false, true),
        ] {
            let mut disk = open(Some(mode));
            let capabilities = disk.disk().capabilities;
            assert_eq!(capabilities.contains(Capabilities::FLUSH), own, "{mode}");
            // With a flush of its own, the host never passes FUA to the component.
            assert_eq!(capabilities.contains(Capabilities::FUA), !own, "{mode}");
            testing::fail(disk.base, Some(ErrorCode::Eio));
            assert_eq!(disk.flush().is_err(), passes, "{mode}");
        }
    }

    #[test]
    fn changed_requests_reach_the_device_beneath() {
        let mut disk = open(Some("force"));
        testing::serve(&mut disk, &Request::new(Operation::Write, 5, 4), &mut [1, 2, 3, 4])
            .unwrap();
        testing::serve(&mut disk, &Request::new(Operation::Zero, 5, 1), &mut []).unwrap();
        testing::serve(&mut disk, &Request::new(Operation::Trim, 8, 1), &mut []).unwrap();
        let mut bytes = [9; 4];
        testing::serve(&mut disk, &Request::new(Operation::Read, 5, 4), &mut bytes).unwrap();
        assert_eq!(bytes, [0, 2, 3, 0]);
    }
}
