//! The bytes of a GPT: the protective MBR, and two copies of the header and the partition array.

use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::crc32;

use crate::config::Partition;
use crate::layout::{Placed, SECTOR};
use crate::mbr;

/// The least number of entries of the array, and the number by which it grows. More than that may
/// be too many for some clients.
const MIN_ENTRIES: usize = 128;

/// The length of an entry.
const ENTRY: usize = 128;

/// The length of the header: that of the specification, and 4 bytes of padding, as in nbdkit.
const HEADER: usize = 96;

/// The attribute of a partition from which a BIOS may boot.
const BOOTABLE: u64 = 1 << 2;

fn entries(count: usize) -> usize {
    count.next_multiple_of(MIN_ENTRIES)
}

/// Returns the number of sectors that the array takes.
pub(crate) fn array_sectors(count: usize) -> u64 {
    (entries(count) * ENTRY) as u64 / SECTOR
}

/// Returns the tables at the beginning and at the end of the disk, with their offsets.
pub(crate) fn tables(
    partitions: &[Partition],
    placed: &[Placed],
    size: u64,
) -> Vec<(u64, Vec<u8>)> {
    let array = array(partitions, placed);
    let sectors = size / SECTOR;
    let array_sectors = array_sectors(partitions.len());
    let backup = sectors - 1 - array_sectors;
    let header = |own, other, array_at| {
        let usable = (2 + array_sectors, backup - 1);
        Header { own, other, usable, array_at }.bytes(&array)
    };
    let mut first = mbr::protective(size);
    first.extend(header(1, sectors - 1, 2));
    first.extend(&array);
    let mut last = array.clone();
    last.extend(header(sectors - 1, 1, backup));
    vec![(0, first), (backup * SECTOR, last)]
}

/// Returns the partition array.
fn array(partitions: &[Partition], placed: &[Placed]) -> Vec<u8> {
    let mut array = vec![0; entries(partitions.len()) * ENTRY];
    let described = partitions.iter().zip(placed).enumerate();
    for (entry, (index, (partition, place))) in array.chunks_exact_mut(ENTRY).zip(described) {
        let attributes = if index == 0 { BOOTABLE } else { 0 };
        entry[..16].copy_from_slice(&partition.type_guid);
        entry[16..32].copy_from_slice(&partition.unique_guid);
        entry[32..40].copy_from_slice(&(place.start / SECTOR).to_le_bytes());
        entry[40..48].copy_from_slice(&((place.end() - 1) / SECTOR).to_le_bytes());
        entry[48..56].copy_from_slice(&attributes.to_le_bytes());
        entry[56..].copy_from_slice(&partition.name);
    }
    array
}

/// What the two headers do not have in common, and the sectors that partitions may use.
struct Header {
    /// The sector of this header.
    own: u64,
    /// The sector of the other header.
    other: u64,
    /// The first and the last sector that partitions may use.
    usable: (u64, u64),
    /// The first sector of the array that belongs to this header.
    array_at: u64,
}

impl Header {
    /// Returns the sector. The GUID of the disk is zero, as in nbdkit.
    fn bytes(&self, array: &[u8]) -> Vec<u8> {
        let mut header = Vec::with_capacity(SECTOR as usize);
        header.extend(b"EFI PART");
        header.extend([0, 0, 1, 0]);
        header.extend((HEADER as u32).to_le_bytes());
        // The checksum of the header, and a reserved field.
        header.extend([0; 8]);
        for sector in [self.own, self.other, self.usable.0, self.usable.1] {
            header.extend(sector.to_le_bytes());
        }
        header.extend([0; 16]);
        header.extend(self.array_at.to_le_bytes());
        header.extend(((array.len() / ENTRY) as u32).to_le_bytes());
        header.extend((ENTRY as u32).to_le_bytes());
        header.extend(crc32(array).to_le_bytes());
        header.resize(SECTOR as usize, 0);
        let checksum = crc32(&header[..HEADER]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_grows_in_steps_of_the_smallest_one() {
        assert_eq!([1, 128, 129, 1000].map(array_sectors), [32, 32, 64, 256]);
    }
}
