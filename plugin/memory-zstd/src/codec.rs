//! Compresses and decompresses a page.

use alloc::boxed::Box;
use alloc::vec::Vec;

use zstd_rs::{CompressionConfig, Compressor, Decompressor, FrameFormat};

use crate::heap::Heap;

/// The length of a page in bytes, as in nbdkit. Longer ones would be denser, but each random read
/// decompresses one.
pub const PAGE_SIZE: usize = 32 << 10;

/// The bytes that the decompressor may write beyond the end of a page.
pub(crate) const SLACK: usize = 64;

/// zstd's default level, as in nbdkit, whose pages are as long as these to 1%. Level 1 takes two
/// thirds of the time, and makes pages up to 5% longer. A frame has no magic number.
const CONFIG: CompressionConfig =
    CompressionConfig { format: FrameFormat::Magicless, ..CompressionConfig::DEFAULT };

/// The error for a page that cannot be compressed or decompressed, which would be a fault of the
/// codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// The contexts of the codec, with their memory.
pub(crate) struct Codec {
    compressor: Compressor,
    decompressor: Decompressor,
    /// The compressed page, before its length is known.
    frame: Vec<u8>,
}

impl Codec {
    /// Creates a codec, and has it allocate the memory that it keeps.
    pub(crate) fn new() -> Result<Self, Corrupt> {
        let compressor = Compressor::new(CONFIG).map_err(|_| Corrupt)?;
        let frame = Vec::with_capacity(PAGE_SIZE + PAGE_SIZE / 4);
        let mut codec = Self { compressor, decompressor: Decompressor::new(), frame };
        // The first is all literals, and the other has many short matches.
        let mut page = Vec::with_capacity(PAGE_SIZE + SLACK);
        for period in [PAGE_SIZE, 11] {
            page.clear();
            page.extend((0..PAGE_SIZE).map(|at| noise((at % period + at / 64) as u32)));
            codec.compress(&page)?;
            page.clear();
            let frame = core::mem::take(&mut codec.frame);
            codec.decompress(&frame, &mut page)?;
            codec.frame = frame;
        }
        Ok(codec)
    }

    fn compress(&mut self, page: &[u8]) -> Result<(), Corrupt> {
        self.frame.clear();
        self.compressor.compress(page, None, &mut self.frame).map_err(|_| Corrupt)
    }

    /// Returns a compressed page, or `None` if there is not enough memory for it.
    pub(crate) fn store(
        &mut self,
        page: &[u8],
        used: u64,
        heap: &mut impl Heap,
    ) -> Result<Option<Box<[u8]>>, Corrupt> {
        self.compress(page)?;
        Ok(heap.allocate(used, self.frame.len(), || Box::from(self.frame.as_slice())))
    }

    /// Appends a page to `bytes`, which have a capacity for [`SLACK`] more.
    pub(crate) fn decompress(&mut self, frame: &[u8], bytes: &mut Vec<u8>) -> Result<(), Corrupt> {
        let format = FrameFormat::Magicless;
        match self.decompressor.decompress_format(format, frame, None, PAGE_SIZE, bytes) {
            Ok(PAGE_SIZE) => Ok(()),
            _ => Err(Corrupt),
        }
    }
}

/// Returns bytes that look random.
fn noise(at: u32) -> u8 {
    let mixed = at.wrapping_mul(0x9e37_79b9);
    ((mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b) >> 24) as u8
}
