//! The answers of a device.

use bytes::Bytes;

use super::{Lease, Located, Piped};
use crate::block::{Chunk, Extents};

/// The answer to a command that succeeded.
pub enum Answer {
    /// To commands without a result.
    Done,
    /// The content, as long as the span.
    Read(Content),
    /// The content of a read that goes into a socket, as long as the span ([`Order::to_socket`]).
    ///
    /// [`Order::to_socket`]: super::Order::to_socket
    Piped(Piped),
    /// At least one extent, from the beginning of the span.
    Extents(Extents),
    /// Where the first bytes of the span are ([`Order::locate`]).
    ///
    /// [`Order::locate`]: super::Order::locate
    Located(Located),
    /// The status of the span in several metadata contexts, with their ids ([`super::describe`]).
    Described(Vec<(u32, Described)>),
}

/// The extents of a span in a metadata context, from its beginning: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Described {
    /// `base:allocation`.
    Allocation(Extents),
    /// Another one, whose status is a number.
    State(Extents<u32>),
}

impl Answer {
    /// Copies the content of a read, so that no lease is held any longer.
    pub fn into_copy(self) -> Self {
        match self {
            Self::Read(content) => Self::Read(content.into_copy()),
            answer => answer,
        }
    }
}

/// The content of a read.
pub enum Content {
    /// In the device's memory.
    Lease(Lease<'static>),
    /// A copy.
    Copied(Vec<Part>),
}

/// A part of a copy.
#[derive(Debug)]
pub enum Part {
    /// Bytes.
    Data(Vec<u8>),
    /// Bytes in a buffer that goes back to its owner.
    Shared(Bytes),
    /// This many zeroes.
    Hole(u32),
}

/// Data of a read, chunk by chunk.
pub trait Chunks {
    /// Returns the chunk at an index; `None` after the last one.
    fn chunk(&self, index: usize) -> Option<Chunk<'_>>;

    /// Returns all chunks in order.
    fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> + Clone {
        (0..).map_while(|index| self.chunk(index))
    }
}

impl Chunks for Content {
    fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        match self {
            Self::Lease(lease) => lease.chunk(index),
            Self::Copied(parts) => parts.get(index).map(|part| match part {
                Part::Data(bytes) => Chunk::Data(bytes),
                Part::Shared(bytes) => Chunk::Data(bytes),
                Part::Hole(length) => Chunk::Hole(*length),
            }),
        }
    }
}

impl Content {
    /// Copies the content, so that no lease is held any longer.
    pub fn into_copy(self) -> Self {
        Self::Copied(self.into_parts())
    }

    /// Copies the content, and returns its parts.
    pub(super) fn into_parts(self) -> Vec<Part> {
        match self {
            Self::Lease(lease) => copied(&lease),
            Self::Copied(parts) => parts,
        }
    }

    /// Copies chunks.
    pub fn copy_of(chunks: &impl Chunks) -> Self {
        Self::Copied(copied(chunks))
    }
}

fn copied(chunks: &impl Chunks) -> Vec<Part> {
    let mut parts = Vec::new();
    copy_chunks(chunks, &mut parts);
    parts
}

/// Appends a copy of the content.
pub(super) fn copy_chunks(content: &impl Chunks, parts: &mut Vec<Part>) {
    for chunk in content.chunks() {
        match (chunk, parts.last_mut()) {
            (Chunk::Data(data), Some(Part::Data(bytes))) => bytes.extend_from_slice(data),
            (Chunk::Data(data), _) => parts.push(Part::Data(data.to_vec())),
            (Chunk::Hole(length), Some(Part::Hole(sum))) => *sum += length,
            (Chunk::Hole(length), _) => parts.push(Part::Hole(length)),
        }
    }
}
