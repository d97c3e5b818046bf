//! Confining this process by the kernel, so that whoever takes it over gains little.
//!
//! Components are kept in by their sandbox, and this is the wall behind it: [`Files`] are the files
//! that threads can open from then on (Landlock), [`Calls`] the system calls that the process can make
//! (seccomp). Neither can be undone. This module does not know who needs what, except for the calls.
//!
//! What the kernel does not support is left out. That goes unnoticed unless a caller asks, for a
//! server on an old kernel is better than none.

mod calls;
mod files;

pub use calls::Calls;
pub use files::{Files, Rights, Rules};

use std::fmt;

/// How much of a confinement the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Full,
    /// What this kernel supports of it.
    Partial,
    /// Nothing: the kernel does not support it, or it is switched off.
    None,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::None => "none",
        })
    }
}
