//! The functions of the host for [`Lower`] devices.

use alloc::vec::Vec;

use crate::bindings::memnbd::block::types;
use crate::bindings::routing::memnbd::block::lower;
use crate::{
    Capabilities, Chunk, Error, ErrorCode, Extent, Geometry, Location, Lower, Operation,
    Operations, Status, ZeroOptions,
};

pub(crate) fn geometry(device: Lower) -> Geometry {
    let geometry = lower::describe(device.number());
    Geometry {
        size: geometry.size,
        minimum_block: geometry.minimum_block,
        preferred_block: geometry.preferred_block,
        capabilities: Capabilities::from_bits(geometry.capabilities.bits()),
    }
}

pub(crate) fn read(device: Lower, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
    let chunks = lower::read(device.number(), offset, length)?;
    Ok(chunks.into_iter().map(Chunk::from).collect())
}

pub(crate) fn write(device: Lower, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
    Ok(lower::write(device.number(), offset, data, fua)?)
}

pub(crate) fn zero(
    device: Lower,
    offset: u64,
    length: u64,
    options: ZeroOptions,
) -> Result<(), Error> {
    Ok(lower::zero(device.number(), offset, length, options.into())?)
}

pub(crate) fn trim(device: Lower, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
    Ok(lower::trim(device.number(), offset, length, fua)?)
}

pub(crate) fn flush(device: Lower) -> Result<(), Error> {
    Ok(lower::flush(device.number())?)
}

pub(crate) fn extents(device: Lower, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
    let extents = lower::extents(device.number(), offset, length)?;
    Ok(extents.into_iter().map(Extent::from).collect())
}

pub(crate) fn cache(device: Lower, offset: u64, length: u64) -> Result<(), Error> {
    Ok(lower::cache(device.number(), offset, length)?)
}

pub(crate) fn reopen(device: Lower) -> Result<(), Error> {
    Ok(lower::reopen(device.number())?)
}

pub(crate) fn withdraw_routes() {
    lower::withdraw_routes();
}

pub(crate) fn set_route(operations: Operations, offset: u64, length: u64, place: Option<Location>) {
    let device = place.map(|place| place.device.number());
    let to = place.map_or(0, |place| place.offset);
    lower::set_route(operations.into(), offset, length, device, to);
}

pub(crate) fn release(hold: u64) {
    lower::release(hold);
}

impl From<types::ErrorCode> for ErrorCode {
    fn from(code: types::ErrorCode) -> Self {
        match code {
            types::ErrorCode::Eperm => Self::Eperm,
            types::ErrorCode::Eio => Self::Eio,
            types::ErrorCode::Enomem => Self::Enomem,
            types::ErrorCode::Einval => Self::Einval,
            types::ErrorCode::Enospc => Self::Enospc,
            types::ErrorCode::Eoverflow => Self::Eoverflow,
            types::ErrorCode::Enotsup => Self::Enotsup,
            types::ErrorCode::Eshutdown => Self::Eshutdown,
        }
    }
}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        Self { code: error.code.into(), message: error.message.map(Into::into) }
    }
}

impl From<types::Chunk> for Chunk {
    fn from(chunk: types::Chunk) -> Self {
        match chunk {
            types::Chunk::Data(bytes) => Self::Data(bytes),
            types::Chunk::Hole(length) => Self::Hole(length),
        }
    }
}

impl From<types::Extent> for Extent {
    fn from(extent: types::Extent) -> Self {
        let has = |status: types::Status| extent.status.bits() & status.bits() != 0;
        let status = Status { hole: has(types::Status::HOLE), zero: has(types::Status::ZERO) };
        Self { length: extent.length, status }
    }
}

impl From<Operations> for lower::Operations {
    fn from(operations: Operations) -> Self {
        let flags = [Self::READ, Self::WRITE, Self::ZERO, Self::TRIM, Self::CACHE, Self::EXTENTS]
            .into_iter();
        let set = Operation::ALL.into_iter().zip(flags);
        set.filter(|(operation, _)| operations.contains(*operation))
            .fold(Self::empty(), |all, (_, flag)| all | flag)
    }
}

impl From<ZeroOptions> for types::ZeroOptions {
    fn from(options: ZeroOptions) -> Self {
        let mut flags = Self::empty();
        for (set, flag) in [
            (options.fua, Self::FUA),
            (options.keep_allocated, Self::KEEP_ALLOCATED),
            (options.fast, Self::FAST),
        ] {
            if set {
                flags = flags | flag;
            }
        }
        flags
    }
}
