//! A filter that makes another disk read-only, like nbdkit's filter `readonly`.
//!
//! Without a parameter the disk is read-only for good, and clients are told so.
//!
//! With `readonly=true` or `readonly=false` it can be switched while it is in use. Clients are then
//! told that it can be written, and writes, zeroing and trims fail with EPERM while it is read-only.
//! The command `set readonly=true` or `set readonly=false` switches it. It takes effect on requests that
//! come later; what was under way before is complete when the command returns.
//!
//! nbdkit's `readonly-file`, which does the same by a file that exists or not, does not exist here:
//! components see no files.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Argument, Backend, Capabilities, Command, Control, Description, Disk, Error, Filter, Lower,
    OpenRequest, Operation, Parameter, Request, Route, StableRoute, withdraw_routes,
};

/// The parameter.
const READ_ONLY: &str = "readonly";

/// The open disk.
#[derive(Clone, Debug)]
pub struct ReadOnly {
    base: Lower,
    is_read_only: bool,
    /// The disk can be switched, and is offered as one that can be written.
    is_switchable: bool,
}

impl ReadOnly {
    fn refuses(&self, operation: Operation) -> bool {
        self.is_read_only && operation.changes()
    }
}

impl Backend for ReadOnly {
    fn describe() -> Description {
        Description::new(
            "readonly",
            env!("CARGO_PKG_VERSION"),
            "another disk, read-only for good or until it is switched",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::boolean(READ_ONLY, "whether writes fail at first; it can be switched then")
                .default("true for good"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let parameter = request.boolean(READ_ONLY);
        let is_read_only = parameter.unwrap_or(true);
        Ok(Self { base, is_read_only, is_switchable: parameter.is_some() })
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::above(&self.base.geometry());
        if !self.is_switchable {
            disk.capabilities = disk.capabilities.without(Capabilities::WRITABLE);
        }
        disk
    }
}

impl Filter for ReadOnly {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if self.refuses(request.operation) {
            return Err(Error::EPERM.because("the disk is read-only until it is switched"));
        }
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if self.refuses(operation) {
            return None;
        }
        self.base.pass_all(offset)
    }
}

impl Control for ReadOnly {
    fn commands(&self) -> Vec<Command> {
        vec![Command::set(Self::describe())]
    }

    fn execute(&mut self, _: &str, arguments: &[Argument]) -> Result<String, Error> {
        let given = OpenRequest { arguments: arguments.to_vec(), ..OpenRequest::default() };
        let Some(is_read_only) = given.boolean(READ_ONLY) else { return Ok(String::new()) };
        if !self.is_switchable {
            return Err(Error::EINVAL.because(
                "the disk is read-only for good; to switch it, it must be opened with \
                 readonly=true or readonly=false",
            ));
        }
        self.is_read_only = is_read_only;
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(ReadOnly);
memnbd_guest::control!(ReadOnly);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    fn open(parameter: Option<bool>) -> ReadOnly {
        let base = testing::device(1000, Capabilities::WRITABLE | Capabilities::TRIM);
        let request = OpenRequest::default().with("base", Value::Device(base));
        let request = match parameter {
            Some(value) => request.with(READ_ONLY, Value::Boolean(value)),
            None => request,
        };
        ReadOnly::open(&request).unwrap()
    }

    fn set(disk: &mut ReadOnly, value: bool) -> Result<String, Error> {
        let value = Value::Boolean(value);
        disk.execute("set", &[Argument { name: READ_ONLY.into(), value }])
    }

    fn write(disk: &mut ReadOnly) -> Result<(), Error> {
        let result = testing::serve(disk, &Request::new(Operation::Write, 5, 3), &mut [1, 2, 3]);
        result.map_err(|error| Error::new(error.code))
    }

    #[test]
    fn without_the_parameter_the_disk_is_read_only_for_good() {
        let mut disk = open(None);
        assert!(!disk.disk().capabilities.contains(Capabilities::WRITABLE));
        assert_eq!(write(&mut disk), Err(Error::EPERM));
        assert!(set(&mut disk, false).unwrap_err().message.unwrap().contains("for good"));
        assert_eq!(write(&mut disk), Err(Error::EPERM));
        assert!(disk.stable(Operation::Read, 0).is_some());
    }

    #[test]
    fn command_switches() {
        let mut disk = open(Some(false));
        assert!(disk.disk().capabilities.contains(Capabilities::WRITABLE));
        assert_eq!(write(&mut disk), Ok(()));
        let withdrawals = testing::withdrawals();
        assert_eq!(set(&mut disk, true), Ok(String::new()));
        assert_eq!(testing::withdrawals(), withdrawals + 1);
        for operation in Operation::ALL {
            let refused = disk.route(&Request::new(operation, 0, 1)).is_err();
            assert_eq!(refused, operation.changes());
            assert_eq!(disk.stable(operation, 0).is_none(), operation.changes());
        }
        assert_eq!(write(&mut disk), Err(Error::EPERM));
        assert_eq!(set(&mut disk, false), Ok(String::new()));
        assert_eq!(write(&mut disk), Ok(()));
    }

    #[test]
    fn disk_that_begins_read_only_can_be_switched() {
        let mut disk = open(Some(true));
        assert!(disk.disk().capabilities.contains(Capabilities::WRITABLE));
        assert_eq!(write(&mut disk), Err(Error::EPERM));
        let mut bytes = [9; 3];
        disk.base.read(5, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 3]);
        set(&mut disk, false).unwrap();
        assert_eq!(write(&mut disk), Ok(()));
    }

    #[test]
    fn disk_has_one_instance() {
        let capabilities = open(Some(true)).disk().capabilities;
        assert!(!capabilities.contains(Capabilities::INTERCHANGEABLE));
    }
}
