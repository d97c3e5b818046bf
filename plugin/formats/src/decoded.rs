//! What is the same of all disks that are decoded from the device beneath: their bytes are nowhere but in the
//! component.

use memnbd_guest::{Capabilities, Disk, Lower, Place, Request, Route, StableRoute};

/// The least preferred block, in bytes: shorter reads decode no less.
const LEAST_PREFERRED: u32 = 64 << 10;

/// Returns the disk, of this size.
pub fn disk(base: &Lower, size: u64) -> Disk {
    let preferred = Disk::above(&base.geometry()).preferred_block.max(LEAST_PREFERRED);
    let capabilities = Capabilities::MULTI_CONN;
    Disk { preferred_block: preferred, capabilities, ..Disk::new(size) }.in_pieces()
}

/// Returns the route of a request.
pub fn route(request: &Request) -> Route {
    Route::new().segment(Place::Own, request.length)
}

/// Returns the route from an offset to the end of a disk of this size, which does not change.
pub fn stable(size: u64, offset: u64) -> Option<StableRoute> {
    let length = size.checked_sub(offset).filter(|length| *length > 0)?;
    Some(StableRoute::new(Place::Own, length))
}
