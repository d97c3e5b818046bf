//! The map on a device.
//!
//! The first 4096 bytes are the header, of which all but the first 36 bytes are zero. All numbers are
//! little-endian:
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 8 | `memnbdCW` |
//! | 8 | 4 | the version of the format, 1 |
//! | 12 | 4 | the size of a block in bytes |
//! | 16 | 8 | the size of the disk in bytes |
//! | 24 | 4 | the number of overlays, with the top one |
//! | 28 | 4 | 0 |
//! | 32 | 4 | the CRC-32 of these 32 bytes |
//!
//! After that there is one byte for each block: 0 is the base, 1 the lowest overlay.
//!
//! The bytes are independent of each other, and each only changes to the number of the top overlay. So
//! it does no harm if a page of them is written in part when the power fails.

use alloc::format;
use alloc::string::String;
use core::ops::Range;

use memnbd_guest::{Chunk, Error, Lower, ZeroOptions, crc32};

use crate::map::{Layer, Map, PAGE};

/// Where the map begins.
pub(crate) const HEADER: u64 = 4096;

const MAGIC: &[u8; 8] = b"memnbdCW";
const VERSION: u32 = 1;
const LENGTH: usize = 36;

/// What is written at once, in case sectors are written as a whole.
const SECTOR: usize = 512;

/// The most that is read at once, in pages.
const READ: u64 = 64;

/// What a map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The size of a block.
    pub(crate) block: u64,
    /// The size of the disk.
    pub(crate) size: u64,
    /// The number of overlays.
    pub(crate) overlays: usize,
}

/// A device with a map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata {
    device: Lower,
    /// The parameter that names the device.
    name: &'static str,
    /// The number of blocks.
    blocks: u64,
    /// The highest layer that the map may have.
    top: usize,
}

impl Header {
    fn encode(self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.block as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.overlays as u32).to_le_bytes());
        let crc = crc32(&bytes[..32]);
        bytes[32..LENGTH].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header. Returns `None` if all of it is zero, and a message if it is none.
    fn decode(bytes: &[u8; SECTOR]) -> Result<Option<Self>, String> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if bytes[..8] != MAGIC[..] {
            return Err("holds something else, not the map of a copy-on-write disk; a new one \
                        needs a device that begins with zeroes"
                .into());
        }
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if number(32) != crc32(&bytes[..32]) {
            return Err("has a damaged header: its checksum is wrong".into());
        }
        if number(8) != VERSION {
            return Err(format!(
                "has a map of version {}; this component knows version {VERSION}",
                number(8)
            ));
        }
        if number(28) != 0 || bytes[LENGTH..].iter().any(|byte| *byte != 0) {
            return Err("has a damaged header: what must be zero is not".into());
        }
        let size = u64::from(number(16)) | u64::from(number(20)) << 32;
        let (block, overlays) = (number(12).into(), number(24) as usize);
        Ok(Some(Self { block, size, overlays }))
    }

    /// Returns the number of blocks.
    pub(crate) fn blocks(self) -> u64 {
        self.size.div_ceil(self.block)
    }
}

/// Reads the header of a device. Returns `None` if there is nothing on the device.
///
/// # Errors
///
/// Returns an error if the device holds something else.
pub(crate) fn read_header(device: Lower, name: &str) -> Result<Option<Header>, Error> {
    if device.geometry().size < HEADER {
        return Err(too_small(device, name, HEADER));
    }
    let mut bytes = [0; SECTOR];
    device.read(0, &mut bytes)?;
    Header::decode(&bytes).map_err(|message| Error::EINVAL.because(format!("{name} {message}")))
}

fn too_small(device: Lower, name: &str, needed: u64) -> Error {
    let size = device.geometry().size;
    Error::EINVAL.because(format!("{name} has {size} bytes; the map needs {needed}"))
}

impl Metadata {
    /// Returns the map of a device whose header is this one.
    ///
    /// # Errors
    ///
    /// Returns an error if the device is too small for the map.
    pub(crate) fn new(device: Lower, name: &'static str, header: Header) -> Result<Self, Error> {
        let blocks = header.blocks();
        if device.geometry().size < HEADER + blocks {
            return Err(too_small(device, name, HEADER + blocks));
        }
        Ok(Self { device, name, blocks, top: header.overlays })
    }

    /// Writes a new map: all blocks are on the base, or where they are by another map. The header comes
    /// last, once everything else is on stable storage.
    ///
    /// # Errors
    ///
    /// Returns the errors of the devices, and one if the other map is damaged.
    pub(crate) fn create(self, header: Header, from: Option<Self>) -> Result<(), Error> {
        if self.blocks > 0 {
            self.device.zero(HEADER, self.blocks, ZeroOptions::default())?;
        }
        let mut block = 0;
        while let Some(from) = from
            && block < self.blocks
        {
            let end = self.blocks.min(block + READ * PAGE);
            from.read(block..end, |block, layers| {
                self.device.write(HEADER + block, layers, false)
            })?;
            block = end;
        }
        self.device.flush()?;
        self.device.write(0, &header.encode(), false)?;
        self.device.flush()
    }

    /// Calls a function with the layers of blocks that are not all on the base, and the first such block.
    fn read(
        &self,
        blocks: Range<u64>,
        mut found: impl FnMut(u64, &[Layer]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut block = blocks.start;
        let length = (blocks.end - blocks.start) as u32;
        for chunk in self.device.read_chunks(HEADER + blocks.start, length)? {
            match chunk {
                Chunk::Hole(length) => block += u64::from(length),
                Chunk::Data(layers) => {
                    let wrong = layers.iter().position(|layer| usize::from(*layer) > self.top);
                    if let Some(index) = wrong {
                        return Err(self.damaged(block + index as u64, layers[index]));
                    }
                    found(block, &layers)?;
                    block += layers.len() as u64;
                }
            }
        }
        Ok(())
    }

    fn damaged(&self, block: u64, layer: Layer) -> Error {
        Error::EIO.because(format!(
            "{} is damaged: it has block {block} on overlay {layer}, and there are {}",
            self.name, self.top
        ))
    }

    /// Adds the pages of a range that do not exist in a map in memory.
    ///
    /// # Errors
    ///
    /// Returns the errors of the device, and one if the map there is damaged.
    pub(crate) fn load(&self, map: &mut Map, pages: Range<u64>) -> Result<(), Error> {
        let mut page = pages.start;
        while page < pages.end {
            if map.contains(page) {
                page += 1;
                continue;
            }
            let absent = (page..pages.end.min(page + READ)).take_while(|page| !map.contains(*page));
            let end = page + absent.count() as u64;
            self.load_absent(map, page..end)?;
            page = end;
        }
        Ok(())
    }

    fn load_absent(&self, map: &mut Map, pages: Range<u64>) -> Result<(), Error> {
        let blocks = pages.start * PAGE..self.blocks.min(pages.end * PAGE);
        // Chunks begin and end anywhere, so a page is put together first.
        let mut page = pages.start;
        let mut layers = [0; PAGE as usize];
        self.read(blocks.clone(), |block, found| {
            let mut at = block;
            let mut rest = found;
            while !rest.is_empty() {
                while page < at / PAGE {
                    self.insert(map, page, &layers)?;
                    layers.fill(0);
                    page += 1;
                }
                let offset = (at % PAGE) as usize;
                let (part, after) = rest.split_at(rest.len().min(PAGE as usize - offset));
                layers[offset..offset + part.len()].copy_from_slice(part);
                at += part.len() as u64;
                rest = after;
            }
            Ok(())
        })?;
        while page < pages.end {
            self.insert(map, page, &layers)?;
            layers.fill(0);
            page += 1;
        }
        Ok(())
    }

    fn insert(&self, map: &mut Map, page: u64, layers: &[Layer]) -> Result<(), Error> {
        let length = (self.blocks - page * PAGE).min(PAGE) as usize;
        map.insert(page, &layers[..length])
    }

    /// Writes the pages of a map that have changed, and flushes the device.
    ///
    /// # Errors
    ///
    /// Returns the errors of the device. All of it is written again the next time.
    pub(crate) fn store(&self, map: &mut Map) -> Result<(), Error> {
        if !map.is_dirty() {
            return Ok(());
        }
        map.changes(|page, layers| {
            let length = (self.blocks - page * PAGE).min(PAGE) as usize;
            self.device.write(HEADER + page * PAGE, &layers[..length], false)
        })?;
        self.device.flush()?;
        map.saved();
        Ok(())
    }
}
