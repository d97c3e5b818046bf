//! The requests whose route has a token.

use alloc::vec::Vec;
use core::ops::Range;

use memnbd_guest::Error;

/// The blocks of requests that are in progress. A token is an index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    list: Vec<Option<Range<u64>>>,
    free: Vec<usize>,
}

impl Pending {
    /// Adds a request and returns its token.
    ///
    /// # Errors
    ///
    /// Returns `ENOMEM` if there is no memory for it.
    pub(crate) fn add(&mut self, blocks: Range<u64>) -> Result<u64, Error> {
        if let Some(index) = self.free.pop() {
            self.list[index] = Some(blocks);
            return Ok(index as u64);
        }
        self.list.try_reserve(1).map_err(|_| Error::ENOMEM)?;
        // So that it can be removed.
        self.free.try_reserve(self.list.len() + 1).map_err(|_| Error::ENOMEM)?;
        self.list.push(Some(blocks));
        Ok(self.list.len() as u64 - 1)
    }

    /// Removes a request and returns its blocks, or `None` if there is none with this token.
    pub(crate) fn remove(&mut self, token: u64) -> Option<Range<u64>> {
        let index = usize::try_from(token).ok()?;
        let blocks = self.list.get_mut(index)?.take()?;
        self.free.push(index);
        Some(blocks)
    }

    /// Returns true if there is none.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.list.iter().all(Option::is_none)
    }
}
