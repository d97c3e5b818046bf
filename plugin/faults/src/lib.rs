//! What components that inject faults share: which requests a fault is for, and where on the disk.
//!
//! A [`Rule`] decides about each request. Its parameters have a prefix that is the component's own, and
//! the same meanings in all components, see [`Names`]. [`Ranges`] are parts of a disk, [`Scatter`]
//! spreads faults over a disk as a function of a seed, [`Random`] draws numbers that a seed repeats, and [`rescued`] reads map
//! files of GNU ddrescue.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod errors;
mod mapfile;
mod random;
mod ranges;
mod rule;
mod scatter;
mod states;

pub use errors::{ERROR_NAMES, error_code};
pub use mapfile::rescued;
pub use random::Random;
pub use ranges::{MAX_RANGES, Range, Ranges};
pub use rule::{Names, Rule};
pub use scatter::Scatter;
pub use states::Event;
