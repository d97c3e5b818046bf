//! A filter that turns writes into checks, like nbdkit's filter `checkwrite`. It tests programs that copy.
//!
//! A write succeeds if the disk beneath has what is written, and fails with EIO otherwise. What is zeroed or
//! trimmed has to be zero there. The disk beneath is opened for reading only, and nothing is written to it.
//! So a program that copies a disk to itself through this filter gets an error if it copies wrongly:
//!
//! ```text
//! memnbd-host -U - --filter=checkwrite file disk.img --run 'nbdcopy "$uri" "$uri"'
//! ```
//!
//! Reads, prefetches and requests for block status pass without a call. Writes come to this component, in
//! pieces of 1 MiB. A request to zero or trim compares up to 4 GiB that the disk beneath does not report as
//! zero, and fails with EOVERFLOW if there are more.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute, ZeroOptions,
};

/// The bytes that are compared at once.
const PIECE: u64 = 256 << 10;

/// The most bytes that a request to zero or trim compares.
const MAX_COMPARED: u64 = 4 << 30;

/// The open disk.
#[derive(Clone, Debug)]
pub struct CheckWrite {
    base: Lower,
    size: u64,
}

fn mismatch() -> Error {
    Error::EIO.because("data written does not match expected")
}

impl CheckWrite {
    /// Checks that a range is zero.
    fn check_zero(&self, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset + length;
        let mut at = offset;
        let mut compared = 0;
        while at < end {
            for extent in self.base.extents(at, end - at)? {
                if !extent.status.zero {
                    compared += extent.length;
                    if compared > MAX_COMPARED {
                        return Err(Error::EOVERFLOW.because("too much would have to be compared"));
                    }
                    self.check_zero_data(at, extent.length)?;
                }
                at += extent.length;
            }
        }
        Ok(())
    }

    fn check_zero_data(&self, offset: u64, length: u64) -> Result<(), Error> {
        let mut bytes = vec![0; length.min(PIECE) as usize];
        let mut at = 0;
        while at < length {
            let piece = &mut bytes[..(length - at).min(PIECE) as usize];
            self.base.read(offset + at, piece)?;
            if piece.iter().any(|byte| *byte != 0) {
                return Err(mismatch());
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}

impl Backend for CheckWrite {
    fn describe() -> Description {
        Description::new(
            "checkwrite",
            env!("CARGO_PKG_VERSION"),
            "another disk, which must have already what is written",
        )
        .parameter(Parameter::device("base", "the device beneath").required())
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        Ok(Self { base, size: base.geometry().size })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        let capabilities = disk.capabilities
            | Capabilities::WRITABLE
            | Capabilities::FUA
            | Capabilities::TRIM
            | Capabilities::ZERO
            | Capabilities::FAST_ZERO
            | Capabilities::MULTI_CONN
            | Capabilities::INTERCHANGEABLE;
        Disk { capabilities, ..disk }
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        let mut bytes = vec![0; data.len().min(PIECE as usize)];
        let mut at = offset;
        for piece in data.chunks(PIECE as usize) {
            let there = &mut bytes[..piece.len()];
            self.base.read(at, there)?;
            if there != piece {
                return Err(mismatch());
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, _options: ZeroOptions) -> Result<(), Error> {
        self.check_zero(offset, length)
    }

    fn trim(&mut self, offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
        self.check_zero(offset, length)
    }
}

impl Filter for CheckWrite {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(match request.operation.changes() {
            true => Route::new().segment(Place::Own, request.length),
            false => self.base.pass(request),
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let passed = self.base.pass_until(offset, self.size)?;
        Some(match operation.changes() {
            true => StableRoute::new(Place::Own, passed.length),
            false => passed,
        })
    }
}

memnbd_guest::filter!(CheckWrite);

#[cfg(test)]
mod tests {
    use memnbd_guest::{ErrorCode, Value, testing};

    use super::*;

    const SIZE: u64 = 1 << 40;

    /// A disk with a line at 5000.
    fn open() -> CheckWrite {
        let base = testing::device(SIZE, Capabilities::WRITABLE);
        base.write(5000, b"line", false).unwrap();
        CheckWrite::open(&OpenRequest::default().with("base", Value::Device(base))).unwrap()
    }

    fn serve(operation: Operation, offset: u64, data: &mut [u8]) -> Result<(), ErrorCode> {
        let request = Request::new(operation, offset, data.len() as u64);
        testing::serve(&mut open(), &request, data).map_err(|error| error.code)
    }

    #[test]
    fn what_is_written_has_to_be_there() {
        assert_eq!(serve(Operation::Write, 5000, &mut b"line".to_owned()), Ok(()));
        assert_eq!(serve(Operation::Write, 5001, &mut b"ine\0".to_owned()), Ok(()));
        assert_eq!(serve(Operation::Write, 0, &mut [0; 5000]), Ok(()));
        let eio = Err(ErrorCode::Eio);
        assert_eq!(serve(Operation::Write, 5000, &mut b"Line".to_owned()), eio);
        assert_eq!(serve(Operation::Write, 0, &mut [0; 5001]), eio);
        let mut long = vec![0; 3 << 20];
        long[5000..5004].copy_from_slice(b"line");
        assert_eq!(serve(Operation::Write, 0, &mut long), Ok(()));
        long[(3 << 20) - 1] = 1;
        assert_eq!(serve(Operation::Write, 0, &mut long), eio);
    }

    #[test]
    fn what_is_zeroed_or_trimmed_has_to_be_zero() {
        for operation in [Operation::Zero, Operation::Trim] {
            for (offset, length, outcome) in [
                (0, 5000, Ok(())),
                (0, 5001, Err(ErrorCode::Eio)),
                (5003, 1, Err(ErrorCode::Eio)),
                (5004, SIZE - 5004, Ok(())),
                (0, SIZE, Err(ErrorCode::Eio)),
            ] {
                let request = Request::new(operation, offset, length);
                let served = testing::serve(&mut open(), &request, &mut []);
                assert_eq!(served.map_err(|error| error.code), outcome, "{offset} {length}");
            }
        }
    }

    #[test]
    fn other_requests_pass() {
        let mut disk = open();
        for operation in Operation::ALL {
            let stable = disk.stable(operation, 10).unwrap();
            let own = stable.place == Place::Own;
            assert_eq!((stable.length, own), (SIZE - 10, operation.changes()));
        }
        assert!(disk.disk().capabilities.contains(Capabilities::WRITABLE | Capabilities::TRIM));
    }
}
