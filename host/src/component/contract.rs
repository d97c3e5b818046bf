//! The numeric limits of the contract in `wit/`.

use std::ops::RangeInclusive;

use crate::block::MAX_TRANSFER;

/// The longest text that is accepted from a component, in bytes.
pub(super) const MAX_TEXT: usize = 4096;

/// The most parameters that a component may have.
pub(super) const MAX_PARAMETERS: usize = 256;

/// The most chunks that `read` may return.
pub(super) const MAX_CHUNKS: usize = 4096;

/// The most extents that `extents` may return.
pub(super) const MAX_EXTENTS: usize = 4096;

/// The shortest stripe, in bytes.
pub(super) const MIN_STRIPE: u64 = 1 << 16;

/// The largest minimum block, in bytes.
pub(super) const MAX_MINIMUM_BLOCK: u32 = 1 << 16;

/// The smallest and the largest preferred block, in bytes.
pub(super) const PREFERRED_BLOCKS: RangeInclusive<u32> = 512..=MAX_TRANSFER / 2;
