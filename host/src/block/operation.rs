//! The kinds of commands.

/// What a command does, without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Make read as zeroes.
    Zero,
    /// Give up the content.
    Trim,
    /// Bring to stable storage.
    Flush,
    /// Fetch ahead of reads.
    Cache,
    /// Report what is allocated.
    Extents,
}

impl Operation {
    /// All operations, each at the index that it has as an integer.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Write, Self::Zero, Self::Trim, Self::Flush, Self::Cache, Self::Extents];

    /// Returns the name of the operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Zero => "zero",
            Self::Trim => "trim",
            Self::Flush => "flush",
            Self::Cache => "cache",
            Self::Extents => "extents",
        }
    }
}
