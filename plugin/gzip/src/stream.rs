//! Decompression of the members of a file, one after the other.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_formats::{Crc, Header};
use memnbd_guest::{Error, Lower};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_IGNORE_ADLER32,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress_with_limit};

/// The bytes to which a match can refer.
const WINDOW: usize = 32 << 10;

/// How much of the file is read at once.
const READ: u64 = 128 << 10;

/// The longest header of a member: its name and its comment.
const MAX_HEADER: usize = 256 << 10;

/// What is read of the file, for all cursors.
pub(crate) struct Input {
    device: Lower,
    size: u64,
    offset: u64,
    bytes: Vec<u8>,
}

/// A place in the file, with all that is needed to go on from there.
#[derive(Clone)]
pub(crate) struct Cursor {
    /// The offset in the file of what comes next.
    input: u64,
    inflate: Box<DecompressorOxide>,
    window: Box<[u8]>,
    /// Where the next byte is put in the window.
    position: usize,
    crc: Crc,
    /// How many bytes the member has so far.
    length: u64,
    in_member: bool,
}

/// The memory of a cursor.
pub(crate) const CURSOR: u64 = (size_of::<DecompressorOxide>() + WINDOW) as u64 + 256;

pub(crate) fn damaged(at: u64, what: &str) -> Error {
    Error::EIO.because(format!("the gzip file is damaged near byte {at}: {what}"))
}

impl Input {
    pub(crate) fn new(device: Lower) -> Self {
        Self { device, size: device.geometry().size, offset: 0, bytes: Vec::new() }
    }

    /// Returns some bytes from an offset on, none at the end.
    fn at(&mut self, offset: u64) -> Result<&[u8], Error> {
        let end = self.offset + self.bytes.len() as u64;
        if !(self.offset..end).contains(&offset) && offset < self.size {
            let length = (self.size - offset).min(READ) as usize;
            self.bytes.clear();
            self.bytes.resize(length, 0);
            if let Err(error) = self.device.read(offset, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
            self.offset = offset;
        }
        let within = offset.saturating_sub(self.offset) as usize;
        Ok(self.bytes.get(within..).unwrap_or_default())
    }

    /// Copies bytes, as many as there are.
    fn copy(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut copied = 0;
        while copied < buffer.len() {
            let bytes = self.at(offset + copied as u64)?;
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len().min(buffer.len() - copied);
            buffer[copied..copied + length].copy_from_slice(&bytes[..length]);
            copied += length;
        }
        Ok(copied)
    }

    /// Returns true if the file begins with a member.
    pub(crate) fn is_gzip(&mut self) -> Result<bool, Error> {
        self.header(0).map(|header| header.is_some())
    }

    /// Returns the length of the header of a member at an offset, or `None` if there is no member.
    fn header(&mut self, offset: u64) -> Result<Option<u64>, Error> {
        let mut fixed = [0; 12];
        let present = self.copy(offset, &mut fixed)?;
        let header = Header(&fixed);
        if present < 10 || header.bytes(0) != [0x1f, 0x8b] {
            return Ok(None);
        }
        let flags = header.u8(3);
        if header.u8(2) != 8 || flags & 0xe0 != 0 {
            return Err(damaged(offset, "a method or flags that are unknown"));
        }
        let mut length = 10;
        if flags & 4 != 0 {
            length += 2 + u64::from(header.le_u16(10));
        }
        for flag in [8, 16] {
            if flags & flag != 0 {
                length += self.text(offset + length)?;
            }
        }
        if flags & 2 != 0 {
            length += 2;
        }
        Ok(Some(length))
    }

    /// Returns the length of a text with the byte at its end that is zero.
    fn text(&mut self, offset: u64) -> Result<u64, Error> {
        let mut length = 0;
        loop {
            let bytes = self.at(offset + length as u64)?;
            if bytes.is_empty() || length > MAX_HEADER {
                return Err(damaged(offset, "a name without an end"));
            }
            match bytes.iter().position(|byte| *byte == 0) {
                Some(end) => return Ok((length + end + 1) as u64),
                None => length += bytes.len(),
            }
        }
    }
}

impl Cursor {
    /// Returns the beginning of the file.
    pub(crate) fn new() -> Self {
        Self {
            input: 0,
            inflate: Box::default(),
            window: vec![0; WINDOW].into_boxed_slice(),
            position: 0,
            crc: Crc::crc32(),
            length: 0,
            in_member: false,
        }
    }

    /// Fills a buffer with what follows. Returns how many bytes those are, less than the buffer has only
    /// at the end of the file.
    pub(crate) fn read(&mut self, input: &mut Input, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            if !self.in_member && !self.start_member(input)? {
                break;
            }
            let bytes = input.at(self.input)?;
            let is_end = bytes.is_empty();
            let limit = (buffer.len() - filled).min(WINDOW - self.position);
            let flags =
                TINFL_FLAG_IGNORE_ADLER32 | if is_end { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
            let (status, taken, made) = decompress_with_limit(
                &mut self.inflate,
                bytes,
                &mut self.window,
                self.position,
                limit,
                flags,
            );
            let made_bytes = &self.window[self.position..self.position + made];
            buffer[filled..filled + made].copy_from_slice(made_bytes);
            self.crc.update(made_bytes);
            self.input += taken as u64;
            self.length += made as u64;
            self.position = (self.position + made) % WINDOW;
            filled += made;
            match status {
                TINFLStatus::Done => self.end_member(input)?,
                TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput
                    if !is_end && (taken > 0 || made > 0) => {}
                _ if is_end => {
                    return Err(damaged(self.input, "it ends in the middle of a member"));
                }
                _ => return Err(damaged(self.input, "it cannot be decompressed")),
            }
        }
        Ok(filled)
    }

    /// Begins the member that follows. Returns false if there is none; what else is at the end of a file
    /// is ignored, as by gzip.
    fn start_member(&mut self, input: &mut Input) -> Result<bool, Error> {
        let Some(header) = input.header(self.input)? else { return Ok(false) };
        self.input += header;
        self.inflate.init();
        self.crc = Crc::crc32();
        self.length = 0;
        self.in_member = true;
        Ok(true)
    }

    fn end_member(&mut self, input: &mut Input) -> Result<(), Error> {
        let mut trailer = [0; 8];
        if input.copy(self.input, &mut trailer)? < 8 {
            return Err(damaged(self.input, "it ends in the middle of a member"));
        }
        let trailer = Header(&trailer);
        if u64::from(trailer.le_u32(0)) != self.crc.value() {
            return Err(damaged(self.input, "the checksum of a member is another"));
        }
        if trailer.le_u32(4) != self.length as u32 {
            return Err(damaged(self.input, "the length of a member is another"));
        }
        self.input += 8;
        self.in_member = false;
        Ok(())
    }
}
