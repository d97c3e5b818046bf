//! The MBR: up to four primary partitions, one of which may contain a chain of logical ones.

use alloc::format;
use alloc::string::String;

use memnbd_guest::Lower;

use crate::table::{Kind, SECTOR, Table, number};

/// The offset of the four entries in the sector.
const ENTRIES: usize = 446;

/// The length of an entry.
const ENTRY: usize = 16;

/// The most extended boot records that are read, one for each logical partition. A chain in a circle
/// ends here.
const MAX_RECORDS: usize = 1024;

/// An entry of a boot record.
#[derive(Clone, Copy)]
struct Entry {
    kind: u8,
    start: u64,
    sectors: u64,
}

impl Entry {
    /// Returns one of the four entries of a sector.
    fn new(sector: &[u8; SECTOR as usize], index: usize) -> Self {
        let at = ENTRIES + index * ENTRY;
        let [start, sectors] = [8, 12].map(|field| number::<4>(sector, at + field));
        Self { kind: sector[at + 4], start, sectors }
    }

    /// Returns true if the entry is a container for logical partitions.
    fn is_extended(self) -> bool {
        self.sectors > 0 && matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// Returns true if the entry is a partition with data.
    fn is_partition(self) -> bool {
        self.sectors > 0 && self.kind != 0 && !self.is_extended()
    }

    fn label(self) -> String {
        format!("type 0x{:02x}", self.kind)
    }
}

/// Returns true if the sector says that there is a GPT.
pub(crate) fn is_protective(sector: &[u8; SECTOR as usize]) -> bool {
    (0..4).any(|index| Entry::new(sector, index).kind == 0xee)
}

/// Reads the table that begins in this sector.
pub(crate) fn read(base: Lower, sector: &[u8; SECTOR as usize]) -> Table {
    let mut table = Table::new(Kind::Mbr);
    let size = base.geometry().size;
    for index in 0..4 {
        let entry = Entry::new(sector, index);
        if entry.is_partition() {
            table.add(index as u32 + 1, entry.start, entry.sectors, size, entry.label());
        }
    }
    // As in Linux, only the first one counts.
    let extended = (0..4).map(|index| Entry::new(sector, index)).find(|entry| entry.is_extended());
    if let Some(extended) = extended {
        read_logical(base, extended, &mut table);
    }
    table
}

/// Reads the logical partitions of an extended one. Numbers are those of Linux: they begin with 5, and
/// records without a partition have none.
fn read_logical(base: Lower, extended: Entry, table: &mut Table) {
    let size = base.geometry().size;
    let end = extended.start + extended.sectors;
    let mut at = extended.start;
    let mut number = 5;
    for _ in 0..MAX_RECORDS {
        if at == 0 || at >= end || at >= size / SECTOR {
            return table.defect(format!(
                "the extended boot record of partition {number} is in sector {at}, outside of the \
                 extended partition or the device beneath"
            ));
        }
        let mut sector = [0; SECTOR as usize];
        if let Err(error) = base.read(at * SECTOR, &mut sector) {
            return table.defect(format!(
                "the extended boot record of partition {number} in sector {at} cannot be read: {:?}",
                error.code
            ));
        }
        if sector[510..] != [0x55, 0xaa] {
            return table.defect(format!(
                "sector {at} is not the extended boot record of partition {number}: it does not \
                 end with 0x55 0xaa"
            ));
        }
        let (logical, next) = (Entry::new(&sector, 0), Entry::new(&sector, 1));
        if logical.is_partition() {
            let start = at + logical.start;
            if logical.start == 0 || start + logical.sectors > end {
                table.defect(format!(
                    "partition {number} has {} sectors from sector {start} on, which are not \
                     within the extended partition after the boot record in sector {at}",
                    logical.sectors
                ));
            } else {
                table.add(number, start, logical.sectors, size, logical.label());
            }
            number += 1;
        }
        if next.start == 0 || next.sectors == 0 {
            return;
        }
        at = extended.start + next.start;
    }
    table.defect(format!(
        "the chain of extended boot records has more than {MAX_RECORDS} links, or is a circle"
    ));
}
