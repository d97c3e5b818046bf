//! A filter that hides which parts of another disk are allocated, like nbdkit's filter `noextents`.
//!
//! Clients are told that all of the disk is data. Where finding holes is slow, that saves time, and it
//! tests what clients do without the information. All other requests pass without a call of this
//! component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct NoExtents {
    base: Lower,
}

impl Backend for NoExtents {
    fn describe() -> Description {
        Description::new(
            "noextents",
            env!("CARGO_PKG_VERSION"),
            "another disk, without its allocation status",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self { base: request.device("base").ok_or(Error::EINVAL)? })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        // The host then reports everything as data.
        let capabilities = disk.capabilities.without(Capabilities::EXTENTS);
        Disk { capabilities: capabilities | Capabilities::INTERCHANGEABLE, ..disk }
    }
}

impl Filter for NoExtents {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        self.base.pass_all(offset)
    }
}

memnbd_guest::filter!(NoExtents);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    #[test]
    fn extents_are_all_that_is_missing() {
        let base = testing::device(1000, Capabilities::WRITABLE | Capabilities::TRIM);
        let request = OpenRequest::default().with("base", Value::Device(base));
        let mut opened = NoExtents::open(&request).unwrap();
        let disk = opened.disk();
        let above = Disk::above(&base.geometry());
        assert!(above.capabilities.contains(Capabilities::EXTENTS));
        let expected = above.capabilities.without(Capabilities::EXTENTS);
        assert_eq!(disk.capabilities, expected | Capabilities::INTERCHANGEABLE);
        assert_eq!(disk.size, 1000);
        for operation in Operation::ALL {
            assert_eq!(opened.stable(operation, 10), base.pass_all(10));
            let request = Request::new(operation, 10, 20);
            assert_eq!(opened.route(&request), Ok(Route::lower(base.at(10), 20)));
        }
    }
}
