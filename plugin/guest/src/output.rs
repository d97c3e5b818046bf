//! Files to which a component writes.
//!
//! Natively, the outputs are those of [`testing`](crate::testing).

use crate::Error;

/// The longest append of the contract, in bytes.
const MAX_APPENDED: usize = 64 << 10;

/// A file, pipe or terminal that the user named in a parameter of the type output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Output(u32);

impl Output {
    /// Returns the output with a number from an argument.
    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number that stands for the output in the contract.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Adds data, in pieces of 64 KiB, each of which stays together. The host writes them later. What
    /// finds no room is dropped without an error.
    ///
    /// # Errors
    ///
    /// Returns `ENOSPC` if the output has got as much as it may.
    pub fn append(self, data: &[u8]) -> Result<(), Error> {
        data.chunks(MAX_APPENDED).try_for_each(|piece| {
            #[cfg(target_arch = "wasm32")]
            return crate::exports::append(self, piece);
            #[cfg(not(target_arch = "wasm32"))]
            crate::testing::append(self, piece)
        })
    }
}
