//! What the functions of the disk return.

use alloc::vec::Vec;

use crate::codec::Corrupt;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// There is not enough memory.
    NoSpace,
    /// A page cannot be compressed or decompressed.
    Corrupt,
}

impl From<Corrupt> for StoreError {
    fn from(Corrupt: Corrupt) -> Self {
        Self::Corrupt
    }
}

/// A part of the result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of the disk, at least 1.
    Data(Vec<u8>),
    /// This many zeroes, at least 1.
    Hole(u32),
}

/// The allocation status of a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The run has no pages.
    Hole,
    /// The run has pages, which hold only zeroes.
    Zero,
    /// The run has pages, each of which holds a nonzero byte.
    Data,
}
