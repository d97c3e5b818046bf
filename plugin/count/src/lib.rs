//! A filter that counts the bytes that are read, written, zeroed and trimmed on another disk, like
//! nbdkit's filter `count`.
//!
//! When the disk is closed, the numbers go to the server's log, in nbdkit's words:
//!
//! ```text
//! count bytes: read 1073741824, written 4096, zeroed 0, trimmed 0
//! ```
//!
//! Requests that failed do not count. Prefetches, requests for block status and flushes cost no call; the
//! others are routed by one instance, each with two calls. A private disk of a client is discarded without
//! a line.
//!
//! # Commands
//!
//! `show` answers with the numbers, and `reset` begins anew.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Events, Filter, Level, Lower,
    OpenRequest, Operation, Parameter, Request, Results, Route, StableRoute, log,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Count {
    base: Lower,
    size: u64,
    /// The bytes of each operation.
    bytes: [u64; Operation::ALL.len()],
    /// The requests that have begun.
    begun: BTreeMap<u64, (Operation, u64)>,
    /// The number of requests so far.
    count: u64,
}

const fn is_counted(operation: Operation) -> bool {
    !matches!(operation, Operation::Cache | Operation::Extents)
}

impl Count {
    fn report(&self) -> String {
        let of = |operation: Operation| self.bytes[operation as usize];
        format!(
            "count bytes: read {}, written {}, zeroed {}, trimmed {}",
            of(Operation::Read),
            of(Operation::Write),
            of(Operation::Zero),
            of(Operation::Trim)
        )
    }
}

impl Backend for Count {
    fn describe() -> Description {
        Description::new(
            "count",
            env!("CARGO_PKG_VERSION"),
            "another disk, whose bytes are counted",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let bytes = [0; Operation::ALL.len()];
        Ok(Self { base, size: base.geometry().size, bytes, begun: BTreeMap::new(), count: 0 })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for Count {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        self.count += 1;
        self.begun.insert(self.count, (request.operation, request.length));
        Ok(self.base.pass(request).token(self.count))
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        if let Some((operation, length)) = self.begun.remove(&token)
            && results.succeeded()
        {
            let bytes = &mut self.bytes[operation as usize];
            *bytes = bytes.saturating_add(length);
        }
        Ok(())
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if is_counted(operation) {
            return None;
        }
        self.base.pass_until(offset, self.size)
    }
}

impl Events for Count {
    fn closing(&mut self) {
        log(Level::Info, &self.report());
    }
}

impl Control for Count {
    fn commands(&self) -> Vec<Command> {
        vec![
            Command::new("show", "answers with the numbers of bytes"),
            Command::new("reset", "begins anew"),
        ]
    }

    fn execute(&mut self, command: &str, _: &[Argument]) -> Result<String, Error> {
        if command == "show" {
            return Ok(self.report());
        }
        self.bytes = [0; Operation::ALL.len()];
        Ok(String::new())
    }
}

memnbd_guest::filter!(Count);
memnbd_guest::events!(Count);
memnbd_guest::control!(Count);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Capabilities, ErrorCode, Value, testing};

    use super::*;

    fn open() -> Count {
        let base = testing::device(1 << 20, Capabilities::WRITABLE | Capabilities::ZERO);
        Count::open(&OpenRequest::default().with("base", Value::Device(base))).unwrap()
    }

    #[test]
    fn bytes_of_each_operation_are_counted() {
        let mut disk = open();
        let mut serve = |operation, length| {
            let mut bytes = vec![0; length as usize];
            testing::serve(&mut disk, &Request::new(operation, 5, length), &mut bytes).unwrap();
        };
        for operation in Operation::ALL {
            serve(operation, 1 << operation as u64);
            serve(operation, 100);
        }
        let report = "count bytes: read 101, written 102, zeroed 104, trimmed 108";
        assert_eq!(disk.execute("show", &[]).unwrap(), report);
        assert!(disk.begun.is_empty());
        disk.execute("reset", &[]).unwrap();
        let report = "count bytes: read 0, written 0, zeroed 0, trimmed 0";
        assert_eq!(disk.execute("show", &[]).unwrap(), report);
    }

    #[test]
    fn requests_that_failed_do_not_count() {
        let mut disk = open();
        testing::fail(disk.base, Some(ErrorCode::Eio));
        let read = Request::new(Operation::Read, 0, 512);
        testing::serve(&mut disk, &read, &mut [0; 512]).unwrap_err();
        assert_eq!(disk.bytes, [0; Operation::ALL.len()]);
        assert!(disk.begun.is_empty());
    }

    #[test]
    fn what_is_not_counted_passes() {
        let mut disk = open();
        let passes = Operation::ALL.map(|operation| disk.stable(operation, 0).is_some());
        assert_eq!(passes, [false, false, false, false, true, true]);
    }
}
