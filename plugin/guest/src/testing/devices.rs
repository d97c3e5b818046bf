//! The devices of a thread.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use std::cell::{Cell, RefCell};

use crate::{
    Capabilities, Chunk, Error, ErrorCode, Extent, Geometry, Location, Lower, Operations, Status,
    ZeroOptions,
};

/// The unit in which devices allocate memory.
const PAGE: u64 = 4096;

/// The longest read or write of a component.
const MAX_TRANSFER: usize = 1 << 20;

std::thread_local! {
    static DEVICES: RefCell<Vec<Device>> = const { RefCell::new(Vec::new()) };
    static WITHDRAWALS: Cell<u32> = const { Cell::new(0) };
    static RELEASED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static ROUTES: RefCell<Vec<SetRoute>> = const { RefCell::new(Vec::new()) };
    static JOURNAL: RefCell<Option<Vec<Change>>> = const { RefCell::new(None) };
}

/// A call of [`set_route`](crate::set_route).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetRoute {
    /// The operations.
    pub operations: Operations,
    /// The beginning of the range.
    pub offset: u64,
    /// The length of the range.
    pub length: u64,
    /// Where it is.
    pub place: Option<Location>,
}

/// Returns the calls of [`set_route`](crate::set_route) in this thread, since it was last asked.
pub fn set_routes() -> Vec<SetRoute> {
    ROUTES.take()
}

/// A change of a device. A trim is one if it zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bytes were written at an offset.
    Write(Lower, u64, Vec<u8>),
    /// A range was zeroed, from an offset on, of a length.
    Zero(Lower, u64, u64),
    /// The device was flushed: what was changed before is on stable storage.
    Flush(Lower),
}

/// Starts to record the changes of all devices of this thread, for tests of what a crash leaves.
pub fn start_journal() {
    JOURNAL.set(Some(Vec::new()));
}

/// Returns how many changes have been recorded.
pub fn journal_length() -> usize {
    JOURNAL.with_borrow(|journal| journal.as_ref().map_or(0, Vec::len))
}

/// Returns the changes that have been recorded, in order, and ends recording.
pub fn take_journal() -> Vec<Change> {
    JOURNAL.take().unwrap_or_default()
}

fn record(change: impl FnOnce() -> Change) {
    JOURNAL.with_borrow_mut(|journal| {
        if let Some(journal) = journal {
            journal.push(change());
        }
    });
}

/// A device in memory.
struct Device {
    geometry: Geometry,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    failure: Option<ErrorCode>,
    reopenings: u32,
    reopening_failure: Option<ErrorCode>,
}

/// Adds a device to this thread, which has blocks of one byte, is all zeroes, and has the
/// capabilities that all devices have besides these.
pub fn device(size: u64, capabilities: Capabilities) -> Lower {
    device_with(Geometry { size, minimum_block: 1, preferred_block: 4096, capabilities })
}

/// Adds a device with this geometry to this thread.
pub fn device_with(geometry: Geometry) -> Lower {
    let always = Capabilities::FLUSH | Capabilities::FUA | Capabilities::EXTENTS;
    let geometry = Geometry { capabilities: geometry.capabilities | always, ..geometry };
    DEVICES.with_borrow_mut(|devices| {
        devices.push(Device {
            geometry,
            pages: BTreeMap::new(),
            failure: None,
            reopenings: 0,
            reopening_failure: None,
        });
        Lower::new(devices.len() as u32 - 1)
    })
}

/// Makes all reads and changes of a device fail from now on, or succeed again.
pub fn fail(device: Lower, failure: Option<ErrorCode>) {
    with(device, |device| device.failure = failure);
}

/// Makes [`Lower::reopen`] fail from now on, or succeed again.
pub fn fail_reopening(device: Lower, failure: Option<ErrorCode>) {
    with(device, |device| device.reopening_failure = failure);
}

/// Returns how often a device was opened anew, or should have been.
pub fn reopenings(device: Lower) -> u32 {
    with(device, |device| device.reopenings)
}

/// Returns the numbers with which this thread has called [`release`](crate::release), since it was last
/// asked.
pub fn released() -> Vec<u64> {
    RELEASED.take()
}

/// Returns how often this thread has called [`withdraw_routes`](crate::withdraw_routes).
pub fn withdrawals() -> u32 {
    WITHDRAWALS.get()
}

/// Passes a device to a function.
///
/// # Panics
///
/// Panics if the number is not that of a device, as the host traps.
fn with<T>(device: Lower, function: impl FnOnce(&mut Device) -> T) -> T {
    DEVICES.with_borrow_mut(|devices| {
        function(devices.get_mut(device.number() as usize).expect("the device exists"))
    })
}

impl Device {
    fn check(&self, offset: u64, length: u64, changes: bool) -> Result<(), Error> {
        let end = offset.checked_add(length);
        if length == 0 || end.is_none_or(|end| end > self.geometry.size) {
            return Err(Error::EINVAL);
        }
        if changes && !self.geometry.capabilities.contains(Capabilities::WRITABLE) {
            return Err(Error::EPERM);
        }
        self.failure.map_or(Ok(()), |code| Err(Error::new(code)))
    }

    /// Calls a function with each part of `buffer` that lies in one page, with the page's number
    /// and the offset within.
    fn in_pages(offset: u64, length: usize, mut function: impl FnMut(u64, usize, usize, usize)) {
        let mut at = 0;
        while at < length {
            let within = (offset + at as u64) % PAGE;
            let part = (length - at).min((PAGE - within) as usize);
            function((offset + at as u64) / PAGE, within as usize, at, part);
            at += part;
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) {
        Self::in_pages(offset, buffer.len(), |page, within, at, length| {
            let part = &mut buffer[at..at + length];
            match self.pages.get(&page) {
                Some(page) => part.copy_from_slice(&page[within..within + length]),
                None => part.fill(0),
            }
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        Self::in_pages(offset, data.len(), |page, within, at, length| {
            let page = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[within..within + length].copy_from_slice(&data[at..at + length]);
        });
    }

    /// Frees the pages that lie within the range, and zeroes the bytes at its ends.
    fn zero(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        let touched: Vec<u64> =
            self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in touched {
            let start = offset.max(page * PAGE) - page * PAGE;
            let stop = end.min((page + 1) * PAGE) - page * PAGE;
            if (start, stop) == (0, PAGE) {
                self.pages.remove(&page);
            } else if let Some(page) = self.pages.get_mut(&page) {
                page[start as usize..stop as usize].fill(0);
            }
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Vec<Extent> {
        let mut extents = Vec::new();
        let end = offset + length;
        let mut at = offset;
        for (page, _) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let (start, stop) = (at.max(page * PAGE), end.min((page + 1) * PAGE));
            if start > at {
                extents.push(Extent { length: start - at, status: Status::HOLE });
            }
            extents.push(Extent { length: stop - start, status: Status::DATA });
            at = stop;
        }
        if at < end {
            extents.push(Extent { length: end - at, status: Status::HOLE });
        }
        extents.truncate(4096);
        extents
    }
}

pub(crate) fn geometry(device: Lower) -> Geometry {
    with(device, |device| device.geometry)
}

pub(crate) fn read(device: Lower, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
    if length as usize > MAX_TRANSFER {
        return Err(Error::EINVAL);
    }
    with(device, |device| {
        device.check(offset, length.into(), false)?;
        Ok(vec![Chunk::data(length, |buffer| {
            device.read(offset, buffer);
            Ok(())
        })?])
    })
}

pub(crate) fn write(device: Lower, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
    if data.len() > MAX_TRANSFER {
        return Err(Error::EINVAL);
    }
    with(device, |device| {
        device.check(offset, data.len() as u64, true)?;
        device.write(offset, data);
        Ok(())
    })?;
    record(|| Change::Write(device, offset, data.to_vec()));
    Ok(())
}

pub(crate) fn zero(
    device: Lower,
    offset: u64,
    length: u64,
    _options: ZeroOptions,
) -> Result<(), Error> {
    with(device, |device| {
        device.check(offset, length, true)?;
        device.zero(offset, length);
        Ok(())
    })?;
    record(|| Change::Zero(device, offset, length));
    Ok(())
}

pub(crate) fn trim(device: Lower, offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
    let zeroes = with(device, |device| {
        device.check(offset, length, true)?;
        let zeroes = device.geometry.capabilities.contains(Capabilities::TRIM);
        if zeroes {
            device.zero(offset, length);
        }
        Ok::<_, Error>(zeroes)
    })?;
    if zeroes {
        record(|| Change::Zero(device, offset, length));
    }
    Ok(())
}

pub(crate) fn flush(device: Lower) -> Result<(), Error> {
    with(device, |device| device.failure.map_or(Ok(()), |code| Err(Error::new(code))))?;
    record(|| Change::Flush(device));
    Ok(())
}

pub(crate) fn extents(device: Lower, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
    with(device, |device| {
        device.check(offset, length, false)?;
        Ok(device.extents(offset, length))
    })
}

pub(crate) fn cache(device: Lower, offset: u64, length: u64) -> Result<(), Error> {
    with(device, |device| device.check(offset, length, false))
}

pub(crate) fn reopen(device: Lower) -> Result<(), Error> {
    with(device, |device| {
        device.reopenings += 1;
        device.reopening_failure.map_or(Ok(()), |code| Err(Error::new(code)))
    })
}

pub(crate) fn withdraw_routes() {
    WITHDRAWALS.set(WITHDRAWALS.get() + 1);
}

pub(crate) fn set_route(operations: Operations, offset: u64, length: u64, place: Option<Location>) {
    let route = SetRoute { operations, offset, length, place };
    ROUTES.with_borrow_mut(|routes| routes.push(route));
}

pub(crate) fn release(hold: u64) {
    RELEASED.with_borrow_mut(|released| released.push(hold));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_SIZE;

    #[test]
    fn ranges_beyond_the_device_are_refused() {
        let device = device(4096, Capabilities::WRITABLE);
        assert_eq!(device.read(4090, &mut [0; 7]), Err(Error::EINVAL));
        assert_eq!(device.write(4096, &[1], false), Err(Error::EINVAL));
        assert_eq!(device.zero(1, u64::MAX, ZeroOptions::default()), Err(Error::EINVAL));
        assert_eq!(device.cache(0, 0), Err(Error::EINVAL));
    }

    #[test]
    fn long_transfers_are_made_in_pieces() {
        let device = device(8 << 20, Capabilities::WRITABLE);
        let data: Vec<u8> = (0..(3 << 20) + 5).map(|at| (at / 1000) as u8).collect();
        device.write(7, &data, false).unwrap();
        let mut bytes = vec![0; data.len()];
        device.read(7, &mut bytes).unwrap();
        assert!(bytes == data);
        assert_eq!(device.read_chunks(0, (1 << 20) + 1), Err(Error::EINVAL));
        assert_eq!(device.read(6 << 20, &mut bytes), Err(Error::EINVAL));
        assert_eq!(device.write(8 << 20, &[], false), Err(Error::EINVAL));
    }

    #[test]
    fn changes_need_a_writable_device() {
        let device = device(4096, Capabilities::NONE);
        assert_eq!(device.write(0, &[1], false), Err(Error::EPERM));
        assert_eq!(device.trim(0, 1, false), Err(Error::EPERM));
        assert_eq!(device.read(0, &mut [0; 7]), Ok(()));
    }

    #[test]
    fn zeroed_pages_become_holes() {
        let device = device(MAX_SIZE, Capabilities::WRITABLE);
        device.write(MAX_SIZE - 10_000, &[7; 10_000], false).unwrap();
        device.zero(MAX_SIZE - 9_999, 9_998, ZeroOptions::default()).unwrap();
        let mut bytes = [1; 10_000];
        device.read(MAX_SIZE - 10_000, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[9_999]), (7, 7));
        assert!(bytes[1..9_999].iter().all(|byte| *byte == 0));
        let holes: Vec<bool> = device
            .extents(0, MAX_SIZE)
            .unwrap()
            .iter()
            .map(|extent| extent.status == Status::HOLE)
            .collect();
        assert_eq!(holes, [true, false, true, false]);
    }
}
