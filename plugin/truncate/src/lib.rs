//! A filter that changes the size of another disk, like nbdkit's filter `truncate`.
//!
//! - `truncate` is the new size.
//! - `round-up` and `round-down` round the size, in this order, to a multiple of a power of two.
//!
//! A disk that becomes smaller keeps what is after its end. One that becomes larger has a hole after
//! the end of the disk beneath: it reads as zeroes, takes zeroes, and fails other writes with ENOSPC.
//! Writes to the hole are all that goes through this component.
//!
//! The blocks of the disk are those of the disk beneath, or smaller ones if its blocks do not fit.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, MAX_SIZE, OpenRequest,
    Operation, Parameter, ParameterType, Place, Request, Route, StableRoute, ZeroOptions,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Truncate {
    base: Lower,
    size: u64,
    /// The end of the part that is on the disk beneath.
    real: u64,
}

/// Returns the unit of a parameter, to a multiple of which the size is rounded.
fn unit(request: &OpenRequest, name: &str) -> Result<Option<u64>, Error> {
    let unit = request.size(name);
    if let Some(unit) = unit
        && !unit.is_power_of_two()
    {
        return Err(Error::EINVAL.because(format!("{name}={unit} must be a power of two")));
    }
    Ok(unit)
}

impl Truncate {
    /// Returns the place of a request after the end of the disk beneath.
    fn beyond(operation: Operation) -> Place {
        match operation {
            // This component looks at what is written, and keeps the promise to leave a range
            // allocated without allocating it.
            Operation::Write | Operation::Zero => Place::Own,
            _ => Place::Hole,
        }
    }
}

impl Backend for Truncate {
    fn describe() -> Description {
        let unit = |name, summary| {
            Parameter::new(name, summary, ParameterType::Size(1, 1 << 31)).default("1")
        };
        Description::new("truncate", env!("CARGO_PKG_VERSION"), "another disk, with another size")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
            .parameter(
                Parameter::size("truncate", "the size of the disk")
                    .default("that of the device beneath"),
            )
            .parameter(unit("round-up", "round the size up to a multiple of this power of two"))
            .parameter(unit("round-down", "round the size down to a multiple of this power of two"))
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let available = base.geometry().size;
        let mut size = request.size("truncate").unwrap_or(available);
        if let Some(unit) = unit(request, "round-up")? {
            size = size.next_multiple_of(unit);
            if size > MAX_SIZE {
                return Err(Error::EINVAL.because(format!(
                    "round-up={unit} makes the disk larger than {MAX_SIZE} bytes, the size of the \
                     largest disk"
                )));
            }
        }
        if let Some(unit) = unit(request, "round-down")? {
            size -= size % unit;
        }
        Ok(Self { base, size, real: size.min(available) })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        let mut capabilities = disk.capabilities | Capabilities::INTERCHANGEABLE;
        if self.real < self.size && capabilities.contains(Capabilities::ZERO) {
            // Zeroing after the end is fast. The host looks at what the disk beneath can do.
            capabilities |= Capabilities::FAST_ZERO;
        }
        let divisors = u64::from(disk.minimum_block) | self.real | self.size;
        Disk {
            size: self.size,
            minimum_block: 1 << divisors.trailing_zeros(),
            capabilities,
            ..disk
        }
    }

    /// Reads after the end of the disk beneath, to complete a block that is written.
    fn read(&mut self, _offset: u64, _buffer: &mut [u8]) -> Result<(), Error> {
        Ok(())
    }

    fn write(&mut self, _offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        if data.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        Err(Error::ENOSPC.because(format!(
            "the device beneath ends after {} bytes; what is after it is zero and stays so",
            self.real
        )))
    }

    fn zero(&mut self, _offset: u64, _length: u64, _options: ZeroOptions) -> Result<(), Error> {
        Ok(())
    }
}

impl Filter for Truncate {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let inside = self.real.saturating_sub(request.offset).min(request.length);
        let mut route = Route::new();
        if inside > 0 {
            route.push(self.base.at(request.offset), inside);
        }
        if inside < request.length {
            route.push(Self::beyond(request.operation), request.length - inside);
        }
        Ok(route)
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if offset < self.real {
            return self.base.pass_until(offset, self.real);
        }
        let length = self.size.checked_sub(offset).filter(|length| *length > 0)?;
        Some(StableRoute::new(Self::beyond(operation), length))
    }
}

memnbd_guest::filter!(Truncate);

#[cfg(test)]
mod tests;
