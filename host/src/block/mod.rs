//! The vocabulary in which the protocol and the components speak of a disk.
//!
//! It knows neither NBD's bytes nor WebAssembly. Whatever is spelled in these types has been
//! checked: a [`Command`] lies within the disk it is for, an [`Extents`] list is what its builder
//! guarantees.

mod chunk;
mod scatter;

use std::fmt;
use std::ops::Range;

pub use chunk::Chunk;
pub(crate) use scatter::MAX_RUNS;
pub use scatter::Scatter;

/// The largest disk, in bytes: NBD clients keep offsets in signed 64-bit integers.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// The longest read or write, in bytes: what a client may send at once, what a component may be given
/// at once. A power of two. QEMU and libnbd send up to 32 MiB.
pub const MAX_TRANSFER: u32 = 64 << 20;

/// Why a request failed: the errors that NBD can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// EPERM: not permitted, as writing to a read-only disk is not.
    Perm,
    /// EIO: input or output failed.
    Io,
    /// ENOMEM: no memory for the request.
    NoMem,
    /// EINVAL: the request makes no sense.
    Inval,
    /// ENOSPC: no space left, or beyond the end of the disk.
    NoSpc,
    /// EOVERFLOW: the request is too large.
    Overflow,
    /// ENOTSUP: zeroing is not fast here. The answer to nothing but a fast zero.
    NotSup,
    /// ESHUTDOWN: the server is about to stop.
    Shutdown,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "out of memory",
            Self::Inval => "invalid argument",
            Self::NoSpc => "no space left on the disk",
            Self::Overflow => "value too large",
            Self::NotSup => "operation not supported",
            Self::Shutdown => "the server is shutting down",
        })
    }
}

/// What a client may ask of a disk. The same names as in the contract's `capabilities`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Writes, zeroes and trims are allowed.
    pub writable: bool,
    /// A flush means something.
    pub flush: bool,
    /// Force unit access is obeyed.
    pub fua: bool,
    /// Trim is understood.
    pub trim: bool,
    /// Write zeroes is understood, by emulation if need be.
    pub zero: bool,
    /// Fast zero is understood.
    pub fast_zero: bool,
    /// Cache is understood.
    pub cache: bool,
    /// Several connections see one and the same disk.
    pub multi_conn: bool,
    /// Seeking is slow.
    pub rotational: bool,
}

/// The sizes in which a disk is addressed, all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it: a power of two from 1 to 65536.
    pub minimum: u32,
    /// Efficient requests are multiples of it: a power of two, at least 512 and at least `minimum`.
    pub preferred: u32,
    /// The longest payload of a read or write: a multiple of `minimum`, at least `preferred`.
    pub maximum: u32,
}

/// All that the protocol tells clients about a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// In bytes, at most [`MAX_SIZE`], a multiple of `block_sizes.minimum`.
    pub size: u64,
    /// How the disk wants to be addressed.
    pub block_sizes: BlockSizes,
    /// What clients are offered.
    pub capabilities: Capabilities,
    /// A line for people, at most 4096 bytes, without NUL; perhaps empty.
    pub description: String,
}

/// A run of bytes within a disk: `offset + length` does not overflow and is at most its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of the first byte.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

impl Span {
    /// The offsets covered.
    pub fn range(self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// The offset after the last byte.
    pub fn end(self) -> u64 {
        self.offset + self.length
    }

    /// What is left of it after its first `length` bytes.
    pub fn after(self, length: u64) -> Self {
        Self { offset: self.offset + length, length: self.length - length }
    }
}

/// A request that was found to be in order.
///
/// Its span lies within the disk and has a length of at least one. It need not be aligned to the
/// minimum block size: whoever executes it sees to that. A write's payload travels beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the span; `length` is at most the maximum payload of the session.
    Read {
        /// What to read.
        span: Span,
    },
    /// Write the payload, whose length is the span's.
    Write {
        /// Where to.
        span: Span,
        /// Answer when it is on stable storage.
        fua: bool,
    },
    /// Make the span read as zeroes.
    Zero {
        /// What to zero.
        span: Span,
        /// Answer when it is on stable storage.
        fua: bool,
        /// Leave the span allocated (NBD_CMD_FLAG_NO_HOLE).
        keep_allocated: bool,
        /// Fail with [`ErrorCode::NotSup`] rather than be as slow as a write.
        fast: bool,
    },
    /// The span is no longer needed.
    Trim {
        /// What to trim.
        span: Span,
        /// Answer when it is on stable storage.
        fua: bool,
    },
    /// Everything that was answered before is to be on stable storage.
    Flush,
    /// The span will be read soon.
    Cache {
        /// What to fetch.
        span: Span,
    },
    /// Tell what is allocated in the span.
    Extents {
        /// What to look at.
        span: Span,
        /// How many extents the answer may have, at least one.
        limit: usize,
    },
}

/// What is known of a run of bytes: the two bits of `base:allocation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Not allocated; writing may fail with ENOSPC.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

impl Status {
    /// Allocated, of any content.
    pub const DATA: Self = Self { hole: false, zero: false };
    /// Neither allocated nor anything but zeroes.
    pub const HOLE: Self = Self { hole: true, zero: true };
}

/// A run of bytes of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In bytes, at least one.
    pub length: u64,
    /// Of all its bytes.
    pub status: Status,
}

/// The extents of a span from its beginning, in order and without gaps.
///
/// Neighbours differ, none is empty, there are at most as many as the limit says, and together they
/// do not reach beyond the span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    list: Vec<Extent>,
    limit: usize,
    covered: u64,
    length: u64,
}

impl Extents {
    /// An empty list for a span of `length` bytes that takes at most `limit` extents.
    pub fn new(length: u64, limit: usize) -> Self {
        Self { list: Vec::new(), limit: limit.max(1), covered: 0, length }
    }

    /// Appends a run, as much of it as lies within the span; joins it to its neighbour if the status
    /// is the same. Returns whether more can be appended.
    pub fn push(&mut self, length: u64, status: Status) -> bool {
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

    /// How many bytes of the span are described so far.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Whether nothing more can be appended.
    pub fn is_full(&self) -> bool {
        self.covered == self.length
    }

    /// The extents, in order.
    pub fn as_slice(&self) -> &[Extent] {
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
