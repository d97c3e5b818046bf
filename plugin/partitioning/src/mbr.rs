//! The bytes of an MBR, and of the extended boot records of logical partitions.

use alloc::vec;
use alloc::vec::Vec;

use crate::config::Partition;
use crate::layout::{MAX_MBR_SECTORS, Placed, SECTOR};

/// The offset of the first entry in a boot record.
const ENTRIES: usize = 0x1be;

/// The length of an entry.
const ENTRY: usize = 16;

/// The type byte of an extended partition.
const EXTENDED: u8 = 0x0f;

/// The type byte of a partition that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// The largest address as cylinder, head and sector, which stands for any larger one.
const LARGEST_CHS: [u8; 3] = [0xfe, 0xff, 0xff];

/// Returns the MBR and the extended boot records, with their offsets.
///
/// With logical partitions, the extended partition is the fourth primary one. It begins with the
/// first boot record and ends with the disk. The boot records are a list: each describes its
/// partition, relative to itself, and the next boot record with its partition, relative to the
/// extended partition.
pub(crate) fn tables(
    partitions: &[Partition],
    placed: &[Placed],
    size: u64,
) -> Vec<(u64, Vec<u8>)> {
    let mut record = boot_record();
    let mut index = 0;
    let mut records = Vec::new();
    for (partition, place) in partitions.iter().zip(placed) {
        let Some(own) = place.boot_record else {
            let entry = entry(index == 0, partition.mbr_id, place.start, place.size);
            set_entry(&mut record, index, entry);
            index += 1;
            continue;
        };
        let mut extended = boot_record();
        let entry = entry(false, partition.mbr_id, place.start - own, place.size);
        set_entry(&mut extended, 0, entry);
        records.push((own, place.end(), extended));
    }
    let Some(first) = records.first().map(|(own, ..)| *own) else {
        return vec![(0, record)];
    };
    set_entry(&mut record, index, entry(false, EXTENDED, first, size - first));
    let mut next = None;
    for (own, end, extended) in records.iter_mut().rev() {
        if let Some((start, end)) = next {
            set_entry(extended, 1, entry(false, EXTENDED, start - first, end - start));
        }
        next = Some((*own, *end));
    }
    let records = records.into_iter().map(|(own, _, record)| (own, record));
    [(0, record)].into_iter().chain(records).collect()
}

/// Returns the MBR of a disk with a GPT: one partition that covers the disk, or what an MBR can
/// describe of it.
pub(crate) fn protective(size: u64) -> Vec<u8> {
    let mut record = boot_record();
    let length = (size - SECTOR).min(MAX_MBR_SECTORS * SECTOR);
    set_entry(&mut record, 0, entry(false, PROTECTIVE, SECTOR, length));
    record
}

/// Returns a boot record without partitions.
fn boot_record() -> Vec<u8> {
    let mut record = vec![0; SECTOR as usize];
    record[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
    record
}

fn set_entry(record: &mut [u8], index: usize, entry: [u8; ENTRY]) {
    let at = ENTRIES + index * ENTRY;
    record[at..at + ENTRY].copy_from_slice(&entry);
}

/// Returns an entry. The layout has made sure that the numbers of sectors have 32 bits.
fn entry(bootable: bool, id: u8, start: u64, size: u64) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[0] = if bootable { 0x80 } else { 0 };
    entry[1..4].copy_from_slice(&LARGEST_CHS);
    entry[4] = id;
    entry[5..8].copy_from_slice(&LARGEST_CHS);
    entry[8..12].copy_from_slice(&((start / SECTOR) as u32).to_le_bytes());
    entry[12..].copy_from_slice(&(size.div_ceil(SECTOR) as u32).to_le_bytes());
    entry
}
