//! The limits on what a client may request. Nothing is allocated for a length above them.

use crate::block::MAX_TRANSFER;

/// The longest string on the wire, in bytes (spec: "Conventions").
pub const MAX_STRING: usize = 4096;

/// The longest message of an error, in bytes: what the spec recommends for any string.
pub const MAX_TEXT: usize = 256;

/// The longest option data that is kept, in bytes. Longer data is skipped as it arrives.
pub const MAX_OPTION_DATA: usize = 64 << 10;

/// The length of an option header, in bytes.
pub const OPTION_HEADER_LEN: usize = 16;

/// How many options a client may send. Real clients send fewer than ten for each export.
pub const MAX_OPTIONS: u32 = 1024;

/// How many bytes of option data a client may announce, including those that are skipped.
pub const MAX_HANDSHAKE_BYTES: u64 = 32 << 20;

/// How many metadata context queries one option may contain.
pub const MAX_QUERIES: u32 = 4096;

/// How many metadata contexts a client may select, besides `base:allocation`.
pub const MAX_CONTEXTS: usize = 16;

/// How many dirty bitmaps are listed. Others can be selected by their names.
pub const MAX_LISTED_BITMAPS: usize = 256;

/// The maximum payload that clients may rely on if no block sizes were advertised (spec: "Size
/// constraints").
pub const DEFAULT_MAXIMUM_PAYLOAD: u32 = 32 << 20;

/// The longest payload of a read or write, in bytes, even if the disk could take more.
pub const MAX_PAYLOAD: u32 = MAX_TRANSFER;

/// The longest payload of a refused write, in bytes, that is still read to stay in step with the
/// client. A client that announces more is disconnected.
pub const MAX_DRAIN: u64 = 2 * MAX_PAYLOAD as u64;

/// How many extents one reply contains at most, of all contexts together. The spec allows 2^20; this many take 256 KiB.
pub const MAX_EXTENTS: usize = 1 << 14;
