//! What devices need to zero spans.

use crate::block::Span;

/// The longest span that is zeroed by writing, in bytes: the most that a client without extended
/// headers can ask for. A longer one could keep a device busy for years (spec: "Size constraints").
pub(super) const MAX_WRITTEN: u64 = 4 << 30;

/// The zeroes of one write. Short, so that a client's departure is noticed between two of them.
pub(super) static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// A span to zero, with the flags of the command.
#[derive(Clone, Copy)]
pub(super) struct Zero {
    pub(super) span: Span,
    pub(super) fua: bool,
    pub(super) keep_allocated: bool,
    pub(super) fast: bool,
}
