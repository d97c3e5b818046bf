//! Where the partitions and the tables are on the disk.

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{Error, MAX_SIZE};

use crate::config::{Config, PRIMARY, Partition, TableType};
use crate::{gpt, mbr};

/// The size of a sector in bytes, in which tables count.
pub(crate) const SECTOR: u64 = 512;

/// The largest alignment of a partition, which is the default as well.
pub(crate) const MAX_ALIGNMENT: u64 = 2048 * SECTOR;

/// The largest number of sectors that an MBR can describe.
pub(crate) const MAX_MBR_SECTORS: u64 = u32::MAX as u64;

/// The largest total size of the files for an MBR: what is left for 4 partitions if their gaps are
/// as large as possible.
pub(crate) const MAX_MBR_SIZE: u64 = MAX_MBR_SECTORS * SECTOR - 5 * MAX_ALIGNMENT;

/// A part of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// The offset of the first byte.
    pub(crate) start: u64,
    /// The offset after the last byte.
    pub(crate) end: u64,
    pub(crate) content: Content,
}

/// What is in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The partition with this index.
    Partition(usize),
    /// These bytes of a partition table.
    Table(Vec<u8>),
    /// Zeroes.
    Gap,
}

/// The place of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) start: u64,
    /// The size in bytes, which need not be a multiple of a sector.
    pub(crate) size: u64,
    /// The offset of the extended boot record, if this is a logical partition.
    pub(crate) boot_record: Option<u64>,
}

impl Placed {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// The regions of the disk, from its first byte to its last.
#[derive(Clone, Debug)]
pub(crate) struct Layout(Vec<Region>);

impl Layout {
    /// Places the partitions, and describes them in tables.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk is too large for its table, or for any.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let partitions = &config.partitions;
        let (first, last, logical) = match config.table {
            TableType::Mbr => {
                let logical = if partitions.len() > PRIMARY { PRIMARY - 1 } else { PRIMARY };
                (SECTOR, 0, logical)
            }
            TableType::Gpt => {
                let array = gpt::array_sectors(partitions.len());
                ((2 + array) * SECTOR, (array + 1) * SECTOR, usize::MAX)
            }
        };
        let (placed, end) =
            place(partitions, first, logical).ok_or_else(|| too_large(MAX_SIZE, "a disk"))?;
        let size = end
            .checked_add(last)
            .filter(|size| *size <= MAX_SIZE)
            .ok_or_else(|| too_large(MAX_SIZE, "a disk"))?;
        let tables = match config.table {
            TableType::Mbr if size / SECTOR > MAX_MBR_SECTORS => {
                return Err(too_large(MAX_MBR_SECTORS * SECTOR, "an MBR"));
            }
            TableType::Mbr => mbr::tables(partitions, &placed, size),
            TableType::Gpt => gpt::tables(partitions, &placed, size),
        };
        Ok(Self(regions(&placed, tables, size)))
    }

    pub(crate) fn size(&self) -> u64 {
        self.0.last().map_or(0, |region| region.end)
    }

    pub(crate) fn regions(&self) -> &[Region] {
        &self.0
    }

    /// Returns the regions from the one with `offset` on.
    pub(crate) fn from(&self, offset: u64) -> &[Region] {
        &self.0[self.0.partition_point(|region| region.end <= offset)..]
    }
}

fn too_large(limit: u64, what: &str) -> Error {
    Error::EINVAL.because(format!(
        "the files, with the gaps between them, are too large for {what} of at most {limit} bytes"
    ))
}

/// Places partitions from `first` on, each at its alignment. Those from the index `logical` on have
/// a boot record before the gap. Returns them and their end, or `None` after an overflow.
fn place(partitions: &[Partition], first: u64, logical: usize) -> Option<(Vec<Placed>, u64)> {
    let mut end = first;
    let mut placed = Vec::new();
    for (index, partition) in partitions.iter().enumerate() {
        let boot_record = (index >= logical).then_some(end);
        let after = if boot_record.is_some() { end.checked_add(SECTOR)? } else { end };
        let start = after.checked_next_multiple_of(partition.alignment)?;
        end = start.checked_add(partition.size)?.checked_next_multiple_of(SECTOR)?;
        placed.push(Placed { start, size: partition.size, boot_record });
    }
    Some((placed, end))
}

/// Returns the regions of the disk. What is between partitions and tables is a gap.
fn regions(placed: &[Placed], tables: Vec<(u64, Vec<u8>)>, size: u64) -> Vec<Region> {
    let partitions = placed.iter().enumerate().map(|(index, place)| Region {
        start: place.start,
        end: place.end(),
        content: Content::Partition(index),
    });
    let tables = tables.into_iter().map(|(start, bytes)| Region {
        start,
        end: start + bytes.len() as u64,
        content: Content::Table(bytes),
    });
    let mut used: Vec<Region> = partitions.chain(tables).collect();
    used.sort_by_key(|region| region.start);
    let mut regions = Vec::new();
    let mut at = 0;
    for region in used {
        if region.start > at {
            regions.push(Region { start: at, end: region.start, content: Content::Gap });
        }
        at = region.end;
        regions.push(region);
    }
    if at < size {
        regions.push(Region { start: at, end: size, content: Content::Gap });
    }
    regions
}
