//! A component whose disk repeats one byte, `0xff` by default, and discards all writes. In contrast
//! to that of `null`, all of the disk is data.

#![cfg_attr(target_arch = "wasm32", no_std)]

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, OpenRequest, Parameter, ZeroOptions,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Ones {
    size: u64,
    byte: u8,
}

impl Backend for Ones {
    fn describe() -> Description {
        Description::new(
            "ones",
            env!("CARGO_PKG_VERSION"),
            "a disk that repeats one byte and discards writes",
        )
        .parameter(Parameter::size("size", "the size of the disk").default("0"))
        .parameter(Parameter::number("byte", "the byte", 0, 0xff).default("0xff"))
        .bare_parameter("size")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self {
            size: request.size("size").unwrap_or(0),
            byte: request.number("byte").unwrap_or(0xff) as u8,
        })
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::FLUSH
            | Capabilities::FUA
            | Capabilities::TRIM
            | Capabilities::ZERO
            | Capabilities::FAST_ZERO
            | Capabilities::CACHE
            | Capabilities::MULTI_CONN
            | Capabilities::INTERCHANGEABLE;
        Disk { capabilities, ..Disk::new(self.size) }
    }

    fn read(&mut self, _offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        buffer.fill(self.byte);
        Ok(())
    }

    fn write(&mut self, _offset: u64, _data: &[u8], _fua: bool) -> Result<(), Error> {
        Ok(())
    }

    fn zero(&mut self, _offset: u64, _length: u64, _options: ZeroOptions) -> Result<(), Error> {
        Ok(())
    }
}

memnbd_guest::backend!(Ones);

#[cfg(test)]
mod tests {
    use memnbd_guest::{MAX_SIZE, Value};

    use super::*;

    fn read(disk: &mut Ones, offset: u64) -> [u8; 3] {
        let mut bytes = [0; 3];
        disk.read(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn byte_is_all_ones_by_default() {
        let mut disk = Ones::open(&OpenRequest::default()).unwrap();
        assert_eq!(disk.disk().size, 0);
        assert_eq!(read(&mut disk, 0), [0xff; 3]);
    }

    #[test]
    fn other_byte_repeats_in_spite_of_writes() {
        let request = OpenRequest::default()
            .with("size", Value::Size(MAX_SIZE))
            .with("byte", Value::Number(0x5a));
        let mut disk = Ones::open(&request).unwrap();
        disk.write(MAX_SIZE - 3, &[1, 2, 3], false).unwrap();
        disk.zero(0, MAX_SIZE, ZeroOptions::default()).unwrap();
        assert_eq!(read(&mut disk, MAX_SIZE - 3), [0x5a; 3]);
    }
}
