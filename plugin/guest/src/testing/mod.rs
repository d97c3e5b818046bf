//! Lower devices in memory and a clock for unit tests of filters, on other targets than wasm32.
//!
//! Each thread has its own devices. They are sparse, so they can be of any size.
//!
//! ```
//! use memnbd_guest::{Capabilities, testing};
//!
//! let base = testing::device(1 << 40, Capabilities::WRITABLE);
//! base.write(12345, b"hello", false).unwrap();
//! let mut bytes = [0; 7];
//! base.read(12344, &mut bytes).unwrap();
//! assert_eq!(&bytes, b"\0hello\0");
//! ```

pub(crate) mod clock;
pub(crate) mod devices;
mod host;
mod outputs;

pub use clock::advance;
pub use devices::{
    Change, SetRoute, device, device_with, fail, fail_reopening, journal_length, released,
    reopenings, set_routes, start_journal, take_journal, withdrawals,
};
pub use host::{check, serve};
pub(crate) use outputs::append;
pub use outputs::{output, output_of, written};
