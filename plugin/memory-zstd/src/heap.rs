//! Allocates what stays, such that there is always memory left for what does not.
//!
//! The heap of a component traps when it is exhausted, and a call needs memory: for its payload or
//! its result, for the lists of the contract, and for the tables of the codec. What is allocated
//! for longer than a call is allocated here, and only if a run of [`RESERVE`] bytes remains free
//! beside it. A call needs less than that, and frees it all, so the run is there for the next call.

use alloc::vec::Vec;
use core::hint::black_box;

/// The memory that is left free for the calls, in bytes. The largest payload or result takes a
/// quarter of it, and so does what the codec can allocate.
const RESERVE: usize = 1 << 20;

/// The memory for a new entry in the map of pages, in bytes: one node of a B-tree at each level.
const NODES: usize = 8 << 10;

/// Memory for what stays.
pub trait Heap {
    /// Calls a function that allocates a run of at most `size` bytes and inserts an entry into a
    /// map. Returns `None` and does not call it if there would not be enough memory. `used` is the
    /// sum of the sizes in use.
    fn allocate<T>(&mut self, used: u64, size: usize, function: impl FnOnce() -> T) -> Option<T>;
}

/// The heap of the component.
#[derive(Debug)]
pub struct Component;

impl Heap for Component {
    fn allocate<T>(&mut self, _used: u64, size: usize, function: impl FnOnce() -> T) -> Option<T> {
        let reserve = run(RESERVE)?;
        // What the function allocates fits where this was, and cannot be where the reserve is.
        drop(run(size + NODES)?);
        let result = function();
        drop(reserve);
        Some(result)
    }
}

/// Allocates a run of bytes, which the compiler must not leave out although nobody uses it.
fn run(size: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).ok()?;
    Some(black_box(bytes))
}
