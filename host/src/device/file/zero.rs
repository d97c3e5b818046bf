//! Zeroing and trimming.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{self, ReadWriteFlags, retry_on_intr};

use super::error::Failure;
use super::open_file::OpenFile;
use super::support::Support;
use crate::block::Span;
use crate::device::Cancelled;
use crate::device::zero::{MAX_WRITTEN, ZEROES, Zero};

impl OpenFile {
    /// Zeroes a span. Stops early if zeroes are written and the client has gone away.
    pub(super) fn zero(&self, zero: Zero, cancelled: &Cancelled) -> Result<(), Failure> {
        let [head, blocks, tail] = self.split(zero.span);
        // First, because a fast zero that is refused must change nothing.
        if blocks.length > 0 {
            self.zero_blocks(Zero { span: blocks, ..zero }, cancelled)?;
        }
        self.write_zeroes(head, cancelled)?;
        self.write_zeroes(tail, cancelled)?;
        self.sync_if(zero.fua)
    }

    /// Gives up the content of the whole blocks in a span, if the file system supports it.
    pub(super) fn trim(&self, span: Span, fua: bool) -> Result<(), Failure> {
        let [_, blocks, _] = self.split(span);
        if blocks.length > 0 {
            self.punch_hole(blocks).transpose()?;
        }
        self.sync_if(fua)
    }

    fn zero_blocks(&self, zero: Zero, cancelled: &Cancelled) -> Result<(), Failure> {
        let Zero { span, keep_allocated, fast, .. } = zero;
        let punched = if keep_allocated { None } else { self.punch_hole(span) };
        match punched.or_else(|| self.zero_range(span, fast)) {
            Some(result) => Ok(result?),
            None if fast => Err(Failure::NotFast),
            None if span.length > MAX_WRITTEN => Err(Failure::TooLong),
            None => self.write_zeroes(span, cancelled),
        }
    }

    fn punch_hole(&self, span: Span) -> Option<io::Result<()>> {
        self.fallocate(&self.punch, FallocateFlags::PUNCH_HOLE, span)
    }

    fn zero_range(&self, span: Span, fast: bool) -> Option<io::Result<()>> {
        if fast && self.is_block_device {
            // The kernel writes the zeroes if the device cannot.
            return None;
        }
        self.fallocate(&self.zero_range, FallocateFlags::ZERO_RANGE, span)
    }

    fn fallocate(
        &self,
        support: &Support,
        mode: FallocateFlags,
        span: Span,
    ) -> Option<io::Result<()>> {
        let mode = mode | FallocateFlags::KEEP_SIZE;
        support.attempt(|| retry_on_intr(|| fallocate(&self.fd, mode, span.offset, span.length)))
    }

    fn write_zeroes(&self, span: Span, cancelled: &Cancelled) -> Result<(), Failure> {
        let mut left = span;
        while left.length > 0 && !cancelled.is_cancelled() {
            let length = left.length.min(ZEROES.len() as u64);
            self.write_all(left.offset, &ZEROES[..length as usize], ReadWriteFlags::empty())?;
            left = left.after(length);
        }
        Ok(())
    }

    /// Splits a span into part of a block, whole blocks, and part of a block; each may be empty.
    /// Block devices refuse `fallocate` for parts of blocks.
    fn split(&self, span: Span) -> [Span; 3] {
        let end = span.end() / self.block * self.block;
        let start = span.offset.next_multiple_of(self.block);
        if start >= end {
            let empty = Span { offset: span.end(), length: 0 };
            return [span, empty, empty];
        }
        [(span.offset, start), (start, end), (end, span.end())]
            .map(|(offset, end)| Span { offset, length: end - offset })
    }
}
