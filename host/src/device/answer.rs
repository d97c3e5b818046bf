//! The answers of a device.

use super::Lease;
use crate::block::{Chunk, Extents};

/// The answer to a command that succeeded.
pub enum Answer {
    /// To commands without a result.
    Done,
    /// The content, as long as the span.
    Read(Content),
    /// At least one extent, from the beginning of the span.
    Extents(Extents),
}

/// The content of a read.
pub enum Content {
    /// In the device's memory.
    Lease(Lease),
    /// A copy.
    Copied(Vec<Part>),
}

/// A part of a copy.
#[derive(Debug)]
pub enum Part {
    /// Bytes.
    Data(Vec<u8>),
    /// This many zeroes.
    Hole(u32),
}

impl Content {
    /// Returns the chunk at an index; `None` after the last one.
    pub fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        match self {
            Self::Lease(lease) => lease.chunk(index),
            Self::Copied(parts) => parts.get(index).map(|part| match part {
                Part::Data(bytes) => Chunk::Data(bytes),
                Part::Hole(length) => Chunk::Hole(*length),
            }),
        }
    }

    /// Returns all chunks in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> + Clone {
        (0..).map_while(|index| self.chunk(index))
    }

    /// Copies the content, so that no lease is held any longer.
    pub fn into_copy(self) -> Self {
        if let Self::Copied(_) = self {
            return self;
        }
        let mut parts = Vec::new();
        copy_chunks(&self, &mut parts);
        Self::Copied(parts)
    }
}

/// Appends a copy of the content.
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
