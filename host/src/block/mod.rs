//! The types in which the protocol and the components describe disks and requests.
//!
//! They depend on neither NBD's wire format nor WebAssembly. Values of these types have been
//! checked: a [`Command`] lies within the disk it is for, and an [`Extents`] list satisfies what
//! its builder guarantees.

mod chunk;
mod error;
mod operation;
mod scatter;

use std::ops::Range;

pub use chunk::Chunk;
pub use error::{Error, ErrorCode};
pub use operation::Operation;
pub(crate) use scatter::MAX_RUNS;
pub use scatter::Scatter;

/// The size of the largest disk, in bytes: NBD clients keep offsets in signed 64-bit integers.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// The longest read or write, in bytes: the most that a client may send, or a component may be
/// given, at once. A power of two. QEMU and libnbd send up to 32 MiB.
pub const MAX_TRANSFER: u32 = 64 << 20;

/// What a client may request of a disk. The names are those of the contract's `capabilities`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Writes, zeroes and trims are allowed.
    pub writable: bool,
    /// Flush is supported.
    pub flush: bool,
    /// Force unit access (FUA) is honored.
    pub fua: bool,
    /// Trim is supported.
    pub trim: bool,
    /// Write zeroes is supported, by emulation if need be.
    pub zero: bool,
    /// Fast zero is supported.
    pub fast_zero: bool,
    /// Cache is supported.
    pub cache: bool,
    /// Several connections share one consistent view of the disk.
    pub multi_conn: bool,
    /// Seeking is slow.
    pub rotational: bool,
}

/// The block sizes of a disk, all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this: a power of two from 1 to 65536.
    pub minimum: u32,
    /// Efficient requests are multiples of this: a power of two, at least 512 and at least
    /// `minimum`.
    pub preferred: u32,
    /// The longest payload of a read or write: a multiple of `minimum`, at least `preferred`.
    pub maximum: u32,
}

/// Everything about a disk that is advertised to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size in bytes: at most [`MAX_SIZE`], and a multiple of `block_sizes.minimum`.
    pub size: u64,
    /// The block sizes to use in requests.
    pub block_sizes: BlockSizes,
    /// The operations offered to clients.
    pub capabilities: Capabilities,
    /// A human-readable line of at most 4096 bytes without NUL; may be empty.
    pub description: String,
}

impl Geometry {
    /// Returns the properties of the disk for somebody who only reads it.
    pub fn read_only(&self) -> Self {
        let capabilities = Capabilities {
            writable: false,
            trim: false,
            zero: false,
            fast_zero: false,
            ..self.capabilities
        };
        Self { capabilities, ..self.clone() }
    }

    /// Returns why a disk of the geometry `other` cannot take the place of this one under connected
    /// clients, who rely on this geometry, or `None` if it can.
    pub fn obstacle_to(&self, other: &Self) -> Option<&'static str> {
        let (told, offers) = (&self.capabilities, &other.capabilities);
        let offered = [
            (told.writable, offers.writable, "is not writable"),
            (told.flush, offers.flush, "has no flush"),
            (told.fua, offers.fua, "has no FUA"),
            (told.trim, offers.trim, "has no trim"),
            (told.zero, offers.zero, "cannot write zeroes"),
            (told.fast_zero, offers.fast_zero, "has no fast zeroes"),
            (told.cache, offers.cache, "has no cache command"),
            (told.multi_conn, offers.multi_conn, "is not consistent over several connections"),
        ];
        if self.size != other.size {
            return Some("has another size");
        }
        if !self.block_sizes.minimum.is_multiple_of(other.block_sizes.minimum)
            || self.block_sizes.maximum > other.block_sizes.maximum
        {
            return Some("does not accept the same block sizes");
        }
        offered.into_iter().find(|(told, offers, _)| *told && !offers).map(|(.., what)| what)
    }
}

/// A range of bytes within a disk: `offset + length` does not overflow and is at most its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The offset of the first byte.
    pub offset: u64,
    /// The length in bytes.
    pub length: u64,
}

impl Span {
    /// Returns the range of offsets.
    pub fn range(self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// Returns the offset after the last byte.
    pub fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Returns the rest of the span after its first `length` bytes.
    pub fn after(self, length: u64) -> Self {
        Self { offset: self.offset + length, length: self.length - length }
    }
}

/// A request that has been validated.
///
/// Its span lies within the disk and is not empty. It need not be aligned to the minimum block
/// size: whoever executes the command takes care of that. The payload of a write is passed
/// separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the span; `length` is at most the maximum payload of the session.
    Read {
        /// The span to read.
        span: Span,
    },
    /// Write the payload, whose length is the span's.
    Write {
        /// The span to write.
        span: Span,
        /// Reply only once the data is on stable storage.
        fua: bool,
    },
    /// Make the span read as zeroes.
    Zero {
        /// The span to zero.
        span: Span,
        /// Reply only once the zeroes are on stable storage.
        fua: bool,
        /// Leave the span allocated (NBD_CMD_FLAG_NO_HOLE).
        keep_allocated: bool,
        /// Fail with [`ErrorCode::NotSup`] rather than zero as slowly as a write.
        fast: bool,
    },
    /// The span is no longer needed.
    Trim {
        /// The span to trim.
        span: Span,
        /// Reply only once the trim is on stable storage.
        fua: bool,
    },
    /// Bring everything that was answered before to stable storage.
    Flush,
    /// The span will be read soon.
    Cache {
        /// The span to fetch.
        span: Span,
    },
    /// Report what is allocated in the span.
    Extents {
        /// The span to describe.
        span: Span,
        /// The maximum number of extents in the answer, at least one.
        limit: usize,
    },
}

impl Command {
    /// Returns what the command does.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Read { .. } => Operation::Read,
            Self::Write { .. } => Operation::Write,
            Self::Zero { .. } => Operation::Zero,
            Self::Trim { .. } => Operation::Trim,
            Self::Flush => Operation::Flush,
            Self::Cache { .. } => Operation::Cache,
            Self::Extents { .. } => Operation::Extents,
        }
    }

    /// Returns what the command applies to; empty for a flush.
    pub fn span(&self) -> Span {
        match *self {
            Self::Read { span }
            | Self::Write { span, .. }
            | Self::Zero { span, .. }
            | Self::Trim { span, .. }
            | Self::Cache { span }
            | Self::Extents { span, .. } => span,
            Self::Flush => Span { offset: 0, length: 0 },
        }
    }
}

/// The status of a range of bytes: the two bits of `base:allocation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Not allocated; writing may fail with ENOSPC.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

impl Status {
    /// Allocated, with any content.
    pub const DATA: Self = Self { hole: false, zero: false };
    /// Not allocated, and reads as zeroes.
    pub const HOLE: Self = Self { hole: true, zero: true };
}

/// A range of bytes with a single status: that of `base:allocation`, or of another metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent<S = Status> {
    /// The length in bytes, at least one.
    pub length: u64,
    /// The status of all its bytes.
    pub status: S,
}

/// The extents of a span from its beginning, in order and without gaps.
///
/// Adjacent extents differ in status, none is empty, there are no more than the limit, and together
/// they do not extend past the end of the span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents<S = Status> {
    list: Vec<Extent<S>>,
    limit: usize,
    covered: u64,
    length: u64,
}

impl<S: Copy + PartialEq> Extents<S> {
    /// Creates an empty list of at most `limit` extents for a span of `length` bytes.
    pub fn new(length: u64, limit: usize) -> Self {
        Self { list: Vec::new(), limit: limit.max(1), covered: 0, length }
    }

    /// Appends an extent, cut off at the end of the span, or extends the last one if the status is
    /// the same. Returns whether more can be appended.
    pub fn push(&mut self, length: u64, status: S) -> bool {
        let length = length.min(self.length - self.covered);
        if length == 0 {
            return !self.is_full();
        }
        let full = self.list.len() == self.limit;
        match self.list.last_mut() {
            Some(last) if last.status == status => last.length += length,
            _ if full => {
                self.length = self.covered;
                return false;
            }
            _ => self.list.push(Extent { length, status }),
        }
        self.covered += length;
        !self.is_full()
    }

    /// Returns how many bytes of the span are described so far.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Returns whether nothing more can be appended.
    pub fn is_full(&self) -> bool {
        self.covered == self.length
    }

    /// Returns the extents, in order.
    pub fn as_slice(&self) -> &[Extent<S>] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_join_cut_and_stop_at_the_limit() {
        let mut extents = Extents::new(100, 2);
        assert!(extents.push(10, Status::DATA));
        assert!(extents.push(0, Status::HOLE));
        assert!(extents.push(10, Status::DATA));
        assert!(extents.push(30, Status::HOLE));
        assert!(extents.push(30, Status::HOLE), "joining needs no room");
        assert!(!extents.push(1, Status::DATA), "a third extent is over the limit");
        assert!(!extents.push(1, Status::HOLE), "and nothing may follow what was left out");
        assert_eq!(
            extents.as_slice(),
            [
                Extent { length: 20, status: Status::DATA },
                Extent { length: 60, status: Status::HOLE }
            ]
        );

        let mut extents = Extents::new(100, 2);
        assert!(!extents.push(u64::MAX, Status::HOLE));
        assert_eq!(extents.as_slice(), [Extent { length: 100, status: Status::HOLE }]);
    }
}
