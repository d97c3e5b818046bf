//! A filter that masks the bytes of another disk with XOR, like nbdkit's filter `xor`. It hides content
//! from a glance, and protects from nothing else.
//!
//! - `xor=VALUE` masks with a number, decimal or hexadecimal after `0x`, the most significant byte first.
//!   `xorlen` is its length in bytes, 1 to 8; by default as many as it has. The mask repeats from the
//!   beginning of the disk on.
//! - `xor=rand` and `xor=rand:SEED` mask with random bytes that depend on the offset and the seed, 0 by
//!   default. They are other bytes than those of nbdkit.
//!
//! Zeroes are written as the mask, so zeroing is not faster than writing, and everything is reported as
//! data. Trims are not offered, for the disk beneath could return zeroes, which are the mask here; nbdkit
//! writes instead.
//!
//! The data pass through this component, in pieces of 1 MiB.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute, content,
};

/// What bytes are masked with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mask {
    /// Bytes that repeat, at least one.
    Bytes(Vec<u8>),
    /// Random words of 8 bytes.
    Random(u64),
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Xor {
    base: Lower,
    size: u64,
    mask: Mask,
}

fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // A sign is no digit.
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        None if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

impl Mask {
    fn parse(text: &str, length: Option<i64>) -> Result<Self, Error> {
        let seed = match text.strip_prefix("rand") {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix(':').and_then(parse_number),
            None => None,
        };
        if let Some(seed) = seed {
            return match length {
                None | Some(8) => Ok(Self::Random(seed)),
                Some(_) => Err(Error::EINVAL.because("xorlen is for xor=VALUE, not for xor=rand")),
            };
        }
        let Some(value) = parse_number(text) else {
            return Err(Error::EINVAL.because(format!(
                "xor must be a number such as 0x55, rand or rand:SEED, not {text:?}"
            )));
        };
        let least = (64 - value.leading_zeros()).div_ceil(8).max(1) as usize;
        // 1 to 8, checked by the host.
        let length = length.map_or(least, |length| length as usize);
        if length < least {
            return Err(Error::EINVAL.because(format!(
                "xor={text} has {least} bytes; xorlen={length} must be at least as much"
            )));
        }
        Ok(Self::Bytes(value.to_be_bytes()[8 - length..].to_vec()))
    }

    /// Masks bytes at an offset, or unmasks them.
    fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let (head, body) =
            bytes.split_at_mut(bytes.len().min((offset.wrapping_neg() % 8) as usize));
        self.apply_slowly(offset, head);
        let at = offset + head.len() as u64;
        let (words, tail) = body.as_chunks_mut::<8>();
        let tail_at = at + 8 * words.len() as u64;
        match self {
            Self::Random(seed) => {
                for (index, word) in words.iter_mut().enumerate() {
                    let mask = content::random_at(*seed, at / 8 + index as u64);
                    *word = (u64::from_le_bytes(*word) ^ mask).to_le_bytes();
                }
            }
            Self::Bytes(mask) if 8 % mask.len() == 0 => {
                let mut repeated = [0; 8];
                for (byte, mask) in repeated.iter_mut().zip(mask.iter().cycle()) {
                    *byte = *mask;
                }
                let mask = u64::from_le_bytes(repeated);
                for word in words {
                    *word = (u64::from_le_bytes(*word) ^ mask).to_le_bytes();
                }
            }
            Self::Bytes(_) => self.apply_slowly(at, words.as_flattened_mut()),
        }
        self.apply_slowly(tail_at, tail);
    }

    fn apply_slowly(&self, offset: u64, bytes: &mut [u8]) {
        match self {
            Self::Random(seed) => {
                for (at, byte) in (offset..).zip(bytes) {
                    let word = content::random_at(*seed, at / 8).to_le_bytes();
                    *byte ^= word[(at % 8) as usize];
                }
            }
            Self::Bytes(mask) => {
                let skipped = (offset % mask.len() as u64) as usize;
                for (byte, mask) in bytes.iter_mut().zip(mask.iter().cycle().skip(skipped)) {
                    *byte ^= *mask;
                }
            }
        }
    }
}

const fn is_masked(operation: Operation) -> bool {
    !matches!(operation, Operation::Cache)
}

impl Backend for Xor {
    fn describe() -> Description {
        Description::new("xor", env!("CARGO_PKG_VERSION"), "another disk, with masked bytes")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
            .parameter(
                Parameter::text("xor", "the mask: a number, or rand, or rand:SEED").required(),
            )
            .parameter(
                Parameter::number("xorlen", "the length of the number in bytes", 1, 8)
                    .default("as many as it has"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let mask = Mask::parse(request.text("xor").unwrap_or(""), request.number("xorlen"))?;
        Ok(Self { base, size: base.geometry().size, mask })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        let not_offered = Capabilities::ZERO
            | Capabilities::FAST_ZERO
            | Capabilities::TRIM
            | Capabilities::EXTENTS;
        let capabilities = disk.capabilities.without(not_offered) | Capabilities::INTERCHANGEABLE;
        Disk { capabilities, ..disk }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)?;
        self.mask.apply(offset, buffer);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        let mut masked = Vec::new();
        masked.try_reserve_exact(data.len()).map_err(|_| Error::ENOMEM)?;
        masked.extend_from_slice(data);
        self.mask.apply(offset, &mut masked);
        self.base.write(offset, &masked, fua)
    }
}

impl Filter for Xor {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(match is_masked(request.operation) {
            true => Route::new().segment(Place::Own, request.length),
            false => self.base.pass(request),
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let passed = self.base.pass_until(offset, self.size)?;
        Some(match is_masked(operation) {
            true => StableRoute::new(Place::Own, passed.length),
            false => passed,
        })
    }
}

memnbd_guest::filter!(Xor);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    const SIZE: u64 = 1000;

    fn open(mask: &str, length: Option<i64>) -> Result<Xor, Error> {
        let base = testing::device(SIZE, Capabilities::WRITABLE | Capabilities::TRIM);
        let request = OpenRequest::default()
            .with("base", Value::Device(base))
            .with("xor", Value::Text(mask.into()));
        Xor::open(&match length {
            Some(length) => request.with("xorlen", Value::Number(length)),
            None => request,
        })
    }

    fn read(disk: &mut Xor, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let request = Request::new(Operation::Read, offset, length as u64);
        testing::serve(disk, &request, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn mask_repeats_from_the_beginning_of_the_disk() {
        for (mask, length, bytes) in [
            ("0x55", None, &[0x55; 20][..]),
            ("0", None, &[0; 20]),
            ("258", None, &[1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]),
            ("0x010203", None, &[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]),
            ("1", Some(4), &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]),
            ("0x0102030405060708", None, &[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]),
        ] {
            let mut disk = open(mask, length).unwrap();
            assert_eq!(read(&mut disk, 0, bytes.len()), bytes, "{mask}");
        }
    }

    #[test]
    fn bytes_are_masked_and_unmasked_at_every_offset() {
        for mask in ["0x55", "0x0102", "0x010203", "0x01020304050607", "rand", "rand:7"] {
            let mut disk = open(mask, None).unwrap();
            let whole = read(&mut disk, 0, SIZE as usize);
            for (offset, length) in [(0, 1), (1, 30), (5, 3), (7, 17), (8, 8), (900, 100)] {
                let part = &whole[offset as usize..offset as usize + length];
                assert_eq!(read(&mut disk, offset, length), part, "{mask} {offset} {length}");
                let mut data: Vec<u8> = (0..length as u8).collect();
                let write = Request::new(Operation::Write, offset, length as u64);
                testing::serve(&mut disk, &write, &mut data).unwrap();
                assert_eq!(read(&mut disk, offset, length), data, "{mask} {offset} {length}");
                let mut beneath = vec![0; length];
                disk.base.read(offset, &mut beneath).unwrap();
                let masked: Vec<u8> = data.iter().zip(part).map(|(a, b)| a ^ b).collect();
                assert_eq!(beneath, masked);
                disk.base.zero(offset, length as u64, Default::default()).unwrap();
            }
        }
        let content = |mask| read(&mut open(mask, None).unwrap(), 0, 100);
        assert_eq!(content("rand"), content("rand:0"));
        assert_ne!(content("rand"), content("rand:1"));
    }

    #[test]
    fn masks_are_numbers_or_random() {
        for mask in ["", "x", "0x", "-1", "+1", "0x+1", "rand:", "rand:x", "random", "1 "] {
            assert!(open(mask, None).is_err(), "{mask}");
        }
        assert!(open("0x10000000000000000", None).is_err());
        assert!(open("0x100", Some(1)).is_err());
        assert!(open("rand", Some(4)).is_err());
        assert!(open("0xff", Some(1)).is_ok());
        assert!(open("rand:0xff", Some(8)).is_ok());
    }

    #[test]
    fn what_would_show_other_bytes_is_not_offered() {
        let capabilities = open("1", None).unwrap().disk().capabilities;
        for capability in [Capabilities::TRIM, Capabilities::ZERO, Capabilities::EXTENTS] {
            assert!(!capabilities.contains(capability));
        }
        assert!(capabilities.contains(Capabilities::WRITABLE));
    }
}
