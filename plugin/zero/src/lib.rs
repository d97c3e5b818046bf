//! A component whose disk has no bytes, to test how clients handle that.

#![cfg_attr(target_arch = "wasm32", no_std)]

use memnbd_guest::{Backend, Capabilities, Description, Disk, Error, OpenRequest};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Zero;

impl Backend for Zero {
    fn describe() -> Description {
        Description::new("zero", env!("CARGO_PKG_VERSION"), "a disk of zero bytes")
    }

    fn open(_request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self)
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::MULTI_CONN | Capabilities::INTERCHANGEABLE;
        Disk { capabilities, ..Disk::new(0) }
    }

    // The host never reads a disk without bytes.
    fn read(&mut self, _offset: u64, _buffer: &mut [u8]) -> Result<(), Error> {
        Err(Error::EINVAL)
    }
}

memnbd_guest::backend!(Zero);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_is_empty_and_takes_no_parameters() {
        assert!(Zero::describe().parameters.is_empty());
        assert_eq!(Zero::open(&OpenRequest::default()).unwrap().disk().size, 0);
    }
}
