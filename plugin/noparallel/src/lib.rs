//! A filter that lets a disk work on one request at a time, like nbdkit's filter `noparallel`. It helps
//! with clients that cannot handle replies in another order than that of their requests, and shows what
//! parallel requests are good for.
//!
//! `serialize` is `requests`, the default, or `all-requests`. Both mean the same here: one request of
//! all clients is under way at a time. nbdkit's `connections`, which lets in one client at a time, does
//! not exist; `--max-connections-per-export 1` refuses further clients.
//!
//! All data pass through this component, in pieces of 1 MiB. Requests within one GiB of the disk, from
//! a multiple of 1 GiB on, are executed as a whole before the next begins; on larger disks, the pieces
//! of large requests to different parts may alternate.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Chunk, Description, Disk, Error, Extent, Filter, Lock, Lower,
    OpenRequest, Operation, Parameter, Place, Request, Route, Rules, StableRoute, ZeroOptions,
};

/// The longest read of a lower device.
const MAX_READ: u32 = 1 << 20;

/// The open disk.
#[derive(Clone, Debug)]
pub struct NoParallel {
    base: Lower,
}

impl Backend for NoParallel {
    fn describe() -> Description {
        Description::new(
            "noparallel",
            env!("CARGO_PKG_VERSION"),
            "another disk, with one request at a time",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::choice(
                "serialize",
                "which requests are executed one after the other; both mean all of them",
                &["requests", "all-requests"],
            )
            .default("requests"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self { base: request.device("base").ok_or(Error::EINVAL)? })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        // So that flushes come one at a time as well.
        Disk { capabilities: disk.capabilities | Capabilities::FLUSH, ..disk }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)
    }

    fn read_chunks(&mut self, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        if length <= MAX_READ {
            return self.base.read_chunks(offset, length);
        }
        Ok(vec![Chunk::data(length, |buffer| self.base.read(offset, buffer))?])
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        self.base.write(offset, data, fua)
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        self.base.zero(offset, length, options)
    }

    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        self.base.trim(offset, length, fua)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.base.flush()
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        self.base.extents(offset, length)
    }

    fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.base.cache(offset, length)
    }
}

impl Filter for NoParallel {
    fn rules(&self) -> Rules {
        Rules {
            read: Lock::Exclusive,
            cache: Lock::Exclusive,
            ..Rules::shared_or_exclusive(1 << 30)
        }
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        // The only instance gets one call at a time.
        Ok(Route::new().segment(Place::Own, request.length))
    }

    fn stable(&mut self, _operation: Operation, _offset: u64) -> Option<StableRoute> {
        // Such requests would take no lock.
        None
    }
}

memnbd_guest::filter!(NoParallel);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    fn open() -> NoParallel {
        let base = testing::device(4 << 20, Capabilities::WRITABLE | Capabilities::TRIM);
        NoParallel::open(&OpenRequest::default().with("base", Value::Device(base))).unwrap()
    }

    #[test]
    fn one_instance_gets_all_requests() {
        let mut disk = open();
        let capabilities = disk.disk().capabilities;
        assert!(!capabilities.contains(Capabilities::INTERCHANGEABLE));
        assert!(capabilities.contains(Capabilities::FLUSH | Capabilities::TRIM));
        for operation in Operation::ALL {
            assert_eq!(disk.stable(operation, 0), None);
            let route = disk.route(&Request::new(operation, 10, 20)).unwrap();
            assert_eq!(route, Route::new().segment(Place::Own, 20));
        }
        let rules = disk.rules();
        let locks = [rules.read, rules.write, rules.zero, rules.trim, rules.cache];
        assert_eq!(locks, [Lock::Exclusive; 5]);
    }

    #[test]
    fn requests_reach_the_device_beneath() {
        let mut disk = open();
        let mut data = vec![7; 3 << 20];
        let write = Request::new(Operation::Write, 1000, data.len() as u64);
        testing::serve(&mut disk, &write, &mut data).unwrap();
        testing::serve(&mut disk, &Request::new(Operation::Zero, 2000, 5), &mut []).unwrap();
        testing::serve(&mut disk, &Request::new(Operation::Trim, 3000, 5), &mut []).unwrap();
        let mut bytes = vec![0; data.len()];
        let read = Request { operation: Operation::Read, ..write };
        testing::serve(&mut disk, &read, &mut bytes).unwrap();
        data[1000..1005].fill(0);
        data[2000..2005].fill(0);
        assert!(bytes == data);
        let lengths = disk.read_chunks(1000, 3 << 20).unwrap();
        assert!(matches!(&lengths[..], [Chunk::Data(bytes)] if *bytes == data));
        assert!(disk.flush().is_ok() && disk.cache(0, 10).is_ok());
        assert!(!disk.extents(0, 10).unwrap().is_empty());
    }
}
