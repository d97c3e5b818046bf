//! The files of an expression: lower devices, which the host opened for it.

use alloc::vec::Vec;

use memnbd_guest::{Chunk, Lower};

use crate::language::{FileError, Files, Input};

/// The longest read of a lower device, in bytes.
const MAX_READ: u64 = 1 << 20;

/// The files that were given, by the numbers of the inputs that read them.
pub(crate) struct GivenFiles {
    list: Vec<Lower>,
    /// How many bytes may still be read.
    remaining: u64,
    read: u64,
}

impl GivenFiles {
    /// Creates files of which `memory` bytes may be read.
    pub(crate) fn new(list: Vec<Lower>, memory: u64) -> Self {
        Self { list, remaining: memory, read: 0 }
    }

    /// The number of bytes that were read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read
    }
}

impl Files for GivenFiles {
    fn read(
        &mut self,
        input: &Input,
        start: u64,
        end: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u8>, FileError> {
        let file = *self.list.get(input.number).ok_or(FileError::NoFiles)?;
        let size = file.geometry().size;
        let end = end.map_or(size, |end| end.min(size));
        let length = end.saturating_sub(start);
        if length > limit as u64 {
            return Err(FileError::TooLong);
        }
        self.remaining = self.remaining.checked_sub(length).ok_or(FileError::NoMemory)?;
        self.read += length;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length as usize).map_err(|_| FileError::NoMemory)?;
        let mut at = start;
        while at < end {
            let count = (end - at).min(MAX_READ);
            let chunks = file.read_chunks(at, count as u32).map_err(|_| FileError::Failed)?;
            for chunk in chunks {
                match chunk {
                    Chunk::Data(data) => bytes.extend_from_slice(&data),
                    Chunk::Hole(length) => bytes.resize(bytes.len() + length as usize, 0),
                }
            }
            at += count;
        }
        // The chunks of a read add up to its length.
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(FileError::Failed) }
    }
}
