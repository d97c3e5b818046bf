//! What a read finds, piece by piece.

/// A piece of the answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// These bytes, at least one.
    Data(&'a [u8]),
    /// So many zeroes, at least one.
    Hole(u32),
}

impl Chunk<'_> {
    /// How many bytes of the disk it stands for, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Hole(length) => *length as usize,
        }
    }
}
