//! A component whose disk contains its own offsets: every 8-byte word, at an offset that is a
//! multiple of 8, holds that offset as a big-endian number.
//!
//! Nothing is stored. A write succeeds if the data equals what the disk already holds, and fails
//! with `eio` otherwise. This exposes reads and writes at wrong offsets, anywhere on a disk of any
//! size. `zero` and `trim` are not supported, as neither could do anything.

#![cfg_attr(target_arch = "wasm32", no_std)]

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, OpenRequest, Parameter, content,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Pattern {
    size: u64,
    /// What replaces the upper 16 bits of every word.
    upper: Option<u16>,
}

impl Pattern {
    fn fill(&self, bytes: &mut [u8], offset: u64) {
        match self.upper {
            None => content::fill(bytes, offset, u64::to_be_bytes),
            Some(upper) => {
                let upper = u64::from(upper) << 48;
                content::fill(bytes, offset, |offset| (upper | offset << 16 >> 16).to_be_bytes());
            }
        }
    }
}

impl Backend for Pattern {
    fn describe() -> Description {
        Description::new(
            "pattern",
            env!("CARGO_PKG_VERSION"),
            "a disk whose every 8 bytes hold their own offset, big-endian",
        )
        .parameter(Parameter::size("size", "the size of the disk").required())
        .parameter(
            Parameter::number("upper", "the upper 16 bits of every word", 0, 0xffff)
                .default("those of the offset"),
        )
        .bare_parameter("size")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self {
            size: request.size("size").ok_or(Error::EINVAL)?,
            upper: request.number("upper").map(|upper| upper as u16),
        })
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::CACHE
            | Capabilities::MULTI_CONN
            | Capabilities::INTERCHANGEABLE;
        Disk { capabilities, ..Disk::new(self.size) }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.fill(buffer, offset);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        content::check(data, offset, |bytes, offset| self.fill(bytes, offset))
    }
}

memnbd_guest::backend!(Pattern);

#[cfg(test)]
mod tests {
    use memnbd_guest::{MAX_SIZE, Value};

    use super::*;

    fn pattern() -> Pattern {
        let request = OpenRequest::default().with("size", Value::Size(MAX_SIZE));
        Pattern::open(&request).unwrap()
    }

    fn read(pattern: &mut Pattern, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        pattern.read(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn words_hold_their_offset() {
        let mut disk = pattern();
        assert_eq!(read(&mut disk, 0, 16), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
        assert_eq!(
            read(&mut disk, 0x0123_4567_89ab_cde8, 8),
            [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xe8]
        );
        assert_eq!(read(&mut disk, 0x1238 + 6, 4), [0x12, 0x38, 0, 0]);
    }

    #[test]
    fn last_bytes_of_the_largest_disk_are_there() {
        let last = [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let mut disk = pattern();
        assert_eq!(read(&mut disk, MAX_SIZE - 7, 7), last);
        assert_eq!(disk.write(MAX_SIZE - 7, &last, false), Ok(()));
    }

    #[test]
    fn upper_bits_are_replaced() {
        let mut disk = Pattern { upper: Some(0xabcd), ..pattern() };
        let expected = [0xab, 0xcd, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xe8];
        assert_eq!(read(&mut disk, 0x0123_4567_89ab_cde8, 8), expected);
        assert_eq!(read(&mut disk, 0x0123_4567_89ab_cde9, 3), expected[1..4]);
    }

    #[test]
    fn only_the_content_can_be_written() {
        let mut disk = pattern();
        let mut bytes = read(&mut disk, 4093, 10_000);
        assert_eq!(disk.write(4093, &bytes, false), Ok(()));
        bytes[9_999] ^= 1;
        assert_eq!(disk.write(4093, &bytes, false).unwrap_err().code, Error::EIO.code);
    }
}
