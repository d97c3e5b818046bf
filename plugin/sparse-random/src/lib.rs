//! A component whose sparse disk has runs of random data between holes, like that of a virtual
//! machine, to test and measure programs that copy disks.
//!
//! Nothing is stored: data and holes are computed from the seed and the offset, on a disk of any
//! size. A write succeeds if the data equals what the disk already holds, and fails with `eio`
//! otherwise; `zero` and `trim` succeed on holes. The bytes are not cryptographically secure.
//!
//! - [`layout`]: where the runs of data are.
//!
//! Without `seed` the component chooses one and logs it. As every instance would choose another
//! one, such a disk has one instance.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::vec::Vec;

use memnbd_guest::content::{self, Seed};
use memnbd_guest::{
    Backend, Capabilities, Chunk, Description, Disk, Error, Extent, OpenRequest, Parameter,
    ParameterType, Status, ZeroOptions,
};

use layout::{BLOCK_SIZE, Layout, Run};

pub mod layout;
#[cfg(test)]
mod tests;

/// The most extents that one call may return.
const MAX_EXTENTS: usize = 4096;
/// The default of `percent`.
const PERCENT: f64 = 10.0;
/// The default of `runlength`.
const RUN_LENGTH: u64 = 16 << 20;

/// The open disk.
#[derive(Clone, Debug)]
pub struct SparseRandom {
    size: u64,
    seed: Seed,
    layout: Layout,
    /// The seed of the data.
    words: u64,
    /// True if every byte of a block is random. Otherwise a block repeats one byte.
    random_content: bool,
}

impl SparseRandom {
    /// Returns the runs that overlap a range, cut to it, with the offsets at which they start.
    fn runs(&self, offset: u64, length: u64) -> impl Iterator<Item = (u64, Run)> {
        let end = offset + length;
        let mut at = offset;
        core::iter::from_fn(move || {
            let start = at;
            (start < end).then(|| {
                let run = self.layout.run_at(start);
                at = run.end.min(end);
                (start, Run { end: at, ..run })
            })
        })
    }

    fn fill(&self, bytes: &mut [u8], offset: u64) {
        for (start, run) in self.runs(offset, bytes.len() as u64) {
            let bytes = &mut bytes[(start - offset) as usize..(run.end - offset) as usize];
            if run.data {
                self.fill_data(bytes, start);
            } else {
                bytes.fill(0);
            }
        }
    }

    /// Fills bytes that are all in a run of data.
    fn fill_data(&self, bytes: &mut [u8], offset: u64) {
        let random = |index| content::random_at(self.words, index);
        if self.random_content {
            content::fill(bytes, offset, |offset| random(offset / 8).to_le_bytes());
            return;
        }
        let to_block = (BLOCK_SIZE - offset % BLOCK_SIZE) as usize;
        let (head, rest) = bytes.split_at_mut(to_block.min(bytes.len()));
        let blocks = core::iter::once(head).chain(rest.chunks_mut(BLOCK_SIZE as usize));
        for (bytes, block) in blocks.zip(offset / BLOCK_SIZE..) {
            bytes.fill(1 + (random(block) % 255) as u8);
        }
    }

    fn check_hole(&self, offset: u64, length: u64) -> Result<(), Error> {
        if self.runs(offset, length).any(|(_, run)| run.data) {
            return Err(Error::EIO.because("only holes of the disk can be zeroed or trimmed"));
        }
        Ok(())
    }
}

impl Backend for SparseRandom {
    fn describe() -> Description {
        Description::new(
            "sparse-random",
            env!("CARGO_PKG_VERSION"),
            "a sparse disk with runs of random data",
        )
        .parameter(Parameter::size("size", "the size of the disk").required())
        .parameter(Seed::PARAMETER)
        .parameter(
            Parameter::text("percent", "the percentage of data, a number from 0 to 100")
                .default("10"),
        )
        .parameter(
            Parameter::new(
                "runlength",
                "the average length of a run of data",
                ParameterType::Size(1, memnbd_guest::MAX_SIZE),
            )
            .default("16M"),
        )
        .parameter(
            Parameter::boolean("random-content", "make every byte random, not every block")
                .default("false"),
        )
        .bare_parameter("size")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let size = request.size("size").ok_or(Error::EINVAL)?;
        let percent = request.text("percent").map_or(Ok(PERCENT), parse_percent)?;
        let run_length = request.size("runlength").unwrap_or(RUN_LENGTH);
        let seed = Seed::from_request(request);
        Ok(Self {
            size,
            seed,
            layout: Layout::new(seed.stream(0), percent / 100.0, run_length),
            words: seed.stream(1),
            random_content: request.boolean("random-content").unwrap_or(false),
        })
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::FLUSH
            | Capabilities::TRIM
            | Capabilities::ZERO
            | Capabilities::CACHE
            | Capabilities::EXTENTS
            | Capabilities::MULTI_CONN
            | self.seed.capabilities();
        Disk { capabilities, ..Disk::new(self.size) }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.fill(buffer, offset);
        Ok(())
    }

    fn read_chunks(&mut self, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        let chunk = |(start, run): (u64, Run)| {
            let length = (run.end - start) as u32;
            if !run.data {
                return Ok(Chunk::Hole(length));
            }
            Chunk::data(length, |bytes| {
                self.fill_data(bytes, start);
                Ok(())
            })
        };
        self.runs(offset, length.into()).map(chunk).collect()
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        content::check(data, offset, |bytes, offset| self.fill(bytes, offset))
    }

    fn zero(&mut self, offset: u64, length: u64, _options: ZeroOptions) -> Result<(), Error> {
        self.check_hole(offset, length)
    }

    fn trim(&mut self, offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
        self.check_hole(offset, length)
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let extent = |(start, run): (u64, Run)| Extent {
            length: run.end - start,
            status: if run.data { Status::DATA } else { Status::HOLE },
        };
        Ok(self.runs(offset, length).take(MAX_EXTENTS).map(extent).collect())
    }
}

fn parse_percent(text: &str) -> Result<f64, Error> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse();
    percent
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or(Error::EINVAL.because("percent must be a number from 0 to 100"))
}

memnbd_guest::backend!(SparseRandom);
