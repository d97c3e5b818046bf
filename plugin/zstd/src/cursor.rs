//! Decompression of frames, one after the other.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use memnbd_guest::{Error, Lower};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::{self, Read};

/// How much of the file is read at once: more than the longest block.
const READ: u64 = 256 << 10;

/// How much is decompressed at once to find a size.
const PIECE: usize = 64 << 10;

/// A part of the file, read from its beginning to its end.
struct Input {
    device: Lower,
    /// What is not read yet.
    rest: Range<u64>,
    bytes: Vec<u8>,
    /// How many of these are used.
    used: usize,
    /// Why reading failed.
    failure: Option<Error>,
}

impl Input {
    /// Returns the offset in the file of what comes next.
    fn position(&self) -> u64 {
        self.rest.start - (self.bytes.len() - self.used) as u64
    }

    fn is_empty(&self) -> bool {
        self.position() >= self.rest.end
    }

    /// Skips bytes, as far as there are any.
    fn skip(&mut self, length: u64) {
        let buffered = (self.bytes.len() - self.used) as u64;
        self.used += length.min(buffered) as usize;
        let start = self.rest.start.saturating_add(length.saturating_sub(buffered));
        self.rest.start = start.min(self.rest.end);
    }

    /// Has the next bytes in `bytes`, none at the end.
    fn refill(&mut self) -> Result<(), Error> {
        let length = (self.rest.end - self.rest.start).min(READ);
        self.used = 0;
        self.bytes.resize(length as usize, 0);
        if length == 0 {
            return Ok(());
        }
        let read = self.device.read(self.rest.start, &mut self.bytes);
        match read {
            Ok(()) => self.rest.start += length,
            Err(_) => self.bytes.clear(),
        }
        read
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, io::Error> {
        if self.used == self.bytes.len()
            && let Err(error) = self.refill()
        {
            self.failure = Some(error);
            return Err(io::Error::from(io::ErrorKind::Other));
        }
        let bytes = &self.bytes[self.used..];
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.used += length;
        Ok(length)
    }
}

/// A decoder in a part of the file.
pub(crate) struct Cursor {
    input: Input,
    frame: FrameDecoder,
    /// How much content the part has, as far as that is known, and how much of it is to come.
    length: u64,
    remaining: u64,
    /// The checksum of all content.
    checksum: Option<u32>,
    /// How much content the frame has so far.
    made: u64,
}

impl Cursor {
    /// Returns a decoder at the beginning of the frames in a part of the file.
    pub(crate) fn new(device: Lower, input: Range<u64>, max_window: u64) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(max_window);
        let input = Input { device, rest: input, bytes: Vec::new(), used: 0, failure: None };
        Self { input, frame, length: 0, remaining: 0, checksum: None, made: 0 }
    }

    /// Returns the decoder of so much content, with a checksum if there is one.
    pub(crate) fn of(self, length: u64, checksum: Option<u32>) -> Self {
        Self { length, remaining: length, checksum, ..self }
    }

    /// Decompresses everything. Returns how much content there is.
    pub(crate) fn count(mut self) -> Result<u64, Error> {
        let mut piece = vec![0; PIECE];
        let mut count = 0;
        loop {
            let length = self.read(&mut piece)?;
            count += length as u64;
            if length < PIECE {
                return Ok(count);
            }
        }
    }

    /// Fills a buffer with what follows, which is not more than is to come. At the end, checks that this is
    /// also where the content ends.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        if self.read(buffer)? < buffer.len() {
            return Err(self.damaged("it ends before the size that it was said to have"));
        }
        self.remaining = self.remaining.saturating_sub(buffer.len() as u64);
        if self.remaining == 0 && self.read(&mut [0])? > 0 {
            return Err(self.damaged("it has more content than it was said to have"));
        }
        Ok(())
    }

    /// Fills a buffer with what follows. Returns how many bytes those are, less than the buffer has only at
    /// the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let made = self.frame.read(&mut buffer[filled..]).map_err(|_| Error::EIO)?;
            filled += made;
            self.made += made as u64;
            if made > 0 {
                continue;
            }
            if !self.frame.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                if let Err(error) = self.frame.decode_blocks(&mut self.input, one) {
                    return Err(self.failed(&error));
                }
                continue;
            }
            self.check()?;
            if !self.start_frame()? {
                break;
            }
        }
        Ok(filled)
    }

    /// Begins the frame that follows. Returns false if there is none.
    fn start_frame(&mut self) -> Result<bool, Error> {
        self.made = 0;
        while !self.input.is_empty() {
            match self.frame.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.input.skip(length.into()),
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(false)
    }

    /// Checks the content of the frame that has ended.
    fn check(&self) -> Result<(), Error> {
        let computed = self.frame.get_calculated_checksum();
        let own = self.frame.get_checksum_from_data();
        // That of the seek table is for all that it says of the frame.
        let listed = self.checksum.filter(|_| self.made == self.length);
        if own.or(computed) != computed || listed.or(computed) != computed {
            return Err(self.damaged("the checksum of the content is another"));
        }
        Ok(())
    }

    fn failed(&mut self, error: &FrameDecoderError) -> Error {
        if let Some(error) = self.input.failure.take() {
            return error;
        }
        match error {
            FrameDecoderError::WindowSizeTooBig { requested, max } => self.damaged(&format!(
                "a frame needs a window of {requested} bytes, and at most {max} are supported: an \
                 eighth of the memory of the disk, up to 128 MiB"
            )),
            FrameDecoderError::DictNotProvided { dict_id } => {
                self.damaged(&format!("a frame needs the dictionary {dict_id}"))
            }
            _ => self.damaged("it cannot be decompressed"),
        }
    }

    fn damaged(&self, what: &str) -> Error {
        let at = self.input.position();
        Error::EIO.because(format!("the zstd file cannot be read at byte {at}: {what}"))
    }
}
