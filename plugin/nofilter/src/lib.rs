//! A filter that changes nothing, like nbdkit's filter `nofilter`. It is for tests: no request costs a
//! call of it.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct NoFilter {
    base: Lower,
}

impl Backend for NoFilter {
    fn describe() -> Description {
        Description::new("nofilter", env!("CARGO_PKG_VERSION"), "another disk, as it is")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self { base: request.device("base").ok_or(Error::EINVAL)? })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        Disk { capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE, ..disk }
    }
}

impl Filter for NoFilter {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        self.base.pass_all(offset)
    }
}

memnbd_guest::filter!(NoFilter);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    #[test]
    fn everything_passes() {
        let base = testing::device(1000, Capabilities::WRITABLE | Capabilities::TRIM);
        let request = OpenRequest::default().with("base", Value::Device(base));
        let mut disk = NoFilter::open(&request).unwrap();
        assert_eq!((disk.disk().size, disk.disk().minimum_block), (1000, 1));
        assert!(disk.disk().capabilities.contains(Capabilities::WRITABLE | Capabilities::TRIM));
        for operation in Operation::ALL {
            let stable = disk.stable(operation, 7).unwrap();
            assert_eq!(stable, StableRoute::new(base.at(7), 993));
            let route = disk.route(&Request::new(operation, 7, 5)).unwrap();
            assert_eq!(route, Route::lower(base.at(7), 5));
        }
    }
}
