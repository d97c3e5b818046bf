//! A filter that swaps the bytes of another disk, like nbdkit's filter `swab`. It makes images of
//! machines readable whose disks are wired the other way round.
//!
//! `swab-bits` is the length of the words whose bytes are reversed: 16 by default, 32, 64, or 8, which
//! changes nothing. The disk ends with the last whole word of the disk beneath.
//!
//! Requests of clients that did not ask for the block sizes may begin and end within a word, unlike with
//! nbdkit: the host completes them.
//!
//! The data pass through this component, in pieces of 1 MiB.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Chunk, Description, Disk, Error, Extent, Filter, Lower, OpenRequest,
    Operation, Parameter, Place, Request, Route, StableRoute, Status, ZeroOptions,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct Swab {
    base: Lower,
    /// The length of a word in bytes.
    word: u64,
    size: u64,
}

impl Swab {
    /// Reverses the bytes of each word. There are whole words only.
    fn swap(&self, bytes: &mut [u8]) {
        // The length is known in each case, so that these loops are a few instructions for many bytes.
        match self.word {
            2 => bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|word| word.reverse()),
            4 => bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|word| word.reverse()),
            8 => bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|word| word.reverse()),
            _ => {}
        }
    }

    /// Returns true if a request with swapped bytes is for the same bytes.
    fn is_whole(&self, request: &Request) -> bool {
        (request.offset | request.length).is_multiple_of(self.word)
    }

    /// Returns true if the extents of the device beneath consist of whole words.
    fn has_whole_extents(&self) -> bool {
        u64::from(self.base.geometry().minimum_block) >= self.word
    }
}

impl Backend for Swab {
    fn describe() -> Description {
        Description::new("swab", env!("CARGO_PKG_VERSION"), "another disk, with swapped bytes")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
            .parameter(
                Parameter::choice(
                    "swab-bits",
                    "the length of the words whose bytes are reversed",
                    &["8", "16", "32", "64"],
                )
                .default("16"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let word = match request.text("swab-bits") {
            Some("8") => 1,
            Some("32") => 4,
            Some("64") => 8,
            _ => 2,
        };
        let size = base.geometry().size;
        Ok(Self { base, word, size: size - size % word })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        Disk {
            size: self.size,
            // The host completes words of requests that come here.
            minimum_block: disk.minimum_block.max(self.word as u32),
            capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE,
            ..disk
        }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)?;
        self.swap(buffer);
        Ok(())
    }

    fn read_chunks(&mut self, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        if u64::from(length) <= 1 << 20 {
            let mut chunks = self.base.read_chunks(offset, length)?;
            let is_whole = |chunk: &Chunk| match chunk {
                Chunk::Data(bytes) => (bytes.len() as u64).is_multiple_of(self.word),
                Chunk::Hole(length) => u64::from(*length).is_multiple_of(self.word),
            };
            if chunks.iter().all(is_whole) {
                for chunk in &mut chunks {
                    if let Chunk::Data(bytes) = chunk {
                        self.swap(bytes);
                    }
                }
                return Ok(chunks);
            }
        }
        Ok(vec![Chunk::data(length, |buffer| self.read(offset, buffer))?])
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        let mut swapped = Vec::new();
        swapped.try_reserve_exact(data.len()).map_err(|_| Error::ENOMEM)?;
        swapped.extend_from_slice(data);
        self.swap(&mut swapped);
        self.base.write(offset, &swapped, fua)
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        self.base.zero(offset, length, options)
    }

    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        self.base.trim(offset, length, fua)
    }

    /// Reports extents of whole words. A word that is partly in one extent of the device beneath and
    /// partly in another has what both have.
    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut push = |length: u64, status: Status| match extents.last_mut() {
            Some(last) if last.status == status => last.length += length,
            _ if length > 0 => extents.push(Extent { length, status }),
            _ => {}
        };
        // The beginning of a word that is not complete, and what it has.
        let (mut begun, mut shared) = (0, Status::DATA);
        for Extent { length, status } in self.base.extents(offset, length)? {
            let mut left = length;
            if begun > 0 {
                let more = left.min(self.word - begun);
                begun += more;
                left -= more;
                shared =
                    Status { hole: shared.hole && status.hole, zero: shared.zero && status.zero };
                if begun == self.word {
                    push(begun, shared);
                    begun = 0;
                }
            }
            if left > 0 {
                let rest = left % self.word;
                push(left - rest, status);
                (begun, shared) = (rest, status);
            }
        }
        if extents.is_empty() {
            extents.push(Extent { length: self.word, status: Status::DATA });
        }
        Ok(extents)
    }

    fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.base.cache(offset, length)
    }
}

impl Filter for Swab {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let passes = match request.operation {
            Operation::Read | Operation::Write => self.word == 1,
            Operation::Zero | Operation::Trim => self.is_whole(request),
            Operation::Extents => self.has_whole_extents(),
            Operation::Cache => true,
        };
        Ok(if passes {
            self.base.pass(request)
        } else {
            Route::new().segment(Place::Own, request.length)
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let passed = self.base.pass_until(offset, self.size)?;
        let own = StableRoute::new(Place::Own, passed.length);
        match operation {
            _ if self.word == 1 => Some(passed),
            Operation::Read | Operation::Write => Some(own),
            Operation::Zero | Operation::Trim => None,
            Operation::Extents if self.has_whole_extents() => Some(passed),
            Operation::Extents => Some(own),
            Operation::Cache => Some(passed),
        }
    }
}

memnbd_guest::filter!(Swab);

#[cfg(test)]
mod tests;
