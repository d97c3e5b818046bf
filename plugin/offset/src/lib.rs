//! A filter that serves a part of another disk, like nbdkit's filter `offset`.
//!
//! The part begins at `offset` and has `range` bytes; without `range` it ends where the disk
//! beneath ends. All requests are passed on to the disk beneath with a higher offset, without a
//! call of this component.
//!
//! The blocks of the disk are those of the disk beneath, or smaller ones if its blocks do not fit
//! into the part. So all of the part is served, whatever the offset.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Offset {
    base: Lower,
    offset: u64,
    size: u64,
}

impl Backend for Offset {
    fn describe() -> Description {
        Description::new("offset", env!("CARGO_PKG_VERSION"), "a part of another disk")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
            .parameter(
                Parameter::size("offset", "where the part begins, in the device beneath")
                    .default("0"),
            )
            .parameter(
                Parameter::size("range", "the length of the part")
                    .default("up to the end of the device beneath"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let offset = request.size("offset").unwrap_or(0);
        let available = base.geometry().size;
        let Some(rest) = available.checked_sub(offset) else {
            return Err(Error::EINVAL.because(format!(
                "offset={offset} is beyond the end of the device beneath, which has {available} \
                 bytes"
            )));
        };
        let size = request.size("range").unwrap_or(rest);
        if size > rest {
            return Err(Error::EINVAL.because(format!(
                "offset={offset} and range={size} end beyond the device beneath, which has \
                 {available} bytes; range must be at most {rest}"
            )));
        }
        Ok(Self { base, offset, size })
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::above(&self.base.geometry());
        disk.capabilities |= Capabilities::INTERCHANGEABLE;
        // The largest power of two that divides all three.
        let divisors = u64::from(disk.minimum_block) | self.offset | self.size;
        Disk { size: self.size, minimum_block: 1 << divisors.trailing_zeros(), ..disk }
    }
}

impl Filter for Offset {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(Route::lower(self.base.at(self.offset + request.offset), request.length))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let length = self.size.checked_sub(offset).filter(|length| *length > 0)?;
        Some(StableRoute::new(self.base.at(self.offset + offset), length))
    }
}

memnbd_guest::filter!(Offset);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Geometry, MAX_SIZE, Value, testing};

    use super::*;

    fn request(base: Lower, offset: Option<u64>, range: Option<u64>) -> OpenRequest {
        let mut request = OpenRequest::default().with("base", Value::Device(base));
        if let Some(offset) = offset {
            request = request.with("offset", Value::Size(offset));
        }
        if let Some(range) = range {
            request = request.with("range", Value::Size(range));
        }
        request
    }

    fn size(base: Lower, offset: Option<u64>, range: Option<u64>) -> Option<u64> {
        Offset::open(&request(base, offset, range)).ok().map(|opened| opened.disk().size)
    }

    #[test]
    fn part_must_be_within_the_device_beneath() {
        let base = testing::device(1000, Capabilities::NONE);
        assert_eq!(size(base, None, None), Some(1000));
        assert_eq!(size(base, Some(300), None), Some(700));
        assert_eq!(size(base, Some(300), Some(700)), Some(700));
        assert_eq!(size(base, None, Some(10)), Some(10));
        assert_eq!(size(base, Some(1000), None), Some(0));
        assert_eq!(size(base, Some(1001), None), None);
        assert_eq!(size(base, Some(300), Some(701)), None);
        assert_eq!(size(base, Some(MAX_SIZE), Some(MAX_SIZE)), None);
        let error = Offset::open(&request(base, Some(300), Some(701))).unwrap_err();
        assert!(error.message.unwrap().ends_with("range must be at most 700"));
    }

    #[test]
    fn requests_reach_the_device_beneath_at_a_higher_offset() {
        let base = testing::device(MAX_SIZE, Capabilities::WRITABLE);
        let mut disk = Offset::open(&request(base, Some(1 << 40), Some(100))).unwrap();
        let mut data = *b"hello";
        testing::serve(&mut disk, &Request::new(Operation::Write, 95, 5), &mut data).unwrap();
        let mut bytes = [0; 7];
        base.read((1 << 40) + 94, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0hello\0");
    }

    #[test]
    fn stable_routes_are_those_of_requests() {
        let base = testing::device(1000, Capabilities::NONE);
        let mut disk = Offset::open(&request(base, Some(300), Some(200))).unwrap();
        for operation in Operation::ALL {
            let stable = disk.stable(operation, 50).unwrap();
            let route = disk.route(&Request::new(operation, 50, 150)).unwrap();
            assert_eq!(Route::new().segment(stable.place, stable.length), route);
        }
    }

    #[test]
    fn blocks_divide_the_part() {
        let base = testing::device_with(Geometry {
            size: 1 << 20,
            minimum_block: 4096,
            preferred_block: 65536,
            capabilities: Capabilities::WRITABLE,
        });
        let block = |offset, range| {
            let opened = Offset::open(&request(base, Some(offset), range)).unwrap();
            opened.disk().minimum_block
        };
        assert_eq!(block(0, None), 4096);
        assert_eq!(block(8192, Some(4096)), 4096);
        assert_eq!(block(512, None), 512);
        assert_eq!(block(0, Some(1000)), 8);
        assert_eq!(block(1, None), 1);
    }

    #[test]
    fn capabilities_are_those_of_the_device_beneath() {
        let base = testing::device(1000, Capabilities::TRIM | Capabilities::WRITABLE);
        let capabilities = Offset::open(&request(base, None, None)).unwrap().disk().capabilities;
        let expected = Capabilities::WRITABLE | Capabilities::TRIM | Capabilities::INTERCHANGEABLE;
        assert!(capabilities.contains(expected));
        assert!(!capabilities.contains(Capabilities::FLUSH));
        let base = testing::device(1000, Capabilities::NONE);
        let capabilities = Offset::open(&request(base, None, None)).unwrap().disk().capabilities;
        assert!(!capabilities.contains(Capabilities::WRITABLE));
    }
}
