//! A component whose disk reads as zeroes and has no space: everything that would change it fails
//! with `enospc`, as on a thinly provisioned disk that has run out of storage.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Chunk, Description, Disk, Error, Extent, OpenRequest, Parameter, Status,
    ZeroOptions,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Full {
    size: u64,
}

impl Backend for Full {
    fn describe() -> Description {
        Description::new(
            "full",
            env!("CARGO_PKG_VERSION"),
            "a disk of zeroes whose writes fail, as there is no space left",
        )
        .parameter(Parameter::size("size", "the size of the disk").required())
        .bare_parameter("size")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self { size: request.size("size").ok_or(Error::EINVAL)? })
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::TRIM
            | Capabilities::ZERO
            | Capabilities::FAST_ZERO
            | Capabilities::CACHE
            | Capabilities::EXTENTS
            | Capabilities::MULTI_CONN
            | Capabilities::INTERCHANGEABLE;
        Disk { capabilities, ..Disk::new(self.size) }
    }

    fn read(&mut self, _offset: u64, _buffer: &mut [u8]) -> Result<(), Error> {
        Ok(())
    }

    fn read_chunks(&mut self, _offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        Ok(vec![Chunk::Hole(length)])
    }

    fn write(&mut self, _offset: u64, _data: &[u8], _fua: bool) -> Result<(), Error> {
        Err(Error::ENOSPC)
    }

    fn zero(&mut self, _offset: u64, _length: u64, options: ZeroOptions) -> Result<(), Error> {
        Err(if options.fast { Error::ENOTSUP } else { Error::ENOSPC })
    }

    fn trim(&mut self, _offset: u64, _length: u64, _fua: bool) -> Result<(), Error> {
        Err(Error::ENOSPC)
    }

    fn extents(&mut self, _offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        Ok(vec![Extent { length, status: Status::HOLE }])
    }
}

memnbd_guest::backend!(Full);

#[cfg(test)]
mod tests {
    use memnbd_guest::{MAX_SIZE, Value};

    use super::*;

    fn full() -> Full {
        let request = OpenRequest::default().with("size", Value::Size(MAX_SIZE));
        Full::open(&request).unwrap()
    }

    #[test]
    fn size_is_required() {
        assert_eq!(full().disk().size, MAX_SIZE);
        assert_eq!(Full::open(&OpenRequest::default()).unwrap_err(), Error::EINVAL);
    }

    #[test]
    fn all_changes_fail_for_lack_of_space() {
        let mut disk = full();
        assert_eq!(disk.write(0, &[0], false), Err(Error::ENOSPC));
        assert_eq!(disk.trim(0, MAX_SIZE, false), Err(Error::ENOSPC));
        assert_eq!(disk.zero(0, MAX_SIZE, ZeroOptions::default()), Err(Error::ENOSPC));
        let fast = ZeroOptions { fast: true, ..ZeroOptions::default() };
        assert_eq!(disk.zero(0, MAX_SIZE, fast), Err(Error::ENOTSUP));
    }

    #[test]
    fn disk_is_one_hole() {
        let hole = Extent { length: MAX_SIZE, status: Status::HOLE };
        assert_eq!(full().extents(0, MAX_SIZE), Ok(vec![hole]));
        assert_eq!(full().read_chunks(MAX_SIZE - 1, 1), Ok(vec![Chunk::Hole(1)]));
    }
}
