//! Decompression of grains.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use memnbd_formats::{Cache, Header};
use memnbd_guest::{Error, Lower};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The memory for grains that were decompressed for a part of them.
const KEPT: u64 = 4 << 20;

/// What is before the bytes of a grain: the sector of the disk and the length.
const MARKER: usize = 12;

/// Decompresses grains.
pub(crate) struct Codec {
    base: Lower,
    /// The size of the image.
    size: u64,
    grain: usize,
    has_markers: bool,
    /// Decompressed grains, by their offset on the disk.
    kept: Cache<u64, Vec<u8>>,
    input: Vec<u8>,
    inflate: Box<DecompressorOxide>,
}

impl Codec {
    pub(crate) fn new(base: Lower, grain: u64, has_markers: bool) -> Self {
        Self {
            base,
            size: base.geometry().size,
            grain: grain as usize,
            has_markers,
            kept: Cache::new((KEPT / grain).clamp(2, 256) as usize),
            input: Vec::new(),
            inflate: Box::default(),
        }
    }

    /// Reads a part of the grain that is at `offset` in the image and at `start` on the disk, from `within`
    /// on. The first `needed` bytes of the grain are on the disk.
    pub(crate) fn read(
        &mut self,
        offset: u64,
        start: u64,
        needed: usize,
        within: usize,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let range = within..within + buffer.len();
        if let Some(grain) = self.kept.get(&start) {
            buffer.copy_from_slice(grain.get(range).ok_or(Error::EIO)?);
            return Ok(());
        }
        let mut grain = self.kept.make_room().unwrap_or_default();
        grain.resize(self.grain, 0);
        self.decompress(offset, start, needed, &mut grain)?;
        buffer.copy_from_slice(grain.get(range).ok_or(Error::EIO)?);
        self.kept.insert(start, grain);
        Ok(())
    }

    /// Has up to `length` bytes from an offset in the image in `input`.
    fn fetch(&mut self, offset: u64, length: usize) -> Result<(), Error> {
        let present = self.size.saturating_sub(offset).min(length as u64) as usize;
        self.input.clear();
        if present > 0 {
            self.input.try_reserve_exact(present).map_err(|_| Error::ENOMEM)?;
            self.input.resize(present, 0);
            self.base.read(offset, &mut self.input)?;
        }
        Ok(())
    }

    /// Has the compressed bytes of a grain in `input`, and returns where they begin there, or `None` if
    /// they are not in the image.
    fn fetch_grain(&mut self, offset: u64) -> Result<Option<usize>, Error> {
        if !self.has_markers {
            self.fetch(offset, 2 * self.grain)?;
            return Ok((!self.input.is_empty()).then_some(0));
        }
        // Mostly a grain is shorter than its content.
        self.fetch(offset, MARKER + self.grain)?;
        let length = Header(&self.input).le_u32(8) as usize;
        if length > 2 * self.grain {
            return Ok(None);
        }
        if length > self.grain {
            self.fetch(offset, MARKER + length)?;
        }
        let is_there = self.input.len() >= MARKER + length;
        self.input.truncate(MARKER + length);
        Ok(is_there.then_some(MARKER))
    }

    fn decompress(
        &mut self,
        offset: u64,
        start: u64,
        needed: usize,
        grain: &mut [u8],
    ) -> Result<(), Error> {
        let corrupt = |what: &str| {
            Error::EIO.because(format!(
                "the image is corrupt: the compressed grain for byte {start} of the disk, at {offset}, {what}"
            ))
        };
        let Some(from) = self.fetch_grain(offset)? else {
            return Err(corrupt("is too long, or ends beyond the image"));
        };
        self.inflate.init();
        let flags = TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, _, length) =
            decompress(&mut self.inflate, &self.input[from..], grain, 0, flags);
        if status != TINFLStatus::Done || length < needed {
            return Err(corrupt("cannot be decompressed"));
        }
        Ok(())
    }
}
