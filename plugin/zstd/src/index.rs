//! Where the frames of a file are, and how long their content is.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use memnbd_formats::{Header, Pages};
use memnbd_guest::{Error, MAX_SIZE};

/// The most frames of a file.
const MAX_FRAMES: usize = 1 << 20;

/// What frames begin with, and skippable frames, whose last four bits are free.
const MAGIC: u32 = 0xfd2f_b528;
const SKIPPABLE: u32 = 0x184d_2a50;

/// The longest header of a frame.
const MAX_HEADER: u64 = 18;

/// What the frame of a seek table begins with, what the table ends with, and the length of this footer.
const TABLE: u32 = SKIPPABLE | 0xe;
const TABLE_FOOTER: u32 = 0x8f92_eab1;
const FOOTER: u64 = 9;

/// A frame that has content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where its content begins on the disk.
    start: u64,
    /// Where it begins in the file.
    input: u64,
    /// The lower half of the XXH64 of its content, if a seek table has it.
    pub(crate) checksum: Option<u32>,
}

/// The frames of a file, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) frames: Vec<Frame>,
    /// The size of the disk.
    pub(crate) size: u64,
    /// The end of the last frame in the file.
    end: u64,
}

fn refused(message: impl Into<Cow<'static, str>>) -> Error {
    Error::EINVAL.because(message)
}

fn damaged(at: u64, what: &str) -> Error {
    refused(format!("the zstd file is damaged at byte {at}: {what}"))
}

impl Index {
    /// Finds the frames of a file. The index takes up to `memory` bytes. `size` is that of the disk, if it
    /// is known. `count` decompresses a part of the file, and returns how much content it has.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if there is no zstd file, or it is damaged, and errors of `count`.
    pub(crate) fn read(
        file: &mut Pages,
        memory: u64,
        size: Option<u64>,
        count: impl FnMut(Range<u64>) -> Result<u64, Error>,
    ) -> Result<Self, Error> {
        let is_zstd = file.size() >= 4 && is_frame(file.le_u32(0)?);
        if !is_zstd {
            return Err(refused("the device has no zstd file: it does not begin with a frame"));
        }
        // While it grows, a list takes three times its size.
        let most = MAX_FRAMES.min((memory / 3) as usize / size_of::<Frame>());
        let mut index = Self::default();
        if !index.read_table(file, most)? {
            index.walk(file, most, size, count)?;
        }
        Ok(index)
    }

    /// Returns the number of the frame that has an offset of the disk.
    pub(crate) fn find(&self, offset: u64) -> Option<usize> {
        self.frames.partition_point(|frame| frame.start <= offset).checked_sub(1)
    }

    /// Returns the part of the disk that is the content of a frame.
    pub(crate) fn content(&self, number: usize) -> Range<u64> {
        let start = self.frames.get(number).map_or(self.size, |frame| frame.start);
        start..self.frames.get(number + 1).map_or(self.size, |frame| frame.start)
    }

    /// Returns the part of the file that has a frame, and skippable ones after it.
    pub(crate) fn input(&self, number: usize) -> Range<u64> {
        let start = self.frames.get(number).map_or(self.end, |frame| frame.input);
        start..self.frames.get(number + 1).map_or(self.end, |frame| frame.input)
    }

    /// Adds a frame at a place in the file.
    fn add(&mut self, input: u64, content: u64, checksum: Option<u32>) -> Result<(), Error> {
        if content > 0 {
            self.frames.push(Frame { start: self.size, input, checksum });
        }
        let size = self.size.checked_add(content).filter(|size| *size <= MAX_SIZE);
        self.size = size.ok_or_else(|| refused("the disk would have more than 2^63-1 bytes"))?;
        Ok(())
    }

    /// Reads the seek table at the end of the file. Returns false if there is none.
    fn read_table(&mut self, file: &mut Pages, most: usize) -> Result<bool, Error> {
        let mut footer = [0; FOOTER as usize];
        let Some(footer_start) = file.size().checked_sub(FOOTER) else { return Ok(false) };
        file.read(footer_start, &mut footer)?;
        let footer = Header(&footer);
        let (count, flags) = (footer.le_u32(0), footer.u8(4));
        if footer.le_u32(5) != TABLE_FOOTER {
            return Ok(false);
        }
        let wrong = |what: &str| damaged(footer_start, &format!("the seek table {what}"));
        if flags & 0x7c != 0 {
            return Err(wrong("has flags that are unknown"));
        }
        if count as usize > most {
            return Err(wrong(&format!("has {count} frames, and at most {most} are supported")));
        }
        let has_checksums = flags & 0x80 != 0;
        let entry = if has_checksums { 12 } else { 8 };
        let length = u64::from(count) * entry + FOOTER;
        let start = file.size().checked_sub(length + 8);
        let start = start.ok_or_else(|| wrong("is longer than the file"))?;
        if (file.le_u32(start)?, file.le_u32(start + 4)?.into()) != (TABLE, length) {
            return Err(wrong("is not in a frame of its length"));
        }
        for number in 0..u64::from(count) {
            let at = start + 8 + number * entry;
            let checksum = if has_checksums { Some(file.le_u32(at + 8)?) } else { None };
            let content = file.le_u32(at + 4)?;
            self.add(self.end, content.into(), checksum)?;
            self.end += u64::from(file.le_u32(at)?);
        }
        if self.end != start {
            return Err(wrong("is for more or less than there is before it"));
        }
        Ok(true)
    }

    /// Goes from frame to frame.
    fn walk(
        &mut self,
        file: &mut Pages,
        most: usize,
        size: Option<u64>,
        mut count: impl FnMut(Range<u64>) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some((magic, length)) = next(file, at)? {
            if magic == MAGIC {
                if found.len() >= most {
                    return Err(damaged(at, &format!("there are more than {most} frames")));
                }
                let (end, content) = frame(file, at)?;
                found.push((at..end, content));
                at = end;
            } else {
                at += 8 + length;
            }
        }
        // The size of the disk is that of all, so it tells that of one.
        let known = found.iter().filter_map(|(_, content)| *content);
        let known = known.fold(0_u64, u64::saturating_add);
        let unknown = found.iter().filter(|(_, content)| content.is_none()).count();
        let told = match size {
            Some(size) if unknown == 1 => Some(size.checked_sub(known).ok_or_else(|| {
                refused(format!(
                    "zstd-size={size} is too small: the frames that tell their sizes have {known} bytes"
                ))
            })?),
            _ => None,
        };
        for (input, content) in found {
            let content = match content.or(told) {
                Some(content) => content,
                None => count(input.clone())?,
            };
            self.add(input.start, content, None)?;
            self.end = input.end;
        }
        if let Some(size) = size.filter(|size| *size != self.size) {
            return Err(refused(format!(
                "zstd-size={size} is wrong: the file has a disk of {} bytes",
                self.size
            )));
        }
        Ok(())
    }
}

fn is_frame(magic: u32) -> bool {
    magic == MAGIC || magic & !0xf == SKIPPABLE
}

/// Returns what the frame at an offset begins with, and the next four bytes, or `None` at the end. Zeroes
/// can follow the last frame, as on a device that is larger than the file.
fn next(file: &mut Pages, at: u64) -> Result<Option<(u32, u64)>, Error> {
    let mut start = [0; 8];
    let present = file.size().saturating_sub(at).min(8) as usize;
    file.read(at, &mut start[..present])?;
    let magic = Header(&start).le_u32(0);
    if present == 0 || (at > 0 && magic == 0) {
        return Ok(None);
    }
    let length = u64::from(Header(&start).le_u32(4));
    if !is_frame(magic) {
        return Err(damaged(at, "no frame begins there"));
    }
    if magic != MAGIC && (present < 8 || length > file.size() - at - 8) {
        return Err(damaged(at, "it ends in the middle of a frame"));
    }
    Ok(Some((magic, length)))
}

/// Returns the end of the frame at an offset, and the size of its content if it tells it.
fn frame(file: &mut Pages, start: u64) -> Result<(u64, Option<u64>), Error> {
    let cut = || damaged(start, "it ends in the middle of a frame");
    let mut header = [0; MAX_HEADER as usize];
    let present = (file.size() - start).min(MAX_HEADER) as usize;
    file.read(start, &mut header[..present])?;
    let header = Header(&header);
    let flags = header.u8(4);
    let is_single = flags & 0x20 != 0;
    let window = usize::from(!is_single);
    let dictionary = [0, 1, 2, 4][usize::from(flags & 3)];
    let at = 5 + window + dictionary;
    let (length, content) = match flags >> 6 {
        0 if is_single => (1, Some(u64::from(header.u8(at)))),
        0 => (0, None),
        1 => (2, Some(u64::from(header.le_u16(at)) + 256)),
        2 => (4, Some(u64::from(header.le_u32(at)))),
        _ => (8, Some(header.le_u64(at))),
    };
    let mut at = start + (at + length) as u64;
    loop {
        let mut block = [0; 3];
        if at.checked_add(3).is_none_or(|end| end > file.size()) {
            return Err(cut());
        }
        file.read(at, &mut block)?;
        let block = Header(&block).le_u32(0);
        at += 3 + match block >> 1 & 3 {
            // A byte that is repeated.
            1 => 1,
            3 => return Err(damaged(at, "a block has an unknown type")),
            _ => u64::from(block >> 3),
        };
        if block & 1 != 0 {
            break;
        }
    }
    let checksum = if flags & 4 != 0 { 4 } else { 0 };
    at += checksum;
    if at > file.size() { Err(cut()) } else { Ok((at, content)) }
}
