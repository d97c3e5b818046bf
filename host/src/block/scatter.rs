//! The buffers that data is received into.

use std::array;
use std::io::IoSliceMut;

/// How many separate ranges of a disk's memory are filled at once. Any others are filled later.
pub(crate) const MAX_RUNS: usize = 16;

/// Buffers that one system call fills, one after the other (readv(2)): parts of a disk's memory,
/// and possibly one more buffer for what follows.
pub struct Scatter<'a> {
    slices: [IoSliceMut<'a>; MAX_RUNS + 1],
    count: usize,
}

impl Default for Scatter<'_> {
    fn default() -> Self {
        Self { slices: array::from_fn(|_| IoSliceMut::new(&mut [])), count: 0 }
    }
}

impl<'a> Scatter<'a> {
    /// Appends a buffer. Returns `false` if there are too many.
    pub fn push(&mut self, slice: &'a mut [u8]) -> bool {
        let Some(next) = self.slices.get_mut(self.count) else { return false };
        *next = IoSliceMut::new(slice);
        self.count += 1;
        true
    }

    /// Returns the buffers in the form that the system call takes.
    pub fn slices(&mut self) -> &mut [IoSliceMut<'a>] {
        &mut self.slices[..self.count]
    }
}
