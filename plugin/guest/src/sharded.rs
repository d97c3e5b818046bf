//! The trait of a backend that is divided among instances.

use crate::Backend;

/// A disk in the memory of several instances, each of which holds some of its stripes. So it has
/// the memory of many instances, and requests to different stripes run at the same time.
///
/// The host calls an instance only about its own stripes, with one exception: `zero`, `trim` and
/// `extents` may span others, of which an instance knows nothing and which look fresh to it.
/// `wit/sharding.wit` has the complete contract.
pub trait Sharded: Backend {
    /// Returns the length of a stripe in bytes: a power of two, at least 65536, or 0 if one
    /// instance serves the disk. The host asks once, after `open`.
    fn stripe_size(&self) -> u64;

    /// Returns the number of bytes that this instance uses for the content of the disk. The host
    /// may drop an instance that uses none.
    fn stored(&self) -> u64;
}
