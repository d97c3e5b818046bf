//! A component whose read-only disk of 100 MiB has a partition table with one empty partition. It is
//! an example of a backend that implements no more than it has to.

#![cfg_attr(target_arch = "wasm32", no_std)]

use memnbd_guest::{Backend, Capabilities, Description, Disk, Error, OpenRequest};

const SIZE: u64 = 100 << 20;

/// The first sector, a master boot record. Everything after it is zero.
const BOOT_SECTOR: [u8; 512] = boot_sector();

/// The first sector of the partition.
const PARTITION_START: u32 = 2048;
/// The number of sectors of the partition, which ends where the disk ends.
const PARTITION_LENGTH: u32 = (SIZE / 512) as u32 - PARTITION_START;

const fn boot_sector() -> [u8; 512] {
    let [s0, s1, s2, s3] = PARTITION_START.to_le_bytes();
    let [l0, l1, l2, l3] = PARTITION_LENGTH.to_le_bytes();
    // The first entry of the partition table: not active, and of type Linux. The first and the last
    // cylinder, head and sector refer readers to the sector numbers that follow.
    let entry = [0x00, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, s0, s1, s2, s3, l0, l1, l2, l3];
    let mut sector = [0; 512];
    sector.split_at_mut(446).1.split_at_mut(16).0.copy_from_slice(&entry);
    sector[510] = 0x55;
    sector[511] = 0xaa;
    sector
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Example1;

impl Backend for Example1 {
    fn describe() -> Description {
        Description::new(
            "example1",
            env!("CARGO_PKG_VERSION"),
            "an example: a read-only disk of 100 MiB with one empty partition",
        )
    }

    fn open(_request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self)
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::MULTI_CONN | Capabilities::INTERCHANGEABLE;
        Disk { capabilities, ..Disk::new(SIZE) }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        if let Some(sector) = BOOT_SECTOR.get(offset as usize..) {
            let length = sector.len().min(buffer.len());
            buffer[..length].copy_from_slice(&sector[..length]);
        }
        Ok(())
    }
}

memnbd_guest::backend!(Example1);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Example1.read(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn partition_fills_the_disk() {
        let sector = read(0, 512);
        assert_eq!(sector[510..], [0x55, 0xaa]);
        let number = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from(number(446 + 8)), 2048);
        assert_eq!(u64::from(number(446 + 8) + number(446 + 12)) * 512, SIZE);
        assert!(sector[462..510].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn first_sector_ends_where_zeroes_begin() {
        assert_eq!(read(509, 5), [0, 0x55, 0xaa, 0, 0]);
        assert_eq!(read(511, 1), [0xaa]);
        assert_eq!(read(512, 3), [0; 3]);
        assert_eq!(read(SIZE - 3, 3), [0; 3]);
    }
}
