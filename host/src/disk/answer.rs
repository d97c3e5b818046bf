//! What comes back from a disk.

use tokio::sync::OwnedMutexGuard;

use super::shards::Shard;
use crate::block::Extents;
use crate::component::{Chunk, Instance};

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
    /// It is in the memory of an instance, which nobody can use until this is dropped.
    Lent(OwnedMutexGuard<Shard>),
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
            Self::Lent(shard) => shard.instance().chunk(index),
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
        let Self::Lent(shard) = self else { return self };
        let mut parts = Vec::new();
        copy_chunks(shard.instance(), &mut parts);
        Self::Copied(parts)
    }
}

/// Appends what an instance has just read.
pub(super) fn copy_chunks(instance: &Instance, parts: &mut Vec<Part>) {
    for index in 0.. {
        let Some(chunk) = instance.chunk(index) else { break };
        match (chunk, parts.last_mut()) {
            (Chunk::Data(data), Some(Part::Data(bytes))) => bytes.extend_from_slice(data),
            (Chunk::Data(data), _) => parts.push(Part::Data(data.to_vec())),
            (Chunk::Hole(length), Some(Part::Hole(sum))) => *sum += length,
            (Chunk::Hole(length), _) => parts.push(Part::Hole(length)),
        }
    }
}
