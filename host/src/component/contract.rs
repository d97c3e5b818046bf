//! The contract in `wit/`: its text and its numeric limits.

use std::ops::RangeInclusive;

use crate::block::MAX_TRANSFER;

/// The contract, for authors of components: the name of each file and its text.
pub const WIT: [(&str, &str); 7] = [
    ("world.wit", include_str!("../../wit/world.wit")),
    ("types.wit", include_str!("../../wit/types.wit")),
    ("block-store.wit", include_str!("../../wit/block-store.wit")),
    ("log.wit", include_str!("../../wit/log.wit")),
    ("direct-access.wit", include_str!("../../wit/direct-access.wit")),
    ("lending.wit", include_str!("../../wit/lending.wit")),
    ("sharding.wit", include_str!("../../wit/sharding.wit")),
];

/// The longest text that is accepted from a component, in bytes.
pub(super) const MAX_TEXT: usize = 4096;

/// The longest message of an error that is used, in bytes.
pub(super) const MAX_MESSAGE: usize = 1024;

/// The most parameters that a component may have, and the most words of a choice.
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
