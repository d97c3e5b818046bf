//! The pieces of data that a read returns.

/// A piece of the data that a read returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// These bytes, at least one.
    Data(&'a [u8]),
    /// This many zeroes, at least one.
    Hole(u32),
}

impl Chunk<'_> {
    /// Returns the number of bytes of the disk that this represents, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Hole(length) => *length as usize,
        }
    }
}
