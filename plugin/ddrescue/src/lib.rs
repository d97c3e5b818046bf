//! A filter that makes what GNU ddrescue could not rescue of a disk unreadable, like nbdkit's filter
//! `ddrescue`: an image has zeroes there, or nothing, and a program that looks at the image should see
//! what is missing.
//!
//! `ddrescue-mapfile` is the map file that ddrescue wrote along with the image. Reads that touch bytes
//! whose state in the map is not `+` fail with EIO, as do those of bytes that are not in the map. The
//! disk is read-only. The file is read once, and has at most 8 MiB. Lines that nbdkit skips because it
//! cannot read them are mistakes here, and a read may extend over rescued blocks that follow each other.
//!
//! Reads of what was rescued pass without a call of this component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_faults::{Ranges, rescued};
use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Ddrescue {
    base: Lower,
    size: u64,
    missing: Ranges,
}

impl Backend for Ddrescue {
    fn describe() -> Description {
        Description::new(
            "ddrescue",
            env!("CARGO_PKG_VERSION"),
            "another disk, read-only, as far as ddrescue could rescue it",
        )
        .parameter(Parameter::device("base", "the device beneath").required())
        .parameter(Parameter::file("ddrescue-mapfile", "the map file of GNU ddrescue").required())
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let file = request.device("ddrescue-mapfile").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        Ok(Self { base, size, missing: rescued(file, size)?.complement(size) })
    }

    fn disk(&self) -> Disk {
        use Capabilities as C;
        let disk = Disk::above(&self.base.geometry());
        let changes = C::WRITABLE | C::TRIM | C::ZERO | C::FAST_ZERO | C::FUA | C::CACHE;
        Disk { capabilities: disk.capabilities.without(changes) | C::INTERCHANGEABLE, ..disk }
    }
}

impl Filter for Ddrescue {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if request.operation == Operation::Read
            && self.missing.touches(request.offset, request.end())
        {
            return Err(Error::EIO.because("this was not rescued, says the map file"));
        }
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let end = match operation {
            Operation::Read => self.missing.next(offset).map_or(self.size, |range| range.start),
            _ => self.size,
        };
        self.base.pass_until(offset, end)
    }
}

memnbd_guest::filter!(Ddrescue);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    fn open(map: &[u8]) -> Result<Ddrescue, Error> {
        let base = testing::device(10_000, Capabilities::WRITABLE | Capabilities::CACHE);
        base.write(0, &[7; 10_000], false).unwrap();
        let file = testing::device(map.len() as u64, Capabilities::WRITABLE);
        file.write(0, map, false).unwrap();
        let request = OpenRequest::default()
            .with("base", Value::Device(base))
            .with("ddrescue-mapfile", Value::Device(file));
        Ddrescue::open(&request)
    }

    #[test]
    fn what_was_not_rescued_cannot_be_read() {
        let mut disk = open(b"0 +\n0 0x1000 +\n0x1000 512 -\n4608 392 +\n5000 1000 +\n").unwrap();
        let mut reads = |offset, length| {
            let mut bytes = vec![0; length];
            let request = Request::new(Operation::Read, offset, length as u64);
            testing::serve(&mut disk, &request, &mut bytes).map(|()| bytes == vec![7; length])
        };
        assert_eq!(reads(0, 4096), Ok(true));
        assert!(reads(0, 4097).is_err() && reads(4096, 1).is_err() && reads(4607, 10).is_err());
        assert_eq!(reads(4608, 1392), Ok(true), "over the edge of two blocks");
        assert!(reads(5999, 2).is_err(), "the map ends there");
        assert!(reads(9999, 1).is_err());
        assert_eq!(disk.stable(Operation::Read, 10).unwrap().length, 4086);
        assert_eq!(disk.stable(Operation::Read, 4608).unwrap().length, 1392);
        assert!(disk.stable(Operation::Read, 4600).is_none());
        assert_eq!(disk.stable(Operation::Extents, 4600).unwrap().length, 5400);
    }

    #[test]
    fn disk_is_read_only() {
        let capabilities = open(b"0 +\n").unwrap().disk().capabilities;
        for capability in [Capabilities::WRITABLE, Capabilities::CACHE, Capabilities::TRIM] {
            assert!(!capabilities.contains(capability));
        }
        assert!(capabilities.contains(Capabilities::EXTENTS | Capabilities::INTERCHANGEABLE));
    }

    #[test]
    fn wrong_maps_are_refused() {
        assert!(open(b"0 +\nhello\n").unwrap_err().message.unwrap().starts_with("line 2"));
    }
}
