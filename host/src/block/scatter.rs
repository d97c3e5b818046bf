//! Where data is received to.

use std::array;
use std::io::IoSliceMut;

/// How many stretches of a disk's memory are filled at once. What is not among them waits.
pub(crate) const MAX_RUNS: usize = 16;

/// Memory that is filled by one system call, one slice after the other (readv(2)): some of a disk's,
/// and perhaps one more slice for what follows.
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
    /// Adds a slice after the others. False when there are too many.
    pub fn push(&mut self, slice: &'a mut [u8]) -> bool {
        let Some(next) = self.slices.get_mut(self.count) else { return false };
        *next = IoSliceMut::new(slice);
        self.count += 1;
        true
    }

    /// The slices, as a system call takes them.
    pub fn slices(&mut self) -> &mut [IoSliceMut<'a>] {
        &mut self.slices[..self.count]
    }
}
