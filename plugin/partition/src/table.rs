//! The partitions of a disk, whose tables may be damaged or hostile.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use memnbd_guest::{Error, Lower};

use crate::{gpt, mbr};

/// The unit in which tables count.
pub(crate) const SECTOR: u64 = 512;

/// The kinds of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mbr,
    Gpt,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
        }
    }
}

/// A partition, which lies on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Counted from 1.
    pub(crate) number: u32,
    /// The offset of its first byte.
    pub(crate) start: u64,
    /// The number of its bytes, at least one sector.
    pub(crate) length: u64,
    /// What the table says of it, for people.
    pub(crate) label: String,
}

/// The partitions of a disk.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) kind: Kind,
    /// Those that can be served, in the order of their numbers.
    pub(crate) partitions: Vec<Partition>,
    /// What is wrong with others, at most [`MAX_DEFECTS`] of them.
    pub(crate) defects: Vec<Error>,
}

/// The most defects that are kept. A hostile table has thousands.
const MAX_DEFECTS: usize = 16;

impl Table {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { kind, partitions: Vec::new(), defects: Vec::new() }
    }

    /// Reads the table of a disk.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if there is none, or it is damaged as a whole, and the error of a read.
    pub(crate) fn read(base: Lower) -> Result<Self, Error> {
        let size = base.geometry().size;
        if size < 2 * SECTOR {
            return Err(Error::EINVAL.because(format!(
                "the device beneath has {size} bytes; one with partitions has at least {}",
                2 * SECTOR
            )));
        }
        let mut first = [0; SECTOR as usize];
        base.read(0, &mut first)?;
        let is_mbr = first[510..] == [0x55, 0xaa];
        match gpt::find(base, is_mbr && mbr::is_protective(&first))? {
            Some(header) => gpt::read(base, &header),
            None if is_mbr => Ok(mbr::read(base, &first)),
            None => Err(Error::EINVAL.because(
                "the device beneath has neither an MBR nor a GPT: its first sector does not end \
                 with 0x55 0xaa, and its second does not begin with \"EFI PART\"",
            )),
        }
    }

    /// Adds a partition of these sectors, or a defect if it does not lie on a disk of `size` bytes.
    pub(crate) fn add(&mut self, number: u32, start: u64, sectors: u64, size: u64, label: String) {
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR);
        let end = start.checked_add(sectors).and_then(bytes).filter(|end| *end <= size);
        match (bytes(start), bytes(sectors), end) {
            (Some(start), Some(length), Some(_)) if length > 0 => {
                self.partitions.push(Partition { number, start, length, label });
            }
            _ => self.defect(format!(
                "partition {number} has {sectors} sectors from sector {start} on, but the device \
                 beneath ends after {} sectors",
                size / SECTOR
            )),
        }
    }

    /// Adds what is wrong with a part of the table.
    pub(crate) fn defect(&mut self, message: String) {
        if self.defects.len() < MAX_DEFECTS {
            self.defects.push(Error::EINVAL.because(message));
        }
    }

    /// Returns a partition.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` with the numbers that exist, and the first defect.
    pub(crate) fn find(&self, number: u32) -> Result<&Partition, Error> {
        let found = self.partitions.iter().find(|partition| partition.number == number);
        found.ok_or_else(|| {
            let mut message = format!("there is no partition {number} in the {}", self.kind.name());
            for (index, partition) in self.partitions.iter().take(16).enumerate() {
                message += if index == 0 { ", which has " } else { ", " };
                message += &format!("{}", partition.number);
            }
            if self.partitions.len() > 16 {
                message += " and more";
            }
            if let Some(Error { message: Some(defect), .. }) = self.defects.first() {
                message += "; ";
                message += defect;
            }
            Error::EINVAL.because(message)
        })
    }
}

/// Returns a little-endian number at an offset that lies within the bytes.
pub(crate) fn number<const LENGTH: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number[..LENGTH].copy_from_slice(&bytes[at..at + LENGTH]);
    u64::from_le_bytes(number)
}
