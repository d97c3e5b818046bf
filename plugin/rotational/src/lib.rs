//! A filter that says whether seeking is slow on another disk, like nbdkit's filter `rotational`.
//!
//! With `rotational=true`, the default, clients are told that the disk is one that rotates, and may
//! sort their requests. With `rotational=false` they are told that it is not. Nothing else changes, and
//! requests cost no call of this component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Rotational {
    base: Lower,
    rotational: bool,
}

impl Backend for Rotational {
    fn describe() -> Description {
        Description::new(
            "rotational",
            env!("CARGO_PKG_VERSION"),
            "another disk, on which seeking is said to be slow or not",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::boolean("rotational", "whether seeking is said to be slow").default("true"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        Ok(Self { base, rotational: request.boolean("rotational").unwrap_or(true) })
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::above(&self.base.geometry());
        disk.capabilities = disk.capabilities.without(Capabilities::ROTATIONAL);
        disk.capabilities |= Capabilities::INTERCHANGEABLE;
        if self.rotational {
            disk.capabilities |= Capabilities::ROTATIONAL;
        }
        disk
    }
}

impl Filter for Rotational {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        self.base.pass_all(offset)
    }
}

memnbd_guest::filter!(Rotational);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    fn open(base: Capabilities, rotational: Option<bool>) -> Rotational {
        let base = testing::device(1000, base);
        let request = OpenRequest::default().with("base", Value::Device(base));
        let request = match rotational {
            Some(value) => request.with("rotational", Value::Boolean(value)),
            None => request,
        };
        Rotational::open(&request).unwrap()
    }

    #[test]
    fn parameter_replaces_what_the_device_beneath_says() {
        for base in [Capabilities::WRITABLE, Capabilities::WRITABLE | Capabilities::ROTATIONAL] {
            for (parameter, expected) in [(None, true), (Some(true), true), (Some(false), false)] {
                let capabilities = open(base, parameter).disk().capabilities;
                assert_eq!(capabilities.contains(Capabilities::ROTATIONAL), expected);
                assert!(capabilities.contains(Capabilities::WRITABLE));
            }
        }
    }

    #[test]
    fn all_requests_pass() {
        let mut disk = open(Capabilities::WRITABLE, None);
        for operation in Operation::ALL {
            assert_eq!(disk.stable(operation, 10), disk.base.pass_all(10));
            assert_eq!(disk.stable(operation, 1000), None);
            let request = Request::new(operation, 10, 20);
            assert_eq!(disk.route(&request), Ok(Route::lower(disk.base.at(10), 20)));
        }
    }
}
