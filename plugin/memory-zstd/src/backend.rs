//! The component: parameters, and the calls of the host.

use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Chunk, Description, Disk, Error, Extent, OpenRequest, Parameter,
    Sharded, Status, ZeroOptions,
};

use crate::heap::Component;
use crate::store::{self, Store, StoreError};

/// The longest read or write in bytes, which is also the unit in which the disk is divided among
/// instances: the requests of a sequential client are compressed in parallel.
const STRIPE: u32 = 256 << 10;

/// The most extents of a call.
const MAX_EXTENTS: usize = 1024;

struct Memory(Store<Component>);

impl Backend for Memory {
    fn describe() -> Description {
        let summary = "a sparse disk in compressed memory: memory with allocator=zstd";
        Description::new("memory-zstd", env!("CARGO_PKG_VERSION"), summary)
            .parameter(Parameter::size("size", "the size of the disk").required())
            .parameter(
                Parameter::choice("allocator", "what memory calls this component", &["zstd"])
                    .default("zstd"),
            )
            .bare_parameter("size")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        // The host has seen to it that there is a size.
        let size = request.size("size").ok_or(Error::EINVAL)?;
        let store = Store::new(size, Component).map_err(|_| {
            Error::ENOMEM.because("there is not enough memory: an instance needs at least 4 MiB")
        })?;
        Ok(Self(store))
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::FLUSH
            | Capabilities::FUA
            | Capabilities::TRIM
            | Capabilities::ZERO
            | Capabilities::FAST_ZERO
            | Capabilities::CACHE
            | Capabilities::EXTENTS
            | Capabilities::MULTI_CONN;
        Disk {
            capabilities,
            maximum_transfer: STRIPE,
            preferred_block: store::PAGE_SIZE as u32,
            ..Disk::new(self.0.size())
        }
    }

    fn read_chunks(&mut self, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        let chunks = self.0.read(offset, length).map_err(|error| match error {
            StoreError::NoSpace => Error::ENOMEM,
            StoreError::Corrupt => Error::EIO,
        })?;
        let chunk = |chunk| match chunk {
            store::Chunk::Data(bytes) => Chunk::Data(bytes),
            store::Chunk::Hole(length) => Chunk::Hole(length),
        };
        Ok(chunks.into_iter().map(chunk).collect())
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        self.0.write(offset, data).map_err(failed)
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        match options.keep_allocated {
            true => self.0.zero_allocated(offset, length),
            false => self.0.zero(offset, length),
        }
        .map_err(failed)
    }

    fn trim(&mut self, offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
        match self.0.zero(offset, length) {
            // Pages that lie in the range in part may keep what they have.
            Ok(()) | Err(StoreError::NoSpace) => Ok(()),
            Err(StoreError::Corrupt) => Err(Error::EIO),
        }
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let mut extents = Vec::new();
        self.0.extents(offset, length, MAX_EXTENTS, |length, status| {
            let status = match status {
                store::Status::Hole => Status::HOLE,
                store::Status::Zero => Status::ZERO,
                store::Status::Data => Status::DATA,
            };
            extents.push(Extent { length, status });
        });
        Ok(extents)
    }
}

impl Sharded for Memory {
    fn stripe_size(&self) -> u64 {
        STRIPE.into()
    }

    fn stored(&self) -> u64 {
        self.0.stored()
    }
}

fn failed(error: StoreError) -> Error {
    match error {
        StoreError::NoSpace => Error::ENOSPC,
        StoreError::Corrupt => Error::EIO,
    }
}

memnbd_guest::sharded!(Memory);
