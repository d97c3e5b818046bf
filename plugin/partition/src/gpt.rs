//! The GPT: a header in the second sector, an array of partitions, and copies of both at the end.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use memnbd_guest::{Error, Lower, crc32};

use crate::table::{Kind, SECTOR, Table, number};

/// The longest array, in bytes. Usual ones have 16 KiB.
const MAX_ARRAY: u64 = 1 << 20;

/// The length of an entry of the array, of which more than this is reserved.
const ENTRY: u64 = 128;

/// The offset and the length of the name in an entry, in UTF-16.
const NAME: core::ops::Range<usize> = 56..128;

/// A header whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// The first sector of the array.
    array: u64,
    entries: u64,
    entry_length: u64,
    checksum: u64,
}

/// Finds the header: the first, or else the copy at the end if the MBR says that there is a GPT.
///
/// # Errors
///
/// Returns `EINVAL` if a header is there or has to be, but none is intact, and the error of a read.
pub(crate) fn find(base: Lower, is_protected: bool) -> Result<Option<Header>, Error> {
    let last = base.geometry().size / SECTOR - 1;
    let (is_first, first) = read_header(base, 1)?;
    if first.is_some() || !is_first && !is_protected {
        return Ok(first);
    }
    match read_header(base, last)?.1 {
        None => Err(Error::EINVAL.because(
            "neither the header of the GPT in the second sector nor its copy in the last one is \
             intact",
        )),
        copy => Ok(copy),
    }
}

/// Reads a header. Returns whether there is one, and the header if it is intact.
fn read_header(base: Lower, at: u64) -> Result<(bool, Option<Header>), Error> {
    let mut sector = [0; SECTOR as usize];
    base.read(at * SECTOR, &mut sector)?;
    if !sector.starts_with(b"EFI PART") {
        return Ok((false, None));
    }
    let (length, own) = (number::<4>(&sector, 12), number::<8>(&sector, 24));
    let checksum = number::<4>(&sector, 16);
    if !(92..=SECTOR).contains(&length) || own != at {
        return Ok((true, None));
    }
    sector[16..20].fill(0);
    let intact = u64::from(crc32(&sector[..length as usize])) == checksum;
    let header = Header {
        array: number::<8>(&sector, 72),
        entries: number::<4>(&sector, 80),
        entry_length: number::<4>(&sector, 84),
        checksum: number::<4>(&sector, 88),
    };
    Ok((true, intact.then_some(header)))
}

/// Reads the partitions.
///
/// # Errors
///
/// Returns `EINVAL` if the array is too long, not on the disk or damaged, and the error of a read.
pub(crate) fn read(base: Lower, header: &Header) -> Result<Table, Error> {
    let &Header { array, entries, entry_length, checksum } = header;
    if entry_length < ENTRY || !entry_length.is_power_of_two() {
        return Err(Error::EINVAL.because(format!(
            "the entries of the GPT have {entry_length} bytes; right would be {ENTRY}, or a larger \
             power of two"
        )));
    }
    let size = base.geometry().size;
    let length = entries * entry_length;
    let start = array.checked_mul(SECTOR).filter(|start| {
        length <= MAX_ARRAY && start.checked_add(length).is_some_and(|end| end <= size)
    });
    let Some(start) = start else {
        return Err(Error::EINVAL.because(format!(
            "the GPT has {entries} entries of {entry_length} bytes from sector {array} on; they \
             must be within the device beneath, and at most {MAX_ARRAY} bytes"
        )));
    };
    let mut table = Table::new(Kind::Gpt);
    let mut bytes = vec![0; length as usize];
    if !bytes.is_empty() {
        base.read(start, &mut bytes)?;
    }
    if u64::from(crc32(&bytes)) != checksum {
        return Err(Error::EINVAL.because(
            "the checksum of the partitions in the GPT is wrong; a partitioning program can \
             repair it, such as sgdisk --verify",
        ));
    }
    for (index, entry) in bytes.chunks_exact(entry_length as usize).enumerate() {
        if entry[..16] == [0; 16] {
            continue;
        }
        let (first, last) = (number::<8>(entry, 32), number::<8>(entry, 40));
        let sectors = last.checked_sub(first).and_then(|more| more.checked_add(1)).unwrap_or(0);
        table.add(index as u32 + 1, first, sectors, size, name(&entry[NAME]));
    }
    Ok(table)
}

/// Returns the name of a partition, without what cannot be printed.
fn name(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    let replaced = char::decode_utf16(units).map(|char| match char {
        Ok(char) if !char.is_control() => char,
        _ => char::REPLACEMENT_CHARACTER,
    });
    replaced.collect()
}
