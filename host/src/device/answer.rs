//! What comes back from a device.

use super::Lease;
use crate::block::{Chunk, Extents};

/// The answer to a command that succeeded.
pub enum Answer {
    /// There is nothing more to say.
    Done,
    /// What was read.
    Read(Content),
    /// What is allocated: at least one extent, from the beginning of the span.
    Extents(Extents),
}

/// What was read: as many bytes as were asked for.
pub enum Content {
    /// It is where the device has it.
    Lease(Lease),
    /// It is a copy.
    Copied(Vec<Part>),
}

/// A piece of a copy.
#[derive(Debug)]
pub enum Part {
    /// These bytes.
    Data(Vec<u8>),
    /// So many zeroes.
    Hole(u32),
}

impl Content {
    /// The chunk at an index, none after the last.
    pub fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        match self {
            Self::Lease(lease) => lease.chunk(index),
            Self::Copied(parts) => parts.get(index).map(|part| match part {
                Part::Data(bytes) => Chunk::Data(bytes),
                Part::Hole(length) => Chunk::Hole(*length),
            }),
        }
    }

    /// All chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> + Clone {
        (0..).map_while(|index| self.chunk(index))
    }

    /// A copy, which holds nobody up.
    pub fn into_copy(self) -> Self {
        if let Self::Copied(_) = self {
            return self;
        }
        let mut parts = Vec::new();
        copy_chunks(&self, &mut parts);
        Self::Copied(parts)
    }
}

/// Appends content to a copy.
pub(super) fn copy_chunks(content: &Content, parts: &mut Vec<Part>) {
    for chunk in content.chunks() {
        match (chunk, parts.last_mut()) {
            (Chunk::Data(data), Some(Part::Data(bytes))) => bytes.extend_from_slice(data),
            (Chunk::Data(data), _) => parts.push(Part::Data(data.to_vec())),
            (Chunk::Hole(length), Some(Part::Hole(sum))) => *sum += length,
            (Chunk::Hole(length), _) => parts.push(Part::Hole(length)),
        }
    }
}
