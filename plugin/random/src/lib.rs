//! A component whose disk holds random bytes, which are the same every time for the same seed.
//!
//! Nothing is stored: every 8-byte word is computed from the seed and its offset. A write succeeds
//! if the data equals what the disk already holds, and fails with `eio` otherwise. `zero` and `trim`
//! fail at once, which is quicker than having zeroes refused by `write`. The bytes are not
//! cryptographically secure.
//!
//! Without `seed` the component chooses one and logs it. As every instance would choose another
//! one, such a disk has one instance.

#![cfg_attr(target_arch = "wasm32", no_std)]

use memnbd_guest::content::{self, Seed};
use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, OpenRequest, Parameter, ZeroOptions,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Random {
    size: u64,
    seed: Seed,
    words: u64,
}

impl Random {
    fn fill(&self, bytes: &mut [u8], offset: u64) {
        let words = self.words;
        content::fill(bytes, offset, |offset| content::random_at(words, offset / 8).to_le_bytes());
    }
}

impl Backend for Random {
    fn describe() -> Description {
        Description::new("random", env!("CARGO_PKG_VERSION"), "a disk of random bytes")
            .parameter(Parameter::size("size", "the size of the disk").required())
            .parameter(Seed::PARAMETER)
            .bare_parameter("size")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let size = request.size("size").ok_or(Error::EINVAL)?;
        let seed = Seed::from_request(request);
        Ok(Self { size, seed, words: seed.stream(0) })
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::TRIM
            | Capabilities::ZERO
            | Capabilities::CACHE
            | Capabilities::MULTI_CONN
            | self.seed.capabilities();
        Disk { capabilities, ..Disk::new(self.size) }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.fill(buffer, offset);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        content::check(data, offset, |bytes, offset| self.fill(bytes, offset))
    }

    fn zero(&mut self, _offset: u64, _length: u64, _options: ZeroOptions) -> Result<(), Error> {
        Err(Error::EIO.because("a disk of random bytes cannot be zeroed"))
    }

    fn trim(&mut self, _offset: u64, _length: u64, _fua: bool) -> Result<(), Error> {
        Err(Error::EIO.because("a disk of random bytes cannot be trimmed"))
    }
}

memnbd_guest::backend!(Random);

#[cfg(test)]
mod tests {
    use memnbd_guest::{ErrorCode, MAX_SIZE, Value};

    use super::*;

    fn request() -> OpenRequest {
        OpenRequest::default().with("size", Value::Size(MAX_SIZE))
    }

    fn random(seed: i64) -> Random {
        Random::open(&request().with("seed", Value::Number(seed))).unwrap()
    }

    fn read(disk: &mut Random, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        disk.read(offset, &mut bytes).unwrap();
        bytes
    }

    /// The content is part of the interface: the same seed gives the same bytes in all versions.
    #[test]
    fn seed_gives_these_bytes() {
        let first = [0x1e, 0x61, 0x39, 0x74, 0x08, 0xab, 0x41, 0x5e];
        assert_eq!(read(&mut random(1), 0, 8), first);
        assert_ne!(read(&mut random(2), 0, 8), first);
    }

    #[test]
    fn parts_are_the_bytes_of_the_whole() {
        let mut disk = random(7);
        for start in [0, MAX_SIZE - 100] {
            let whole = read(&mut disk, start, 100);
            for (from, to) in [(0, 1), (1, 9), (3, 5), (7, 100), (92, 100), (99, 100)] {
                let part = read(&mut disk, start + from as u64, to - from);
                assert_eq!(part, whole[from..to], "{start} {from} {to}");
            }
        }
    }

    #[test]
    fn all_bytes_are_about_equally_frequent() {
        let mut counts = [0_u32; 256];
        for byte in read(&mut random(3), 1 << 40, 256 * 1000) {
            counts[usize::from(byte)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_the_content_can_be_written() {
        let mut disk = random(0);
        let mut bytes = read(&mut disk, 4093, 10_000);
        assert_eq!(disk.write(4093, &bytes, false), Ok(()));
        bytes[9_999] ^= 1;
        assert_eq!(disk.write(4093, &bytes, false).unwrap_err().code, ErrorCode::Eio);
        let zeroed = disk.zero(0, MAX_SIZE, ZeroOptions::default());
        assert_eq!(zeroed.unwrap_err().code, ErrorCode::Eio);
        assert_eq!(disk.trim(0, MAX_SIZE, false).unwrap_err().code, ErrorCode::Eio);
    }

    #[test]
    fn disk_without_a_seed_has_one_instance() {
        let capabilities = |disk: Random| disk.disk().capabilities;
        assert!(capabilities(random(0)).contains(Capabilities::INTERCHANGEABLE));
        let unseeded = Random::open(&request()).unwrap();
        assert!(!capabilities(unseeded).contains(Capabilities::INTERCHANGEABLE));
    }
}
