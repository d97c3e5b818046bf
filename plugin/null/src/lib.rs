//! A component whose disk discards all writes and reads as zeroes. It measures what clients and the
//! host cost without a storage.

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
pub struct Null {
    size: u64,
}

impl Backend for Null {
    fn describe() -> Description {
        Description::new(
            "null",
            env!("CARGO_PKG_VERSION"),
            "a disk that discards writes and reads as zeroes",
        )
        .parameter(Parameter::size("size", "the size of the disk").default("0"))
        .bare_parameter("size")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self { size: request.size("size").unwrap_or(0) })
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::FLUSH
            | Capabilities::FUA
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
        Ok(())
    }

    fn zero(&mut self, _offset: u64, _length: u64, _options: ZeroOptions) -> Result<(), Error> {
        Ok(())
    }

    fn extents(&mut self, _offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        Ok(vec![Extent { length, status: Status::HOLE }])
    }
}

memnbd_guest::backend!(Null);

#[cfg(test)]
mod tests {
    use memnbd_guest::{MAX_SIZE, Value};

    use super::*;

    #[test]
    fn size_is_optional() {
        assert_eq!(Null::open(&OpenRequest::default()).unwrap().disk().size, 0);
        let request = OpenRequest::default().with("size", Value::Size(MAX_SIZE));
        assert_eq!(Null::open(&request).unwrap().disk().size, MAX_SIZE);
    }

    #[test]
    fn what_was_written_reads_as_a_hole() {
        let mut disk = Null { size: MAX_SIZE };
        disk.write(MAX_SIZE - 3, &[1, 2, 3], true).unwrap();
        assert_eq!(disk.read_chunks(MAX_SIZE - 3, 3), Ok(vec![Chunk::Hole(3)]));
        let hole = Extent { length: MAX_SIZE, status: Status::HOLE };
        assert_eq!(disk.extents(0, MAX_SIZE), Ok(vec![hole]));
    }
}
