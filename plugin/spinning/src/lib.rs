//! A filter that gives another disk the seek times of a hard disk, like nbdkit's filter `spinning`. It
//! shows how clients behave with a disk on which the order of requests matters.
//!
//! The disk has an arm with a head. Requests close to where the head is take little time, and those
//! further away take more, as the arm has to move there first. Requests that arrive meanwhile wait for
//! those that came before. Clients are told that the disk is rotational.
//!
//! The parameters of nbdkit are:
//!
//! - `heads`: the number of heads, 1 by default. Each has an equal part of the disk.
//! - `separate-heads=true`: each head has an arm of its own, and moves while others do. Otherwise one arm
//!   moves all of them, to the same place in their parts.
//! - `min-seek-time`, `half-seek-time` and `max-seek-time`: the time of the shortest seek, of one over half
//!   of a head's part, and of one over all of it. They are 10 ms, 200 ms and 500 ms by default, which is
//!   far more than real disks take. Between them the times are on a parabola.
//!
//! A seek of up to 128 KiB, a track, takes no time.
//!
//! These are additions:
//!
//! - `spinning-rpm`: how often the disk turns in a minute. A request that does not continue the one before
//!   has to wait until its first byte is under the head. By default there is no such wait.
//! - `spinning-rate`: how many bytes the disk transfers in a second. By default that takes no time.
//!
//! Unlike with nbdkit, all clients share the heads. A request takes 10 minutes at most. Trims,
//! prefetching, block status and flushes take no time.
//!
//! The command `set KEY=VALUE...` changes parameters while the disk is in use. All heads are at the
//! beginning then.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod arms;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Argument, Backend, Capabilities, Command, Control, Description, Disk, Error, Filter, Lower,
    OpenRequest, Operation, Parameter, Request, Route, StableRoute, uptime, withdraw_routes,
};

use arms::Arms;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Spinning {
    base: Lower,
    arms: Arms,
    request: OpenRequest,
}

impl Backend for Spinning {
    fn describe() -> Description {
        Description::new(
            "spinning",
            env!("CARGO_PKG_VERSION"),
            "another disk, with the seek times of a hard disk",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(Parameter::number("heads", "the number of heads", 1, 64).default("1"))
        .parameter(
            Parameter::boolean("separate-heads", "whether each head has an arm of its own")
                .default("false"),
        )
        .parameter(
            Parameter::duration("min-seek-time", "the time of the shortest seek").default("10ms"),
        )
        .parameter(
            Parameter::duration("half-seek-time", "the time of a seek over half of the disk")
                .default("200ms"),
        )
        .parameter(
            Parameter::duration("max-seek-time", "the time of a seek over the whole disk")
                .default("500ms"),
        )
        .parameter(
            Parameter::number("spinning-rpm", "how often the disk turns in a minute", 0, 1_000_000)
                .default("0, it is never waited for"),
        )
        .parameter(
            Parameter::size("spinning-rate", "how many bytes are transferred in a second")
                .default("0, transfers take no time"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let arms = Arms::open(request, base.geometry().size)?;
        Ok(Self { base, arms, request: request.clone() })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        Disk { capabilities: disk.capabilities | Capabilities::ROTATIONAL, ..disk }
    }
}

impl Filter for Spinning {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let route = self.base.pass(request);
        Ok(match request.operation {
            Operation::Read | Operation::Write | Operation::Zero => {
                // Zeroing has nothing to transfer.
                let bytes = if request.operation == Operation::Zero { 0 } else { request.length };
                route.delayed(self.arms.access(request.offset, bytes, uptime()))
            }
            Operation::Trim | Operation::Cache | Operation::Extents => route,
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        match operation {
            Operation::Read | Operation::Write | Operation::Zero => None,
            Operation::Trim | Operation::Cache | Operation::Extents => self.base.pass_all(offset),
        }
    }
}

impl Control for Spinning {
    fn commands(&self) -> Vec<Command> {
        vec![Command::set(Self::describe())]
    }

    fn execute(&mut self, _: &str, arguments: &[Argument]) -> Result<String, Error> {
        *self = Self::open(&self.request.changed(arguments))?;
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Spinning);
memnbd_guest::control!(Spinning);

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use memnbd_guest::{Value, testing};

    use super::*;

    const SIZE: u64 = 1 << 30;

    fn open() -> Spinning {
        testing::advance(Duration::ZERO);
        let base = testing::device(SIZE, Capabilities::WRITABLE | Capabilities::ZERO);
        Spinning::open(&OpenRequest::default().with("base", Value::Device(base))).unwrap()
    }

    #[test]
    fn requests_wait_for_those_before() {
        let mut disk = open();
        let mut delay = |operation, offset| {
            disk.route(&Request::new(operation, offset, 512)).unwrap().delay.as_millis()
        };
        assert_eq!(delay(Operation::Read, 0), 0);
        assert_eq!(delay(Operation::Write, SIZE / 2), 200);
        assert_eq!(delay(Operation::Zero, 0), 400);
        assert_eq!(delay(Operation::Trim, SIZE / 2), 0);
        testing::advance(Duration::from_millis(300));
        assert_eq!(delay(Operation::Read, 0), 100);
        testing::advance(Duration::from_millis(300));
        assert_eq!(delay(Operation::Read, 0), 0);
    }

    #[test]
    fn disk_is_rotational_and_only_what_takes_time_is_seen() {
        let mut disk = open();
        assert!(disk.disk().capabilities.contains(Capabilities::ROTATIONAL));
        for operation in Operation::ALL {
            let takes_time =
                matches!(operation, Operation::Read | Operation::Write | Operation::Zero);
            assert_eq!(disk.stable(operation, 0).is_none(), takes_time);
        }
        let faster = Argument {
            name: "half-seek-time".into(),
            value: Value::Duration(Duration::from_millis(20)),
        };
        disk.execute("set", &[faster]).unwrap();
        let route = disk.route(&Request::new(Operation::Read, SIZE / 2, 1)).unwrap();
        assert_eq!(route.delay.as_millis(), 20);
    }
}
