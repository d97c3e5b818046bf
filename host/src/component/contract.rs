//! The contract in `wit/`: its text and its numeric limits.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::block::MAX_TRANSFER;

/// The contract, for authors of components: the name of each file and its text.
pub const WIT: [(&str, &str); 13] = [
    ("world.wit", include_str!("../../wit/world.wit")),
    ("types.wit", include_str!("../../wit/types.wit")),
    ("block-store.wit", include_str!("../../wit/block-store.wit")),
    ("log.wit", include_str!("../../wit/log.wit")),
    ("direct-access.wit", include_str!("../../wit/direct-access.wit")),
    ("lending.wit", include_str!("../../wit/lending.wit")),
    ("sharding.wit", include_str!("../../wit/sharding.wit")),
    ("lower.wit", include_str!("../../wit/lower.wit")),
    ("routing.wit", include_str!("../../wit/routing.wit")),
    ("control.wit", include_str!("../../wit/control.wit")),
    ("listing.wit", include_str!("../../wit/listing.wit")),
    ("output.wit", include_str!("../../wit/output.wit")),
    ("events.wit", include_str!("../../wit/events.wit")),
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

/// The most commands of a disk, and the length of all their texts together and of an answer, in bytes.
pub(super) const MAX_COMMANDS: usize = 64;
pub(super) const MAX_CONTROL_TEXT: usize = 64 << 10;

/// The most exports that a component may list, and the length of all their texts together, in bytes.
pub(super) const MAX_LISTED: usize = 10_000;
pub(super) const MAX_LISTED_TEXT: usize = 1 << 20;

/// The shortest stripe, in bytes.
pub(super) const MIN_STRIPE: u64 = 1 << 16;

/// The largest minimum block, in bytes.
pub(super) const MAX_MINIMUM_BLOCK: u32 = 1 << 16;

/// The smallest and the largest preferred block, in bytes.
pub(super) const PREFERRED_BLOCKS: RangeInclusive<u32> = 512..=MAX_TRANSFER / 2;

/// The longest read or write of a lower device by the component itself, in bytes.
pub(super) const MAX_LOWER_TRANSFER: u64 = 1 << 20;

/// How long the component waits for a lower device; in unit tests not as long.
pub(crate) const LOWER_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 4 } else { 300 });

/// The most data that a component may append to an output at once, in bytes.
pub(super) const MAX_APPENDED: usize = 64 << 10;

/// The largest granule, in bytes.
pub(super) const MAX_GRANULE: u64 = 1 << 30;

/// The most copies and segments of a route together.
pub(super) const MAX_PARTS: usize = 4096;

/// The longest copy of a route, in bytes.
pub(super) const MAX_COPY: u64 = 64 << 20;

/// The longest delay of a route, and before it is executed again.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(600);

/// How often a route may be executed again for a request.
pub(super) const MAX_REPEATS: u32 = 1000;
