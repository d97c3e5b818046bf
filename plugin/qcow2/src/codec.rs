//! Decompression of clusters.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use memnbd_formats::Cache;
use memnbd_guest::{Error, Lower};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use zstd_rs::Decompressor;

use crate::header::Compression;
use crate::table::Compressed;

/// The memory for clusters that were decompressed for a part of them.
const KEPT: u64 = 4 << 20;

/// The longest read of compressed clusters, unless a single one is longer.
const READ: u64 = 1 << 20;

/// Decompresses clusters.
pub(crate) struct Codec {
    compression: Compression,
    base: Lower,
    /// The size of the image.
    size: u64,
    cluster: usize,
    /// Decompressed clusters, by their offset on the disk.
    kept: Cache<u64, Vec<u8>>,
    /// What was last read of the image, and where.
    input: Vec<u8>,
    input_offset: u64,
    inflate: Box<DecompressorOxide>,
    zstd: Option<Box<Decompressor>>,
    output: Vec<u8>,
}

impl Codec {
    pub(crate) fn new(compression: Compression, base: Lower, cluster: u64) -> Self {
        let is_zstd = compression == Compression::Zstd;
        Self {
            compression,
            base,
            size: base.geometry().size,
            cluster: cluster as usize,
            kept: Cache::new((KEPT / cluster).clamp(2, 256) as usize),
            input: Vec::new(),
            input_offset: 0,
            inflate: Box::default(),
            zstd: is_zstd.then(Box::default),
            output: Vec::new(),
        }
    }

    /// Reads a part of a cluster, which begins `within` bytes after the beginning. `next` are compressed
    /// clusters that are wanted after it: those that are near in the image are read along with it.
    pub(crate) fn read(
        &mut self,
        compressed: Compressed,
        next: &[Compressed],
        within: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let (start, end) = (within as usize, within as usize + buffer.len());
        if let Some(cluster) = self.kept.get(&compressed.cluster) {
            buffer.copy_from_slice(cluster.get(start..end).ok_or(Error::EIO)?);
            return Ok(());
        }
        self.decompress(compressed, next)?;
        buffer.copy_from_slice(self.output.get(start..end).ok_or(Error::EIO)?);
        if buffer.len() < self.cluster {
            let spare = self.kept.make_room().unwrap_or_default();
            let cluster = core::mem::replace(&mut self.output, spare);
            self.kept.insert(compressed.cluster, cluster);
        }
        Ok(())
    }

    /// Has the bytes of a compressed cluster in `input`, and returns where they begin and end there.
    fn fetch(&mut self, wanted: Compressed, next: &[Compressed]) -> Result<(usize, usize), Error> {
        let corrupt = || {
            Error::EIO.because(format!(
                "the image is corrupt: the compressed cluster for byte {} of the disk is at {}, \
                 beyond the image, which has {} bytes",
                wanted.cluster, wanted.offset, self.size
            ))
        };
        if wanted.offset >= self.size {
            return Err(corrupt());
        }
        // Lengths are rounded up to sectors, and the last one may end beyond the image.
        let end_of = |one: Compressed| (one.offset + one.length).min(self.size);
        let mut end = end_of(wanted);
        let have = self.input_offset..self.input_offset + self.input.len() as u64;
        if !(have.start <= wanted.offset && end <= have.end) {
            for one in next {
                let far = end_of(*one);
                if one.offset < wanted.offset || far < end || far - wanted.offset > READ {
                    break;
                }
                end = far;
            }
            let length = (end - wanted.offset) as usize;
            self.input.clear();
            self.input.try_reserve_exact(length).map_err(|_| Error::ENOMEM)?;
            self.input.resize(length, 0);
            if let Err(error) = self.base.read(wanted.offset, &mut self.input) {
                self.input.clear();
                return Err(error);
            }
            self.input_offset = wanted.offset;
        }
        let start = (wanted.offset - self.input_offset) as usize;
        Ok((start, start + (end_of(wanted) - wanted.offset) as usize))
    }

    /// Decompresses a cluster to `output`.
    fn decompress(&mut self, wanted: Compressed, next: &[Compressed]) -> Result<(), Error> {
        let (start, end) = self.fetch(wanted, next)?;
        let input = self.input.get(start..end).ok_or(Error::EIO)?;
        let complete = match self.compression {
            Compression::Deflate => {
                self.output.resize(self.cluster, 0);
                self.inflate.init();
                let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
                let (status, _, length) =
                    decompress(&mut self.inflate, input, &mut self.output, 0, flags);
                let ended = matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
                ended && length == self.cluster
            }
            Compression::Zstd => {
                self.output.clear();
                let zstd = self.zstd.as_mut().ok_or(Error::EIO)?;
                let frame = zstd.decompress_frame(input, None, self.cluster, &mut self.output);
                frame.is_ok() && self.output.len() == self.cluster
            }
        };
        if complete {
            return Ok(());
        }
        Err(Error::EIO.because(format!(
            "the image is corrupt: the compressed cluster for byte {} of the disk, at {}, cannot be \
             decompressed to {} bytes",
            wanted.cluster, wanted.offset, self.cluster
        )))
    }
}
