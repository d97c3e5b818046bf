//! The properties of a disk, and what its functions take and return.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::ops::{BitOr, BitOrAssign};

use crate::{Error, Geometry};

/// The largest disk, in bytes: NBD clients store offsets in signed 64-bit integers.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// The properties of an open disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The size in bytes, at most [`MAX_SIZE`].
    pub size: u64,
    /// The unit of offsets and lengths: a power of two from 1 to 65536.
    pub minimum_block: u32,
    /// The unit of efficient requests: a power of two, at least `minimum_block`, from 512 to 32 MiB.
    pub preferred_block: u32,
    /// The maximum length of a read or write: 0 for no limit, or a multiple of `minimum_block` that
    /// is at least `preferred_block`.
    pub maximum_transfer: u32,
    /// What the disk can do.
    pub capabilities: Capabilities,
    /// A one-line description of this disk for clients, possibly empty.
    pub description: Cow<'static, str>,
}

impl Disk {
    /// Returns a read-only disk in blocks of one byte that prefers 4 KiB and reads at most 1 MiB at
    /// once.
    ///
    /// The result of a read is built in the component's memory, which grows to fit the longest one
    /// and never shrinks. Therefore the maximum transfer is low.
    pub const fn new(size: u64) -> Self {
        Self {
            size,
            minimum_block: 1,
            preferred_block: 4096,
            maximum_transfer: 1 << 20,
            capabilities: Capabilities::NONE,
            description: Cow::Borrowed(""),
        }
    }

    /// Returns a disk with the size, the blocks and the capabilities of a lower device, for a
    /// filter that routes all requests there.
    ///
    /// Two capabilities are missing. Without [`FLUSH`](Capabilities::FLUSH), the host flushes the
    /// lower devices without a call of the component, which is right for a filter that keeps no
    /// data. [`INTERCHANGEABLE`](Capabilities::INTERCHANGEABLE) is the filter's own promise.
    pub const fn above(lower: &Geometry) -> Self {
        let own = Capabilities::FLUSH.union(Capabilities::INTERCHANGEABLE);
        Self {
            size: lower.size,
            minimum_block: lower.minimum_block,
            // The contract bounds the preferred block of a disk, but not that of a lower device.
            preferred_block: match lower.preferred_block {
                ..512 => 512,
                block @ 512..=0x200_0000 => block,
                _ => 0x200_0000,
            },
            maximum_transfer: 0,
            capabilities: lower.capabilities.without(own),
            description: Cow::Borrowed(""),
        }
    }

    /// Limits the reads and writes that the component gets itself to 1 MiB, or to a preferred block
    /// if that is longer. For a filter that routes parts of requests to itself: they are in its
    /// memory, which never shrinks.
    #[must_use]
    pub fn in_pieces(self) -> Self {
        Self { maximum_transfer: self.preferred_block.max(1 << 20), ..self }
    }

    /// Returns a disk of `size` bytes that is made of lower devices, each at an offset on the disk,
    /// for a filter that routes all requests there.
    ///
    /// The disk has the capabilities that all devices have, as in [`above`](Self::above); seeking
    /// is slow if it is slow on one of them. Its blocks are the largest of the devices' blocks, or
    /// smaller ones, such that the devices and the disk begin and end with whole blocks.
    pub fn joining(size: u64, devices: impl IntoIterator<Item = (u64, Geometry)>) -> Self {
        let mut disk = Self::new(size);
        let mut bounds = size;
        for (index, (offset, device)) in devices.into_iter().enumerate() {
            let next = Self::above(&device);
            bounds |= offset | (offset + device.size);
            if index == 0 {
                disk = Self { size, ..next };
                continue;
            }
            let slow = disk.capabilities.union(next.capabilities).0 & Capabilities::ROTATIONAL.0;
            disk.capabilities = Capabilities(disk.capabilities.0 & next.capabilities.0 | slow);
            disk.minimum_block = disk.minimum_block.max(next.minimum_block);
            disk.preferred_block = disk.preferred_block.max(next.preferred_block);
        }
        bounds |= u64::from(disk.minimum_block);
        Self { minimum_block: 1 << bounds.trailing_zeros(), ..disk }
    }
}

/// The capabilities of a disk, which can be combined with `|`. `wit/block-store.wit` has the
/// obligations that come with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u16);

impl Capabilities {
    /// The disk can only be read.
    pub const NONE: Self = Self(0);
    /// `write` works.
    pub const WRITABLE: Self = Self(1);
    /// `flush` works.
    pub const FLUSH: Self = Self(1 << 1);
    /// `write`, `zero` and `trim` honor `fua`.
    pub const FUA: Self = Self(1 << 2);
    /// `trim` works.
    pub const TRIM: Self = Self(1 << 3);
    /// `zero` works.
    pub const ZERO: Self = Self(1 << 4);
    /// `zero` honors `fast`.
    pub const FAST_ZERO: Self = Self(1 << 5);
    /// `cache` works.
    pub const CACHE: Self = Self(1 << 6);
    /// `extents` works.
    pub const EXTENTS: Self = Self(1 << 7);
    /// Clients may use several connections at once.
    pub const MULTI_CONN: Self = Self(1 << 8);
    /// Seeking is slow.
    pub const ROTATIONAL: Self = Self(1 << 9);
    /// Any number of instances may serve the disk: it has no state in the instance.
    pub const INTERCHANGEABLE: Self = Self(1 << 10);

    /// Returns true if all of `others` are among these.
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Returns the union, in constants.
    #[must_use]
    pub const fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Returns these without the others.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Returns the capabilities with these bits, in the order of the contract's flags.
    #[cfg(target_arch = "wasm32")]
    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Returns the bits in the order of the contract's flags.
    #[cfg(target_arch = "wasm32")]
    pub(crate) const fn bits(self) -> u16 {
        self.0
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        self.union(others)
    }
}

impl BitOrAssign for Capabilities {
    fn bitor_assign(&mut self, others: Self) {
        *self = self.union(others);
    }
}

/// A part of the result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The bytes themselves, at least one.
    Data(Vec<u8>),
    /// This many zero bytes that take no space, at least one.
    Hole(u32),
}

impl Chunk {
    /// Returns `length` bytes of data. `fill` receives zeroes and replaces them.
    ///
    /// # Errors
    ///
    /// Returns `ENOMEM` if there is not enough memory, and the error of `fill`.
    pub fn data(
        length: u32,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let length = length as usize;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| Error::ENOMEM)?;
        bytes.resize(length, 0);
        fill(&mut bytes)?;
        Ok(Self::Data(bytes))
    }
}

/// A run of bytes with the same allocation status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The length in bytes, at least one.
    pub length: u64,
    /// The status of all these bytes.
    pub status: Status,
}

/// The allocation status of a run of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// True if no space is allocated for the run.
    pub hole: bool,
    /// True if the run reads as zeroes.
    pub zero: bool,
}

impl Status {
    /// Allocated, with any content.
    pub const DATA: Self = Self { hole: false, zero: false };
    /// Not allocated, reading as zeroes.
    pub const HOLE: Self = Self { hole: true, zero: true };
    /// Allocated, reading as zeroes.
    pub const ZERO: Self = Self { hole: false, zero: true };
}

/// Options of `zero`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroOptions {
    /// Return once the zeroes are on stable storage. Set only if the disk has
    /// [`FUA`](Capabilities::FUA).
    pub fua: bool,
    /// Leave the range allocated.
    pub keep_allocated: bool,
    /// Be faster than writing zeroes, or fail at once with `ENOTSUP`. Set only if the disk has
    /// [`FAST_ZERO`](Capabilities::FAST_ZERO).
    pub fast: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_above_a_device_has_what_the_device_has() {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::FUA
            | Capabilities::TRIM
            | Capabilities::MULTI_CONN
            | Capabilities::EXTENTS;
        let own = Capabilities::FLUSH | Capabilities::INTERCHANGEABLE;
        let above = |preferred_block| {
            let capabilities = capabilities | own;
            Disk::above(&Geometry { size: 12345, minimum_block: 8, preferred_block, capabilities })
        };
        let disk = above(4096);
        assert_eq!((disk.size, disk.minimum_block, disk.preferred_block), (12345, 8, 4096));
        assert_eq!(disk.capabilities, capabilities);
        // A disk prefers blocks from 512 bytes to 32 MiB.
        assert_eq!(above(8).preferred_block, 512);
        assert_eq!(above(1 << 30).preferred_block, 32 << 20);
    }

    #[test]
    fn disk_that_joins_devices_has_what_all_of_them_have() {
        let (writable, rotational) = (Capabilities::WRITABLE, Capabilities::ROTATIONAL);
        let device = |size, block, capabilities| Geometry {
            size,
            minimum_block: block,
            preferred_block: 4096 * block,
            capabilities: capabilities | Capabilities::FLUSH,
        };
        let first = device(1024, 1, writable | Capabilities::TRIM);
        let second = device(512, 8, writable | rotational);
        let disk = Disk::joining(2048, [(0, first), (1024, second)]);
        assert_eq!((disk.size, disk.minimum_block, disk.preferred_block), (2048, 8, 32768));
        assert_eq!(disk.capabilities, writable | rotational);
        assert_eq!(Disk::joining(1025, [(1, first)]).minimum_block, 1);
        assert_eq!(Disk::joining(2052, [(1024, second)]).minimum_block, 4);
        assert_eq!(Disk::joining(2048, [(1024, second), (1028, second)]).minimum_block, 4);
        assert_eq!(Disk::joining(9, []), Disk::new(9));
    }
}
