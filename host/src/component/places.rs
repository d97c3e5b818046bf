//! Where data is received to.

use std::array;
use std::io::IoSliceMut;

/// How many places a disk gives at once. More pages than that are neighbours in memory, or wait.
pub(super) const MAX_RUNS: usize = 16;

/// Places for bytes, to be filled one after the other: some in the memory of an instance, and perhaps
/// one more.
pub struct Places<'a> {
    slices: [IoSliceMut<'a>; MAX_RUNS + 1],
    count: usize,
}

impl Default for Places<'_> {
    fn default() -> Self {
        Self { slices: array::from_fn(|_| IoSliceMut::new(&mut [])), count: 0 }
    }
}

impl<'a> Places<'a> {
    /// Adds a place behind the others. False when there are too many.
    pub(super) fn push(&mut self, place: &'a mut [u8]) -> bool {
        let Some(slice) = self.slices.get_mut(self.count) else { return false };
        *slice = IoSliceMut::new(place);
        self.count += 1;
        true
    }

    /// The places, as a system call takes them.
    pub fn slices(&mut self) -> &mut [IoSliceMut<'a>] {
        &mut self.slices[..self.count]
    }
}
